"""Many at once get what each would get alone: the point where libraries that share a model answer wrongly."""

import base64
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.explainers.base import registry
from service.settings import Settings
from tests.conftest import CATALOG, encoded, photograph, serving
from tests.tiny import model_of

THREADS, REQUESTS = 8, 300
# Small enough for hundreds; what is not here runs with its defaults.
PARAMS = {
    "filters": [{"steps": 2, "channels": [1]}, {"steps": 2, "channels": [3], "parametrisation": "pixel"}],
    "blur-ig": [{"steps": 4}, {"steps": 5, "blur": 3}],
    "gradient-shap": [{"samples": 5}, {"samples": 6, "baseline": "black+blur", "noise": 0.1}],
    "gradient-x-input": [{}, {"colours": "keep"}],
    "guided-grad-cam": [{}, {"layer": "conv1"}],
    "guided-ig": [{"steps": 4}, {"steps": 5, "baseline": "black", "band": 0.5}],
    "integrated-gradients": [{"steps": 2}, {"steps": 3, "baseline": "white+blur", "rule": "midpoint"}],
    "smooth-grad": [{"samples": 2}, {"samples": 3, "seed": 1}],
    "var-grad": [{"samples": 2}, {"samples": 3, "statistic": "square"}],
    "xrai": [{"steps": 2}],
    "extremal-perturbation": [{"steps": 10}, {"steps": 12, "areas": [0.2, 0.5], "mirror": False}],
    "hsic": [{"samples": 32, "cells": 3}, {"samples": 40, "seed": 1, "space": "normalised"}],
    "kernel-shap": [{"samples": 40, "count": 9}, {"samples": 32, "count": 4, "segments": "squares"}],
    "lime": [{"samples": 40, "count": 9}, {"samples": 30, "hidden": "segment", "score": "logit"}],
    "partition-shap": [{"evaluations": 40}, {"evaluations": 30, "hidden": "black"}],
    "rise": [{"masks": 40}, {"masks": 30, "cells": 4, "seed": 1, "normalise": "expectation"}],
    "segment-ablation": [{}, {"count": 9, "segments": "squares", "hidden": "blur"}],
    "sobol": [{"designs": 4, "cells": 3}, {"designs": 5, "cells": 2, "seed": 1}],
    "occlusion": [{"window": 12, "stride": 8}, {"window": 8, "stride": 8, "fill": "blur", "score": "logit"}],
    "saliency": [{}, {"smooth_samples": 3}, {"sign": "signed"}],
    "score-cam": [{}, {"layer": "conv1", "score": "logit"}],
    "grad-cam": [{}, {"layer": "conv1"}, {"relu": False}],
    "grad-cam++": [{}, {"layer": "relu1"}],
    "is-cam": [{"samples": 2}, {"samples": 2, "path": "published", "score": "logit"}],
    "layer-cam": [{}, {"layers": ["conv1"]}, {"layers": ["conv1", "relu2"]}],
    "smooth-grad-cam++": [{"samples": 3}, {"samples": 2, "seed": 1, "layer": "relu1"}],
    "ss-cam": [{"samples": 2}, {"samples": 2, "seed": 1, "layer": "conv1"}],
    "ablation-cam": [{}, {"layer": "conv1"}, {"layer": "bn1", "score": "logit"}],
    "recipro-cam": [{"layer": "pool1"}, {"layer": "conv2", "kernel": "gaussian"}],
    "eigen-cam": [{}, {"layer": "conv1", "centre": False}],
    "finer-cam": [{}, {"references": [0, 4]}],
    "hires-cam": [{}, {"layer": "bn1", "each": True}],
    "feature-factorisation": [{"parts": 2}, {"layer": "relu1", "parts": 3}],
    "xgrad-cam": [{}, {"layer": "relu1"}],
    "lrp": [{}, {"rules": "epsilon-gamma-box"}, {"rules": "epsilon"}],
    "excitation-backprop": [{}, {"at": "input"}, {"layer": "relu1"}],
    "full-grad": [{}, {"aggregate": "sum"}],
    "deconvnet": [{}, {"layer": "conv2", "keep": "channel"}],
    "feature-maps": [{}, {"layers": ["conv1", "relu2"]}],
}


@pytest.fixture(scope="module")
def pictures():
    whole = photograph("chelsea")
    return [base64.b64encode(encoded(whole.crop((60 * i, 0, 60 * i + 200, 200)))).decode() for i in range(4)]


def _requests(pictures):
    random.seed(0)
    for i in range(REQUESTS):
        method = list(registry())[i % len(registry())]
        any_will_do = model_of(method) == "tiny" and method not in ("cam", "finer-cam")
        model = random.choice(["tiny", "tiny-regression"]) if any_will_do else model_of(method)
        params = dict(random.choice(PARAMS.get(method, [{}])))
        if model == "tiny-regression":
            params.pop("score", None)  # its only score is its value
        request = {
            "model": model,
            "params": params,
            "output": {"heatmap": False, "overlay": False},
        }
        if registry()[method].needs_image:
            request["image"] = random.choice(pictures)
        if registry()[method].takes_targets and model != "tiny-regression":
            request["targets"] = random.sample(range(5), random.randint(1, 3))
        yield method, request


def test_mixed_requests_answer_as_alone(pictures):
    asked = list(_requests(pictures))
    assert {method for method, _ in asked} == {*registry()}
    with serving(Settings(catalog=CATALOG, device="cpu", score_cache_mib=0)) as client:

        def ask(request):
            method, body = request
            response = client.post(f"/explain/{method}", json=body)
            assert response.status_code == 200, response.text
            return response.json()

        alone = {str(request): ask(request) for request in asked}
        with ThreadPoolExecutor(THREADS) as pool:
            together = list(pool.map(ask, asked))
    shared = 0
    for request, found in zip(asked, together, strict=True):
        expected = alone[str(request)]
        shared += found["usage"]["batch_rows_mean"] > expected["usage"]["batch_rows_mean"]
        assert [m["target"] and m["target"]["index"] for m in found["maps"]] == [
            m["target"] and m["target"]["index"] for m in expected["maps"]
        ]
        for a, b in zip(found["maps"], expected["maps"], strict=True):
            one, other = np.array(a["array"]["data"]), np.array(b["array"]["data"])
            assert one.shape == other.shape
            assert np.abs(one - other).max() <= 1e-5 * max(1.0, np.abs(other).max()), request[0]
    assert shared > REQUESTS / 10  # or else nobody ever shared a batch, and the test shows nothing
