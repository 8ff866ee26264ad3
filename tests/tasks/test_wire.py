"""Tasks over HTTP: what is predicted, asked and answered of networks of every kind."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.client import wire
from service.settings import Settings
from tests.conftest import encoded, serving

CATALOG = Path(__file__).parent / "catalog.toml"


@pytest.fixture(scope="module")
def client():
    with serving(Settings(catalog=CATALOG, device="cpu")) as client:
        yield client


def _noise(seed, size=(40, 64)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def _text(image):
    return base64.b64encode(encoded(image)).decode()


PICTURE = _noise(0)  # 64 x 40: the network sees its middle, 40 x 40 pixels from (12, 0) on


def _ask(client, path, model, **more):
    return client.post(path, json={"image": _text(PICTURE), "model": model, **more})


def _named(prediction):
    return {key: prediction.get(key) for key in ("index", "label", "rank")}


def _numbers(prediction):
    return [*prediction.get("box", ()), *(value for value in prediction.values() if isinstance(value, float))]


def _predict(client, model):
    answer = _ask(client, "/predict", model)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_predictions_are_worded_by_the_task(client) -> None:
    found = {m: _predict(client, m) for m in ("multilabel", "binary", "unsaid", "segmenter", "detector", "embedding")}
    tasks = {name: (answer["model"]["task"], answer["model"]["task_assumed"]) for name, answer in found.items()}
    assert tasks == {
        "multilabel": ("multilabel", False),
        "binary": ("binary", False),
        "unsaid": ("classification", True),
        "segmenter": ("segmentation", False),
        "detector": ("detection", False),
        "embedding": ("embedding", False),
    }
    fields = {name: set(answer["predictions"][0]) for name, answer in found.items()}
    scored = {"index", "label", "probability", "logit"}
    assert fields == {
        "multilabel": scored,
        "binary": scored,
        "unsaid": scored,
        "segmenter": {"index", "label", "share"},
        "detector": {"rank", "index", "label", "score", "box"},
        "embedding": {"norm"},
    }
    assert len(found["binary"]["predictions"]) == 1
    x0, y0, x1, y1 = found["detector"]["predictions"][0]["box"]
    assert 12 - 2 <= x0 < x1 <= 52 + 2
    assert 0 <= y0 < y1 <= 42


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("multilabel", [1, {"class": 0, "against": [2, 3]}]),
        ("binary", [0]),
        ("segmenter", [{"class": 2, "region": [20, 8, 40, 30]}, {"class": 1, "region": {"mask": 2}}]),
        ("detector", [{"detection": 0}, {"box": [14, 2, 30, 20], "class": 1}]),
        ("embedding", [{"like": [0], "unlike": [1]}, {"like": [1]}]),
    ],
)
@pytest.mark.parametrize("method", ["occlusion", "score-cam", "saliency", "grad-cam"])
def test_every_kind_of_method_explains_every_task(client, model, targets, method) -> None:
    mask = Image.new("L", PICTURE.size)
    mask.paste(255, (20, 10, 40, 30))
    pictures = [_text(_noise(1)), _text(_noise(2)), _text(mask)]
    params = {"window": 16, "stride": 16} if method == "occlusion" else {}
    answer = _ask(client, f"/explain/{method}", model, targets=targets, pictures=pictures, params=params)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [m["target"]["asked"] for m in body["maps"]] == targets
    assert all(np.isfinite(m["min"]) for m in body["maps"])
    alone = _predict(client, model)["predictions"]
    assert [_named(said) for said in body["predictions"]] == [_named(said) for said in alone]
    for said, other in zip(body["predictions"], alone, strict=True):
        assert _numbers(said) == pytest.approx(_numbers(other), rel=1e-4, abs=1e-5)
    if method in ("occlusion", "saliency"):
        assert not any(m["flat"] for m in body["maps"])
        value = model in ("detector", "embedding")
        assert body["params"]["score"] == ("value" if value else "probability" if method == "occlusion" else "logit")


def test_methods_choose_for_those_who_name_nothing(client) -> None:
    for model in ("multilabel", "binary", "segmenter", "detector"):
        answer = _ask(client, "/explain/saliency", model)
        assert answer.status_code == 200, answer.text
        assert answer.json()["maps"]
    refused = _ask(client, "/explain/saliency", "embedding")
    assert refused.status_code == 422
    assert refused.json()["type"].endswith("not-applicable")


def test_around_a_mask_that_is_padded_there_is_none_of_it(client) -> None:
    """The mean colour, which a padded picture has around it, is lighter than half in some models."""
    targets = [{"class": 1, "region": {"mask": 0}}]
    answer = _ask(
        client, "/explain/saliency", "padded", targets=targets, pictures=[_text(Image.new("L", PICTURE.size))]
    )
    assert answer.status_code == 422, answer.text
    assert "the mask is empty" in answer.json()["errors"][0]["detail"]


SMALL = _text(_noise(1, (9, 9)))
TWO = [_text(_noise(1)), _text(_noise(2))]


@pytest.mark.parametrize(
    ("model", "more", "pointer"),
    [
        ("detector", {"params": {"score": "probability"}}, "/params/score"),
        ("multilabel", {"params": {"score": "value"}}, "/params/score"),
        ("multilabel", {"targets": [{"class": 9}]}, "/targets/0/class"),
        ("embedding", {"targets": [{"like": [0]}]}, "/targets/0/like/0"),
        ("segmenter", {"targets": [{"class": 1, "region": [900, 900, 999, 999]}]}, "/targets/0/region"),
        (
            "segmenter",
            {"targets": [{"class": 1, "region": {"mask": 0}}], "pictures": [SMALL]},
            "/pictures/0",
        ),
        ("embedding", {"targets": [{"like": [0]}], "pictures": ["%%%"]}, "/pictures/0"),
        ("detector", {"targets": [{"detection": 99}]}, "/targets/0/detection"),
    ],
)
def test_mistakes_are_named_by_their_field(client, model, more, pointer) -> None:
    answer = _ask(client, "/explain/saliency", model, **more)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_further_pictures_come_as_parts_too(client) -> None:
    request = {"model": "embedding", "targets": [{"like": [0, 1]}]}
    first, second = encoded(_noise(1)), encoded(_noise(2))
    files = [
        ("image", ("a.png", encoded(PICTURE))),
        ("request", (None, json.dumps(request))),
        ("pictures", ("b.png", first)),
        ("pictures", ("c.png", second)),
    ]
    parts = client.post("/explain/saliency", files=files)
    assert parts.status_code == 200, parts.text
    whole = _ask(
        client,
        "/explain/saliency",
        "embedding",
        targets=request["targets"],
        pictures=[_text(_noise(1)), _text(_noise(2))],
    )
    assert parts.json()["maps"][0]["array"] == whole.json()["maps"][0]["array"]


def test_a_picture_without_a_finite_answer_is_an_error_and_no_null(client) -> None:
    black = {"image": _text(Image.new("RGB", (32, 32))), "model": "dark"}
    for path in ("/predict", "/explain/grad-cam", "/explain/occlusion", "/explain/score-cam"):
        answer = client.post(path, json=black)
        assert answer.status_code == 422, (path, answer.text)
        assert answer.json()["type"].endswith("model-output")
        assert "another picture" in answer.json()["detail"]
    assert client.post("/predict", json=black | {"image": _text(PICTURE)}).status_code == 200


def test_what_was_checked_at_load_can_be_read(client) -> None:
    info = client.get("/models/unsaid").json()
    assert (info["task"], info["task_assumed"], info["scale"]) == ("classification", True, "logits")
    checks = {check["name"]: check for check in info["checks"]}
    assert checks["task"]["outcome"] == "warning"
    assert "multilabel" in checks["task"]["remedy"]
    assert checks["repeatable"]["outcome"] == "passed"
    layers = {layer["path"]: layer for layer in client.get("/models/unsaid/layers").json()["layers"]}
    assert layers["act"]["layout"] == "chw"


TARGETS = {
    "multilabel": [1, 0],
    "binary": [0],
    "segmenter": [{"class": 1, "region": [12, 0, 40, 40]}],
    "detector": None,
    "embedding": [{"like": [0]}],
    "dark": [1],
}


@pytest.mark.parametrize("model", TARGETS)
def test_networks_of_every_kind_are_compared(client, model) -> None:
    fields = {"methods": ["occlusion", "saliency"], "metrics": ["sparsity", "random-logit", "curves"]}
    if TARGETS[model] is not None:
        fields["targets"] = TARGETS[model]
    if model == "embedding":
        fields["pictures"] = [_text(_noise(1))]
    answer = _ask(client, "/compare", model, **fields)
    assert answer.status_code == 200, answer.text
    read = wire.CompareResponse.model_validate(answer.json())
    for method in read.methods:
        assert method.problem is None, method.problem
        assert len(method.maps) == len(TARGETS[model] or [0])
        for one in method.maps:
            gain = one.faithfulness.gain
            assert (gain.blur is None or gain.mean is None) == (gain.reason is not None)
            assert one.metrics.sparsity is not None
    assert len(read.controls) == len(TARGETS[model] or [0])
    given = {**fields, "faithfulness": True}
    del given["methods"], given["metrics"]
    alone = _ask(client, "/explain/saliency", model, **given)
    assert alone.status_code == 200, alone.text
    for one, other in zip(alone.json()["maps"], read.methods[1].maps, strict=True):
        for name in ("blur", "mean"):
            expected = getattr(other.faithfulness.gain, name)
            found = one["faithfulness"]["gain"][name]
            assert found == (None if expected is None else pytest.approx(expected, rel=0.05, abs=0.05))


def test_an_embedding_is_held_against_further_pictures_by_the_inference_protocol(client) -> None:
    other = _text(_noise(1))
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": [data]}
        for name, data in (("image", _text(PICTURE)), ("targets", '{"like": [0]}'), ("pictures", other))
    ]
    optional = [one["name"] for one in client.get("/v2/models/embedding").json()["inputs"] if one.get("optional")]
    assert optional == ["targets", "pictures"]
    path, outputs = "/v2/models/embedding/infer", [{"name": "occlusion"}]
    answer = client.post(path, json={"inputs": inputs, "outputs": outputs})
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["outputs"]
    native = _ask(client, "/explain/occlusion", "embedding", targets=[{"like": [0]}], pictures=[other])
    (expected,) = native.json()["maps"]
    assert found["shape"] == [1, 1, *expected["array"]["shape"]]
    np.testing.assert_allclose(found["data"], np.ravel(expected["array"]["data"]), rtol=1e-3, atol=1e-5)
    inputs[2]["data"] = ["!"]
    wrong = client.post(path, json={"inputs": inputs, "outputs": outputs})
    assert [one["pointer"] for one in wrong.json()["errors"]] == ["/inputs/2/data/0"]
