"""Every mistake a caller can make is answered by a problem that names it and the remedy; odd but good pictures work."""

import base64
import json
import struct
import zlib
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.api import problems
from service.client.wire import Problem
from service.explainers.base import registry
from service.settings import Settings
from tests.conftest import CATALOG, encoded, photograph, serving

PHOTO = photograph("chelsea").resize((61, 40))
PNG, JPEG = encoded(PHOTO), encoded(PHOTO, "JPEG")
BASE64 = base64.b64encode(PNG).decode()
KINDS = {400: "malformed-request", 413: "too-large", 415: "unsupported-media-type", 422: "invalid-parameter"}


def problem(response: httpx.Response, status: int, kind: str = "") -> Problem:
    """Check that an answer is a problem of a kind, and complete; return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == problems.MEDIA_TYPE
    found = Problem.model_validate(response.json())
    assert found.type == f"urn:heatlens:problem:{kind or KINDS[status]}"
    assert (found.status, found.instance, found.error) == (status, response.request.url.path, found.title)
    assert found.detail
    return found


# Fields


@pytest.mark.parametrize(
    ("path", "fields", "status", "kind", "words"),
    [
        ("/predict", {"model": "tinny"}, 404, "unknown-model", "did you mean 'tiny'? Served are: tiny, tiny-reg"),
        ("/explain/cam", {"model": "resnet50"}, 404, "unknown-model", "served are: tiny"),
        ("/explain/grad-kam", {}, 404, "unknown-method", "did you mean 'grad-cam'? There are: "),
        ("/explain/cam", {"model": "tiny-vgg"}, 422, "not-applicable", "Use 'grad-cam'"),
        ("/explain/cam", {"model": "tiny-regression"}, 422, "not-applicable", "use 'ram'"),
        ("/explain/ram", {}, 422, "not-applicable", "use 'cam'"),
        ("/explain/deconvnet", {"model": "tiny-tokens"}, 422, "not-applicable", "use 'saliency'"),
    ],
)
def test_model_and_method(client: httpx.Client, path: str, fields, status: int, kind: str, words: str) -> None:
    found = problem(client.post(path, json={"image": BASE64, **fields}), status, kind)
    assert words in found.detail
    assert not found.errors


@pytest.mark.parametrize(
    ("path", "fields", "pointer", "words"),
    [
        ("/predict", {"modell": "tiny"}, "/modell", "did you mean 'model'? Known are model, timeout_s"),
        ("/predict", {"a/b~c": 1}, "/a~1b~0c", "unknown field; known are"),
        ("/predict", {"model": "a.b"}, "/model", "pattern"),
        ("/predict", {"model": 5}, "/model", "string (got 5)"),
        ("/predict", {"top_k": 0}, "/top_k", "greater than or equal to 1 (got 0)"),
        ("/predict", {"top_k": True}, "/top_k", "integer (got True)"),
        ("/predict", {"timeout_s": 0}, "/timeout_s", "greater than 0"),
        ("/predict", {"timeout_s": "soon"}, "/timeout_s", "valid number"),
        ("/predict", {"priority": 11}, "/priority", "less than or equal to 10"),
        ("/predict", {"priority": 1.5}, "/priority", "integer"),
        ("/predict", {"image": 5}, "/image", "string (got 5)"),
        ("/predict", {"image": None}, "/image", "send it as base64 in `image`, or as multipart part"),
        ("/predict", {"image": "*" * 8}, "/image", "not valid base64"),
        ("/predict", {"image": BASE64[:-3]}, "/image", "send the file's bytes in base64"),
        ("/predict", {"image": "é" * 8}, "/image", "not valid base64"),
        ("/predict", {"image": "data:image/png,abc"}, "/image", "data:image/png;base64,..."),
        ("/predict", {"image": "data:image/png;base64"}, "/image", "data:image/png;base64,..."),
        ("/predict", {"image": "https://example.org/cat.png"}, "/image", "addresses are not fetched; send the picture"),
        ("/predict", {"image": "http://127.0.0.1/"}, "/image", "addresses are not fetched"),
        ("/explain/filters", {}, "/image", "leave it out"),
        ("/explain/grad-cam", {"params": {"layer": "conv3"}}, "/params/layer", "did you mean 'conv"),
        ("/explain/grad-cam", {"params": {"layer": "nix"}}, "/params/layer", "GET /models/tiny/layers lists all"),
        ("/explain/grad-cam", {"params": {"layer": "fc"}}, "/params/layer", "the default layer is 'relu2'"),
        ("/explain/grad-cam", {"params": {"layer": 4}}, "/params/layer", "string (got 4)"),
        ("/explain/grad-cam", {"params": {"layers": "fc"}}, "/params/layers", "did you mean 'layer'?"),
        ("/explain/grad-cam", {"params": []}, "/params", "dictionary"),
        ("/explain/grad-cam", {"params": None}, "/params", "dictionary"),
        ("/explain/cam", {"params": {"layer": "conv1"}}, "/params/layer", "there are none here"),
        ("/explain/feature-maps", {"params": {"layers": ["conv1", "fc"]}}, "/params/layers/1", "'fc' of tiny"),
        (
            "/explain/feature-maps",
            {"params": {"layers": ["conv1"], "channels": [0, 8]}},
            "/params/channels/1",
            "0 to 7",
        ),
        ("/explain/feature-maps", {"params": {"channels": [-1]}}, "/params/channels/0", "greater than or equal to 0"),
        ("/explain/feature-maps", {"targets": [0]}, "/targets", "feature-maps has no targets; leave them out"),
        ("/explain/deconvnet", {"params": {"position": [0, 16]}}, "/params/position", "which is 16 x 16"),
        ("/explain/deconvnet", {"params": {"position": [0]}}, "/params/position", "required"),
        ("/explain/deconvnet", {"params": {"position": [0, 0], "keep": "channel"}}, "/params", "leave it out"),
        ("/explain/occlusion", {"params": {"windoww": 8}}, "/params/windoww", "did you mean 'window'?"),
        ("/explain/occlusion", {"params": {"window": 0}}, "/params/window", "greater than or equal to 1 (got 0)"),
        ("/explain/occlusion", {"params": {"window": "wide"}}, "/params/window", "integer"),
        ("/explain/occlusion", {"params": {"window": 8.5}}, "/params/window", "integer"),
        ("/explain/occlusion", {"params": {"window": 8, "stride": 9}}, "/params", "choose a stride of at most the win"),
        ("/explain/occlusion", {"params": {"fill": "pink"}}, "/params/fill", "pattern"),
        ("/explain/score-cam", {"params": {"score": "loss"}}, "/params/score", "'logit', 'probability' or 'value'"),
        ("/explain/saliency", {"targets": [5]}, "/targets/0", "out of range: tiny has outputs 0 to 4"),
        ("/explain/saliency", {"targets": [0, -1]}, "/targets/1", "tiny has outputs 0 to 4"),
        ("/explain/saliency", {"targets": [True]}, "/targets/0", "integer (got True)"),
        ("/explain/saliency", {"targets": [1.5]}, "/targets/0", "integer"),
        ("/explain/saliency", {"targets": 1}, "/targets", "list"),
        ("/explain/saliency", {"targets": [""]}, "/targets/0", ""),
        ("/explain/saliency", {"targets": [0] * 17}, "/targets", "17 targets; at most 16"),
        ("/explain/saliency", {"targets": [0] * 1025}, "/targets", "1,024"),
        ("/explain/saliency", {"targets": ["appel"]}, "/targets/0", "did you mean 'apple'? An index will do, too"),
        ("/explain/saliency", {"targets": [0, "Cherry"]}, "/targets/1", "outputs [2, 3]; give one of these indices"),
        ("/explain/saliency", {"targets": ["apple"], "model": "tiny-vgg"}, "/targets/0", "no labels; give an index"),
        ("/explain/saliency", {"targets": [0], "model": "tiny-regression"}, "/targets", "leave targets out"),
        ("/explain/cam", {"output": {"colormap": "nix"}}, "/output/colormap", "some are viridis"),
        ("/explain/cam", {"output": {"opacity": 1.5}}, "/output/opacity", "less than or equal to 1"),
        ("/explain/cam", {"output": {"size": "huge"}}, "/output/size", "'input' or 'original'"),
        ("/explain/cam", {"output": {"array": "csv"}}, "/output/array", "'json', 'base64' or 'none'"),
        ("/explain/cam", {"output": {"overlays": True}}, "/output/overlays", "did you mean 'overlay'?"),
        ("/explain/cam", {"output": None}, "/output", "dictionary"),
    ],
)
def test_field(client: httpx.Client, path: str, fields, pointer: str, words: str) -> None:
    found = problem(client.post(path, json={"image": BASE64, **fields}), 422)
    assert [e.pointer for e in found.errors] == [pointer]
    assert words in found.detail
    assert words in found.errors[0].detail


def test_all_wrong_fields_are_named_at_once(client: httpx.Client) -> None:
    wrong = {"image": BASE64, "targets": [True], "params": {"window": 0, "nix": 1}, "output": {"opacity": -1}}
    found = problem(client.post("/explain/occlusion", json=wrong), 422)
    assert [e.pointer for e in found.errors] == ["/targets/0", "/params/window", "/params/nix", "/output/opacity"]


def test_filters_take_no_picture_in_a_part_either(client: httpx.Client) -> None:
    found = problem(client.post("/explain/filters", files={"image": ("a.png", PNG)}), 422)
    assert [e.pointer for e in found.errors] == ["/image"]
    assert "leave it out" in found.detail


@pytest.mark.parametrize(
    ("verb", "path", "status", "kind", "words"),
    [
        ("GET", "/predict", 405, "method-not-allowed", "use POST"),
        ("GET", "/explain/cam", 405, "method-not-allowed", "use POST"),
        ("PUT", "/models", 405, "method-not-allowed", "use GET, HEAD"),
        ("GET", "/nix", 404, "not-found", "see /docs"),
        ("POST", "/explain/a/b", 404, "not-found", "see /docs"),
        ("GET", "/models/tyni", 404, "unknown-model", "did you mean 'tiny'"),
        ("GET", "/models/nix/layers", 404, "unknown-model", "served are: tiny"),
        ("GET", "/models/%ff%00", 404, "unknown-model", r"\x00"),
    ],
)
def test_address(client: httpx.Client, verb: str, path: str, status: int, kind: str, words: str) -> None:
    response = client.request(verb, path)
    assert words in problem(response, status, kind).detail
    assert status != 405 or response.headers["allow"] in ("GET, HEAD", "POST")


# Pictures


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and has no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD_PICTURES = {
    "empty": (b"", 422, "unprocessable-image", "is empty (0 bytes); send the bytes"),
    "text": (b"hello", 415, "", "send one of PNG, JPEG, WEBP, GIF, BMP"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "", "send one of PNG"),
    "zeros": (bytes(1000), 415, "", "send one of PNG"),
    "PPM": (encoded(PHOTO, "PPM"), 415, "", "send one of PNG"),
    "ICO": (encoded(PHOTO, "ICO"), 415, "", "send one of PNG"),
    "PSD": (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(64), 415, "", "send one of PNG"),
    "no pixels": (png_header(0, 0), 415, "", "send one of PNG"),
    "cut JPEG": (JPEG[: len(JPEG) // 2], 422, "unprocessable-image", "cut off: save it again"),
    "cut PNG": (PNG[: len(PNG) // 2], 422, "unprocessable-image", "cut off: save it again"),
    "cut GIF": (encoded(PHOTO, "GIF")[:900], 422, "unprocessable-image", "save it again"),
    "cut BMP": (encoded(PHOTO, "BMP")[:900], 422, "unprocessable-image", "save it again"),
    "cut WebP": (encoded(PHOTO, "WEBP")[:300], 422, "unprocessable-image", "save it again"),
    "damaged PNG": (PNG[:60] + b"\0\0\0\0" + PNG[64:], 422, "unprocessable-image", "save it again"),
    "bomb": (png_header(50_000, 50_000), 413, "", "at most 25,000,000 are accepted; scale it down"),
    "many pixels": (png_header(5001, 5000), 413, "", "5001 x 5000 = 25,005,000 pixels and at most 25,000,000"),
    "thin": (encoded(Image.new("RGB", (101, 1))), 422, "unprocessable-image", "101 x 1, more than 100 times"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_picture(client: httpx.Client, name: str) -> None:
    data, status, kind, words = BAD_PICTURES[name]
    sent = {"image": base64.b64encode(data).decode()}
    for response in (client.post("/predict", files={"image": data}), client.post("/explain/cam", json=sent)):
        assert words in problem(response, status, kind).detail


def odd_pictures() -> Iterator[tuple[str, bytes, Image.Image]]:
    """Give pictures of all kinds, each with the plain one that it shows."""
    yield "one pixel", encoded(Image.new("RGB", (1, 1), "red")), Image.new("RGB", (1, 1), "red")
    yield "thinnest", encoded(Image.new("RGB", (1, 100), "red")), Image.new("RGB", (1, 100), "red")
    yield "CMYK", encoded(PHOTO.convert("CMYK"), "JPEG", quality=100, subsampling=0), PHOTO
    grey = PHOTO.convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    yield "16 bits", encoded(wide), grey
    yield "1 bit", encoded(grey.convert("1")), grey.convert("1")
    half = Image.new("L", PHOTO.size, 255)
    half.paste(0, (0, 0, 30, 40))
    white = PHOTO.copy()
    white.paste("white", (0, 0, 30, 40))
    clear = PHOTO.copy()
    clear.putalpha(half)
    yield "RGBA", encoded(clear), white
    yield "LA", encoded(clear.convert("LA")), white.convert("L")
    palette = PHOTO.quantize(64)
    shown = palette.convert("RGB")
    shown.paste(Image.new("RGB", PHOTO.size, "white"), mask=Image.fromarray(np.asarray(palette) == 7))
    yield "palette", encoded(palette), palette
    yield "transparent palette", encoded(palette, transparency=7), shown
    yield "transparent GIF", encoded(palette, "GIF", transparency=7), shown
    frames = {"save_all": True, "append_images": [Image.new("RGB", PHOTO.size, "blue")], "duration": 50}
    yield "animated PNG", encoded(PHOTO, **frames), PHOTO
    yield "animated WebP", encoded(PHOTO, "WEBP", lossless=True, **frames), PHOTO
    yield "animated GIF", encoded(palette, "GIF", **frames), palette
    exif = Image.Exif()
    exif[274] = 6  # lies on its left side
    yield "turned", encoded(PHOTO.transpose(Image.Transpose.ROTATE_90), exif=exif), PHOTO


@pytest.mark.parametrize(("name", "data", "plain"), [pytest.param(*odd, id=odd[0]) for odd in odd_pictures()])
def test_odd_picture_answers_as_the_plain_one(client: httpx.Client, name: str, data: bytes, plain: Image.Image) -> None:
    request = {"request": json.dumps({"output": {"size": "original", "array": "none"}, "targets": [0]})}
    odd = client.post("/explain/cam", files={"image": data}, data=request)
    expected = client.post("/explain/cam", files={"image": encoded(plain.convert("RGB"))}, data=request)
    assert odd.status_code == expected.status_code == 200
    assert odd.json()["image"] == expected.json()["image"]
    assert (odd.json()["image"]["width"], odd.json()["image"]["height"]) == plain.size
    for mine, theirs in zip(odd.json()["maps"], expected.json()["maps"], strict=True):
        tolerance = 0.02 if name == "CMYK" else 1e-6
        for key in ("min", "max"):
            assert mine[key] == pytest.approx(theirs[key], abs=tolerance)
        assert name == "CMYK" or mine["overlay"] == theirs["overlay"]


# Limits


@pytest.fixture(scope="module")
def narrow() -> Iterator[httpx.Client]:
    """A server that accepts little."""
    with serving(Settings(catalog=CATALOG, device="cpu", max_image_bytes=2000, max_image_pixels=2440)) as client:
        yield client


def test_picture_limits(narrow: httpx.Client) -> None:
    exact, more = Image.new("RGB", (61, 40)), Image.new("RGB", (61, 41))
    assert narrow.post("/predict", files={"image": encoded(exact)}).status_code == 200
    assert "61 x 41 = 2,501 pixels" in problem(narrow.post("/predict", files={"image": encoded(more)}), 413).detail
    assert len(PNG) > 2000
    assert "at most 2,000 are accepted" in problem(narrow.post("/predict", files={"image": PNG}), 413).detail


# No bad input gives a 500

junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats(allow_nan=False, width=32) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)
words = st.sampled_from(["tiny-vgg", "conv1", "fc", "apple", "logit", "raw", "mean", "#123456", "viridis", "none", ""])
value = junk | words | st.lists(st.integers(0, 12), max_size=3)
sweep = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def unharmed(response: httpx.Response) -> None:
    assert response.status_code in (200, 400, 404, 413, 415, 422, 429, 504), response.text
    assert response.status_code == 200 or response.headers["content-type"] == problems.MEDIA_TYPE


@given(st.data())
@sweep
def test_any_fields(client: httpx.Client, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*registry(), "predict"]))
    known = list(registry()[name].model_fields) if name in registry() else ["x"]
    params = data.draw(st.dictionaries(st.sampled_from(known) if known else st.just("x"), value, max_size=2) | junk)
    rest = data.draw(
        st.dictionaries(st.sampled_from(["model", "targets", "output", "priority", "top_k"]), value, max_size=1)
    )
    request = {"timeout_s": 0.3, "params": params, **rest}
    image = {} if name == "filters" else {"image": BASE64}
    if name == "predict":
        del request["params"]
    path = "/predict" if name == "predict" else f"/explain/{name}"
    unharmed(client.post(path, json=request | image))


SAMPLES = [PNG, JPEG, *(encoded(PHOTO, kind) for kind in ("GIF", "WEBP", "BMP"))]


@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6), st.data())
@sweep
def test_any_damage(client: httpx.Client, sample: bytes, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(sample[: data.draw(st.integers(1, len(sample)))])
    for at, byte in changes:  # most of them in the headers
        damaged[(at % 64 if at % 3 else at) % len(damaged)] = byte
    unharmed(client.post("/predict", files={"image": bytes(damaged)}))


@given(
    st.binary(max_size=60) | st.just(b'--x\r\nContent-Disposition: form-data; name="image"; filename=""\r\n\r\n--x--'),
    st.sampled_from(["application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain"]),
)
@sweep
def test_any_bytes(client: httpx.Client, content: bytes, kind: str) -> None:
    unharmed(client.post("/predict", content=content, headers={"content-type": kind}))
