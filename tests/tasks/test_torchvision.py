"""torchvision's detectors and segmenters load with random weights, and answer."""

import base64
import json

import numpy as np
import pytest

from service.settings import Settings
from tests.conftest import encoded, photograph, serving

# Segmenters take any size: a small one is enough to see that they are read as they are meant.
CATALOG = """
[models.boxes]
source = "ssdlite320_mobilenet_v3_large=random"
[models.pixels]
source = "lraspp_mobilenet_v3_large=random"
input_size = 128
resize = 128
[models.deeper]
source = "deeplabv3_mobilenet_v3_large=random"
input_size = 96
resize = 96
"""
MODELS = {"boxes": "detection", "pixels": "segmentation", "deeper": "segmentation"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    file = tmp_path_factory.mktemp("torchvision") / "models.toml"
    file.write_text(CATALOG)
    with serving(Settings(catalog=file, device="cpu")) as client:
        yield client


def _ask(client, path, model, **more):
    request = json.dumps({"model": model} | more)
    return client.post(path, files={"image": encoded(photograph("astronaut"))}, data={"request": request})


@pytest.mark.parametrize("model", MODELS)
def test_they_load_as_what_they_are(client, model) -> None:
    info = client.get(f"/models/{model}").json()
    assert info["status"] == "ready", info
    assert (info["task"], info["task_assumed"]) == (MODELS[model], False)
    assert info["labels"] == (91 if model == "boxes" else 21)
    assert "gradient" in {check["name"] for check in info["checks"] if check["outcome"] == "passed"}


@pytest.mark.parametrize("model", MODELS)
def test_they_predict(client, model) -> None:
    answer = _ask(client, "/predict", model)
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    if model == "boxes":
        assert [one["rank"] for one in found] == list(range(len(found)))
        scores = [one["score"] for one in found]
        assert scores == sorted(scores, reverse=True)
        for one in found:
            x0, y0, x1, y1 = one["box"]
            assert -1 <= x0 < x1 <= 513
            assert -1 <= y0 < y1 <= 513
    else:
        assert 0 < sum(one["share"] for one in found) <= 1 + 1e-6


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["saliency", "grad-cam", "occlusion"])
def test_they_are_explained(client, model, method) -> None:
    params = {"window": 128, "stride": 128} if method == "occlusion" else {}
    output = {"array": "base64", "heatmap": False, "overlay": False}
    answer = _ask(client, f"/explain/{method}", model, params=params, output=output)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["maps"]
    values = np.frombuffer(base64.b64decode(found["array"]["data"]), np.float32)
    assert np.isfinite(values).all()
    if method != "occlusion":
        assert not found["flat"]
