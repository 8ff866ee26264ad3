"""What the service promises on the wire, for each registered method."""

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.client import wire
from service.explainers.base import registry
from tests.conftest import encoded, photograph
from tests.parity import few
from tests.tiny import model_of

PHOTO = photograph("chelsea").resize((61, 40))
PNG = encoded(PHOTO)
BASE64 = base64.b64encode(PNG).decode()
_OWN = {
    "extremal-perturbation": {"steps": 10},
    "filters": {"steps": 2, "channels": [1, 0]},
    "guided-ig": {"steps": 8},
    "occlusion": {"window": 8, "stride": 8},
}
METHODS = sorted(registry())
QUICK = {
    name: {key: value for key, value in few(registry()[name]).items() if key != "channels"} | _OWN.get(name, {})
    for name in METHODS
}
SHARED = {"partition-shap"}  # halves rectangles where any target's value is large: its maps are estimates of all
TARGETED = [name for name, cls in registry().items() if cls.takes_targets]


def fields(method: str, **more: Any) -> dict[str, Any]:
    """Return a quick request of a method, without the picture."""
    return {"model": model_of(method), "params": QUICK[method], **more}


def post(client: httpx.Client, method: str, accept: str = "*/*", **more: Any) -> httpx.Response:
    """Ask for an explanation, in JSON."""
    image = {"image": BASE64} if registry()[method].needs_image else {}
    return client.post(f"/explain/{method}", json=fields(method, **more) | image, headers={"accept": accept})


def answer(client: httpx.Client, method: str, **more: Any) -> dict[str, Any]:
    """Return an explanation's answer."""
    response = post(client, method, **more)
    assert response.status_code == 200, response.text
    return response.json()


def lasting(body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what differs each time."""
    return body | {"id": "", "usage": {key: body["usage"][key] for key in ("dtype", "exact")}}


def _assert_same(values: np.ndarray, one: dict[str, Any]) -> None:
    """Two answers' arrays agree but for the last digits: their rows may have been in batches of other sizes."""
    np.testing.assert_allclose(values, np.asarray(one["array"]["data"], np.float32), rtol=1e-4, atol=1e-5)


def picture(text: str) -> Image.Image:
    """Decode a PNG in base64."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    assert image.format == "PNG"
    return image


# Requests and answers


@pytest.mark.parametrize("method", METHODS)
def test_answer_is_as_documented(client: httpx.Client, method: str) -> None:
    cls, raw = registry()[method], answer(client, method)
    found = wire.ExplainResponse.model_validate(raw)
    assert (found.method, found.model.name) == (method, model_of(method))
    assert cls.model_validate(found.params).model_dump(exclude={"layer", "layers"}) == cls.model_validate(
        QUICK[method]
    ).model_dump(exclude={"layer", "layers"})
    assert "layer" not in found.params or found.params["layer"] == "relu2"
    assert found.usage.forwards > 0 or found.usage.cache != "none"
    assert found.maps
    for i, one in enumerate(found.maps):
        assert one.array is not None
        values = np.asarray(one.array.data, np.float32)
        assert list(values.shape) == one.array.shape == raw["maps"][i]["array"]["shape"]
        assert (one.min, one.max) == (values.min(), values.max())
        assert one.min == one.max if one.flat else (one.min, one.max) != (0, 0)
        assert one.all_negative == (not one.flat and one.max <= 0)
        assert one.heatmap is not None
        assert picture(one.heatmap).size
        assert one.overlay is None or picture(one.overlay).size
        assert (one.target is None) == (not cls.takes_targets and method != "ram")
    if cls.needs_image:
        assert found.image is not None
        assert (found.image.width, found.image.height) == PHOTO.size
        assert found.image.box == pytest.approx([10.5, 0, 50.5, 40], abs=1)
        assert [p.index for p in found.predictions]
    else:
        assert found.image is None


@pytest.mark.parametrize("method", METHODS)
def test_json_and_multipart_agree(client: httpx.Client, method: str) -> None:
    files = {"image": ("cat.png", PNG)} if registry()[method].needs_image else {}
    parts = {**files, "request": (None, json.dumps(fields(method)))}
    multipart = client.post(f"/explain/{method}", files=parts).json()
    assert lasting(multipart) == lasting(answer(client, method))


def test_request_part_may_be_a_file_and_image_a_data_uri(client: httpx.Client) -> None:
    expected = lasting(answer(client, "cam", targets=[3]))
    asked = json.dumps(fields("cam", targets=[3])).encode()
    parts = client.post("/explain/cam", files={"image": PNG, "request": ("r.json", asked, "application/json")})
    assert lasting(parts.json()) == expected
    wrapped = base64.encodebytes(PNG).decode()  # lines of 76 letters
    assert "\n" in wrapped.strip()
    for image in ("data:image/png;base64," + BASE64, wrapped):
        sent = client.post("/explain/cam", json=fields("cam", targets=[3]) | {"image": image})
        assert lasting(sent.json()) == expected


def test_prediction(client: httpx.Client) -> None:
    multipart = client.post("/predict", files={"image": PNG}).json()
    found = wire.PredictResponse.model_validate(multipart)
    assert lasting(client.post("/predict", json={"image": BASE64}).json()) == lasting(multipart)
    assert [p.index for p in sorted(found.predictions, key=lambda p: -(p.logit or 0))] == [
        p.index for p in found.predictions
    ]
    assert sum(p.probability or 0 for p in found.predictions) == pytest.approx(1)
    assert {(p.index, p.label) for p in found.predictions} == set(
        enumerate(["apple", "banana", "cherry", "cherry", "Elderberry"])
    )
    assert all(p.value is None for p in found.predictions)
    two = client.post("/predict", json={"image": BASE64, "top_k": 2}).json()
    assert two["predictions"] == multipart["predictions"][:2]
    measured = client.post("/predict", json={"image": BASE64, "model": "tiny-regression"}).json()
    assert [set(p) for p in measured["predictions"]] == [{"index", "label", "value"}]


@pytest.mark.parametrize("method", METHODS)
def test_first_picture_and_array_alone(client: httpx.Client, method: str) -> None:
    body = answer(client, method)
    first = body["maps"][0]
    drawn = post(client, method, "image/png")
    assert drawn.headers["content-type"] == "image/png"
    assert base64.b64encode(drawn.content).decode() == (first["overlay"] or first["heatmap"])
    array = post(client, method, "application/x-npy")
    assert array.headers["content-type"] == "application/x-npy"
    values = np.load(io.BytesIO(array.content), allow_pickle=False)
    assert values.dtype == np.dtype("<f4")
    _assert_same(values, first)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("image/*", "image/png"),
        ("text/html, image/png;q=0.9, application/json;q=0.1", "image/png"),
        ("application/json;q=0.5, application/x-npy;q=0.6", "application/x-npy"),
        ("image/png;q=0, application/json", "application/json"),
        ("image/png;q=much", "application/json"),
    ],
)
def test_accept(client: httpx.Client, accept: str, kind: str) -> None:
    assert post(client, "cam", accept).headers["content-type"] == kind


@pytest.mark.parametrize("method", METHODS)
def test_base64_array_is_the_json_array(client: httpx.Client, method: str) -> None:
    lists = answer(client, method)["maps"]
    packed = answer(client, method, output={"array": "base64", "heatmap": False, "overlay": False})["maps"]
    for one, other in zip(lists, packed, strict=True):
        wire = other["array"]
        assert (wire["dtype"], wire["encoding"]) == ("float32", "base64")
        values = np.frombuffer(base64.b64decode(wire["data"]), "<f4").reshape(wire["shape"])
        _assert_same(values, one)


@pytest.mark.parametrize("method", TARGETED)
def test_several_targets_answer_in_order(client: httpx.Client, method: str) -> None:
    maps = answer(client, method, targets=[4, "APPLE", 2, 4])["maps"]
    assert [(m["target"]["index"], m["target"]["label"]) for m in maps] == [
        (4, "Elderberry"),
        (0, "apple"),
        (2, "cherry"),
        (4, "Elderberry"),
    ]
    assert maps[0] == maps[3]
    assert maps[0]["array"] != maps[1]["array"]
    alone = answer(client, method, targets=[2, 0, 4] if method in SHARED else [2])["maps"][0]
    expected = np.asarray(alone["array"]["data"])
    # What is nearly zero is a difference of larger numbers, which depend on how many rows were run together.
    np.testing.assert_allclose(maps[2]["array"]["data"], expected, rtol=1e-4, atol=2e-4 * np.abs(expected).max())
    assert maps[2]["target"]["score"] == pytest.approx(alone["target"]["score"], rel=1e-5)


@pytest.mark.parametrize("targets", [None, []])
def test_the_top_class_is_the_default_target(client: httpx.Client, targets: list[int] | None) -> None:
    body = answer(client, "saliency", targets=targets)
    assert [m["target"]["index"] for m in body["maps"]] == [body["predictions"][0]["index"]]


# Output options


def test_what_is_not_wanted_is_left_out(client: httpx.Client) -> None:
    full = answer(client, "cam")["maps"][0]
    for name, nothing in (("heatmap", False), ("overlay", False), ("array", "none")):
        assert answer(client, "cam", output={name: nothing})["maps"][0] == full | {name: None}


def test_drawing_options(client: httpx.Client) -> None:
    def drawn(key: str, **output: Any) -> Image.Image:
        return picture(answer(client, "cam", output=output)["maps"][0][key]).convert("RGB")

    assert drawn("overlay").size == drawn("heatmap").size == (32, 32)
    assert drawn("overlay", size="original").size == drawn("heatmap", size="original").size == PHOTO.size
    assert drawn("overlay", size="original", opacity=0).tobytes() == PHOTO.convert("RGB").tobytes()
    assert drawn("overlay", opacity=1).tobytes() == drawn("heatmap").tobytes() != drawn("overlay").tobytes()
    grey = np.asarray(drawn("heatmap", colormap="gray"))
    assert (grey == grey[..., :1]).all()
    assert len(drawn("heatmap", colormap="tab10").getcolors()) <= 10
    assert not (np.asarray(drawn("heatmap")) == np.asarray(drawn("heatmap"))[..., :1]).all()


# Deadlines


def test_deadline(client: httpx.Client) -> None:
    every_pixel = {"timeout_s": 0.02, "params": {"window": 1, "stride": 1}}
    tries = [post(client, method, timeout_s=1e-9) for method in METHODS]
    tries += [
        client.post("/predict", json={"image": BASE64, "timeout_s": 1e-9}),
        post(client, "occlusion", **every_pixel),
    ]
    for response in tries:
        assert response.status_code == 504
        assert response.json()["type"] == "urn:heatlens:problem:deadline-exceeded"
        assert "timeout_s" in response.json()["detail"]
