"""The protocols by their own clients, `kserve` and `tritonclient`; skipped where they are not installed."""

import asyncio
import base64
import re
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.api.test_contract import BASE64, PHOTO, PNG, answer

PIXELS = np.asarray(PHOTO.convert("RGB"))


@pytest.fixture
def triton(client):
    http = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    host = str(client.base_url).removeprefix("http://").rstrip("/")
    with http.InferenceServerClient(host) as found:
        yield http, found


@pytest.fixture
def kserve(client):
    found = pytest.importorskip("kserve", reason="kserve is not installed")
    return found, str(client.base_url).rstrip("/")


def _image(http, *, binary=True, count=1):
    image = http.InferInput("image", [count], "BYTES")
    sent = PNG if binary else BASE64.encode()
    image.set_data_from_numpy(np.array([sent] * count, object), binary_data=binary)
    return image


def test_triton_sees_a_server_and_its_models(triton):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata()["name"] == "heatlens"
    metadata = client.get_model_metadata("tiny")
    assert client.is_model_ready("tiny", metadata["versions"][0])
    assert {one["name"] for one in client.get_model_repository_index()} >= {"tiny", "tiny-regression"}


@pytest.mark.parametrize("ask", ["get_model_config", "get_inference_statistics"])
def test_triton_is_told_what_there_is_not(triton, ask):
    _, client = triton
    utils = pytest.importorskip("tritonclient.utils")
    with pytest.raises(utils.InferenceServerException, match="nothing at this address"):
        getattr(client, ask)("tiny")


def test_readmes_example_runs_as_it_stands(triton, client):
    """But for where the server, its model and the picture are."""
    readme = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    (example,) = [one for one in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "tritonclient" in one]
    host = str(client.base_url).removeprefix("http://").rstrip("/")
    for theirs, ours in (
        ("127.0.0.1:8000", host),
        ("efficientnet-lite0", "tiny"),
        ('open("cat.jpg", "rb").read()', "PICTURE"),
    ):
        assert theirs in example
        example = example.replace(theirs, ours)
    seen = {"PICTURE": PNG}
    exec(example, seen)
    found = seen["found"]
    assert found.as_numpy("grad-cam").shape[:2] == (1, 1)
    assert [len(one.decode().split(":")) for one in found.as_numpy("probabilities")[0]] == [3] * 3
    seen["client"].close()


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("compressed", [None, "gzip", "deflate"])
def test_triton_is_answered_as_everybody(triton, client, binary, compressed):
    http, server = triton
    outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("grad-cam", "probabilities")]
    found = server.infer(
        "tiny",
        [_image(http, binary=binary, count=2)],
        outputs=outputs,
        request_id="mine",
        request_compression_algorithm=compressed,
    )
    assert found.get_response()["id"] == "mine"
    native = answer(client, "grad-cam")
    expected = np.array(native["maps"][0]["array"]["data"], np.float32)
    np.testing.assert_allclose(found.as_numpy("grad-cam")[1, 0], expected, rtol=1e-4, atol=1e-6)
    best = found.as_numpy("probabilities")[0].argmax()
    assert best == native["predictions"][0]["index"]


def test_triton_without_outputs_takes_numbers_in_binary(triton):
    http, server = triton
    assert server.infer("tiny", [_image(http)]).as_numpy("probabilities").shape == (1, 5)


def test_triton_sends_pixels_targets_and_parameters(triton, client):
    http, server = triton
    image = http.InferInput("image", [1, *PIXELS.shape], "UINT8")
    image.set_data_from_numpy(PIXELS[None])
    targets = http.InferInput("targets", [2], "INT64")
    targets.set_data_from_numpy(np.array([1, 2]))
    found = server.infer(
        "tiny",
        [image, targets],
        outputs=[http.InferRequestedOutput("occlusion")],
        parameters={"occlusion.window": 8, "occlusion.stride": 8},
        timeout=60_000_000,
        priority=1,
    ).as_numpy("occlusion")
    native = answer(client, "occlusion", targets=[1, 2], params={"window": 8, "stride": 8})["maps"]
    for mine, other in zip(found[0], native, strict=True):
        np.testing.assert_allclose(mine, other["array"]["data"], rtol=1e-3, atol=1e-5)


def test_triton_classes(triton):
    http, server = triton
    outputs = [http.InferRequestedOutput("logits", class_count=3)]
    found = server.infer("tiny", [_image(http)], outputs=outputs).as_numpy("logits")
    assert found.shape == (1, 3)
    assert len(found[0, 0].decode().split(":")) == 3


@pytest.mark.parametrize("options", [{"sequence_id": 3, "sequence_start": True}, {"timeout": 1}])
def test_triton_is_told_what_is_wrong(triton, options):
    http, server = triton
    utils = pytest.importorskip("tritonclient.utils")
    with pytest.raises(utils.InferenceServerException) as raised:
        server.infer("tiny", [_image(http)], outputs=[http.InferRequestedOutput("occlusion")], **options)
    assert any(word in raised.value.message() for word in ("sequence_id", "Deadline"))


def test_triton_asynchronously(triton):
    http, server = triton
    asked = [server.async_infer("tiny", [_image(http)]) for _ in range(3)]
    assert {one.get_result().as_numpy("probabilities").shape for one in asked} == {(1, 5)}


@asynccontextmanager
async def _rest(kserve, base, protocol):
    rest = kserve.InferenceRESTClient(config=kserve.RESTConfig(protocol=protocol, timeout=60))
    try:
        yield rest, base
    finally:
        await rest.close()


def test_kserve_v1(kserve, client):
    module, base = kserve
    sent = {"instances": [{"b64": BASE64}, {"image": {"b64": BASE64}}], "method": "cam"}

    async def ask():
        async with _rest(module, base, "v1") as (rest, url):
            assert await rest.is_server_live(url)
            assert await rest.is_model_ready(url, "tiny")
            predict = {"instances": sent["instances"]}
            return await rest.infer(url, predict, model_name="tiny"), await rest.explain(url, "tiny", sent)

    predicted, explained = asyncio.run(ask())
    assert [len(one) for one in predicted["predictions"]] == [5, 5]
    native = answer(client, "cam")["maps"][0]["array"]["data"]
    for one in explained["explanations"]:
        np.testing.assert_allclose(one["maps"][0]["array"]["data"], native, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("binary", [False, True])
def test_kserve_v2(kserve, client, binary):
    """By raw bytes, and by base64 in an input without parameters."""
    module, base = kserve
    infer_type = pytest.importorskip("kserve.protocol.infer_type")
    image = module.InferInput("image", [1], "BYTES", data=None if binary else [BASE64])
    if binary:
        image.set_data_from_numpy(np.array([PNG], object), binary_data=True)
    outputs = [infer_type.RequestedOutput("grad-cam", parameters={"relu": True, "binary_data": binary})]

    async def ask():
        async with _rest(module, base, "v2") as (rest, url):
            assert await rest.is_server_live(url)
            assert await rest.is_server_ready(url)
            assert await rest.is_model_ready(url, "tiny")
            request = module.InferRequest("tiny", [image], request_outputs=outputs)
            return await rest.infer(url, request, model_name="tiny")

    found = asyncio.run(ask())
    (cam,) = (one for one in found.outputs if one.name == "grad-cam")
    native = answer(client, "grad-cam")["maps"][0]["array"]["data"]
    np.testing.assert_allclose(cam.as_numpy()[0, 0], np.maximum(native, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserve_shows_the_reason(kserve, protocol):
    module, base = kserve
    httpx = pytest.importorskip("httpx")
    wrong = {"instances": ["!"]}
    if protocol == "v2":
        wrong = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["!"]}]}

    async def ask():
        async with _rest(module, base, protocol) as (rest, url):
            await rest.infer(url, wrong, model_name="tiny")

    with pytest.raises(httpx.HTTPStatusError, match="not valid base64"):
        asyncio.run(ask())


def test_the_picture_is_the_same_everywhere():
    assert base64.b64decode(BASE64) == PNG
