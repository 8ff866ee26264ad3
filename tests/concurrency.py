"""Many at once get what each would get alone: `python -m tests.concurrency [--requests 400] [--threads 8] [--seed 0]`.

Requests to all methods in turn, with other models, pictures, targets and parameters, over HTTP: first one after the
other, then from many threads; each answer has to be the one it was. The suite asks fewer of them.
"""

import argparse
import base64
import random
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from service.explainers.base import registry
from service.settings import Settings
from tests.conftest import CATALOG, encoded, photograph, serving
from tests.tiny import model_of

Asked = tuple[str, Mapping[str, Any]]
TOLERANCE = 1e-5  # of the largest value, or of 1: rows that share a batch are rounded otherwise
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


def pictures() -> list[str]:
    """Return four parts of a photograph, as requests have them."""
    whole = photograph("chelsea")
    return [base64.b64encode(encoded(whole.crop((60 * i, 0, 60 * i + 200, 200)))).decode() for i in range(4)]


def requests(count: int, seed: int = 0) -> Iterator[Asked]:
    """Yield so many requests, each of the next method."""
    dice, given = random.Random(seed), pictures()
    for i in range(count):
        method = list(registry())[i % len(registry())]
        any_will_do = model_of(method) == "tiny" and method not in ("cam", "finer-cam")
        model = dice.choice(["tiny", "tiny-regression"]) if any_will_do else model_of(method)
        params = dict(dice.choice(PARAMS.get(method, [{}])))
        if model == "tiny-regression":
            params.pop("score", None)  # its only score is its value
        request: dict[str, Any] = {"model": model, "params": params, "output": {"heatmap": False, "overlay": False}}
        if registry()[method].needs_image:
            request["image"] = dice.choice(given)
        if registry()[method].takes_targets and model != "tiny-regression":
            request["targets"] = dice.sample(range(5), dice.randint(1, 3))
        yield method, request


@dataclass
class Compared:
    """What many at once were answered, against what each was answered alone."""

    differing: list[str]  # what is wrong, by request
    shared: int  # requests whose rows shared batches with others'
    apart: float = 0.0  # the largest difference
    alone_s: float = 0.0
    together_s: float = 0.0


def compare(asked: list[Asked], threads: int) -> Compared:
    """Ask one after the other, and then all at once."""
    with serving(Settings(catalog=CATALOG, device="cpu", score_cache_mib=0)) as client:
        began = time.monotonic()
        alone = {str(request): _ask(client, request) for request in asked}
        turned = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            together = list(pool.map(lambda request: _ask(client, request), asked))
        ended = time.monotonic()
    found = Compared([], 0, alone_s=turned - began, together_s=ended - turned)
    for request, answer in zip(asked, together, strict=True):
        expected = alone[str(request)]
        found.shared += answer["usage"]["batch_rows_mean"] > expected["usage"]["batch_rows_mean"]
        off = _apart(answer["maps"], expected["maps"])
        found.apart = max(found.apart, off)
        if off > TOLERANCE:
            found.differing.append(f"{request[0]} {request[1]['params']}: off by {off:.1e}")
    return found


def _ask(client: httpx.Client, request: Asked) -> Any:
    method, body = request
    response = client.post(f"/explain/{method}", json=body)
    assert response.status_code == 200, f"{method}: {response.text}"
    return response.json()


def _apart(found: list[Any], expected: list[Any]) -> float:
    """Return how far maps are apart; infinitely, where they are of other targets or shapes."""
    if [m["target"] and m["target"]["index"] for m in found] != [
        m["target"] and m["target"]["index"] for m in expected
    ]:
        return float("inf")
    off = 0.0
    for a, b in zip(found, expected, strict=True):
        one, other = np.array(a["array"]["data"]), np.array(b["array"]["data"])
        if one.shape != other.shape:
            return float("inf")
        off = max(off, float(np.abs(one - other).max() / max(1.0, np.abs(other).max())))
    return off


def main() -> int:
    """Say what differs; return 1 where anything does, or where nobody ever shared a batch."""
    parser = argparse.ArgumentParser(prog="python -m tests.concurrency", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    asked = list(requests(given.requests, given.seed))
    found = compare(asked, given.threads)
    print(
        f"{len(asked)} requests to {len({method for method, _ in asked})} methods, {given.threads} threads: "
        f"{len(found.differing)} differ, the furthest by {found.apart:.1e}; {found.shared} shared batches; "
        f"{found.alone_s:.1f} s one after the other, {found.together_s:.1f} s at once"
    )
    print("\n".join(found.differing))
    return int(bool(found.differing) or found.shared <= len(asked) / 10)


if __name__ == "__main__":
    sys.exit(main())
