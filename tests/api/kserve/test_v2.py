import json

import numpy as np
import orjson
import pytest

from service.api.kserve.outputs import HEAT
from service.api.kserve.tensors import split
from service.errors import Draining
from service.explainers.base import registry
from tests.api.test_contract import BASE64, PHOTO, PNG, QUICK, answer, lasting
from tests.tiny import model_of

IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [BASE64]}


def infer(client, model="tiny", headers=None, **body):
    body = {"inputs": [IMAGE]} | body
    return client.post(f"/v2/models/{model}/infer", json=body, headers=headers)


def outputs(response):
    assert response.status_code == 200, response.text
    return {one["name"]: one for one in response.json()["outputs"]}


def numbers(one):
    return np.array(one["data"], np.float32).reshape(one["shape"])


def test_what_the_server_says_of_itself(client):
    known = client.get("/version").json()
    for path in ("/v2", "/v2/"):
        said = client.get(path).json()
        assert said.pop("extensions") == ["binary_tensor_data", "classification"]
        assert said == {name: known[name] for name in ("name", "version", "revision", "torch", "device")}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True, "live": True}
    names = client.get("/v2/models").json()["models"]
    assert names == client.get("/v1/models").json()["models"]
    index = client.post("/v2/repository/index").json()
    assert [(one["name"], one["state"]) for one in index] == [(name, "READY") for name in names]
    for path in (f"/v2/models/{one}" for one in ("none", "tiny/stats", "tiny/config", "tiny/versions/1")):
        missing = client.get(path)
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/json")
        assert isinstance(missing.json()["error"], str)


def test_a_server_that_is_live_and_not_ready_says_both(client, monkeypatch):
    async def draining(*_):
        raise Draining("the server is about to stop")

    monkeypatch.setattr("service.api.kserve.v2.check_ready", draining)
    found = client.get("/v2/health/ready")
    assert (found.status_code, found.json()) == (503, {"ready": False, "live": True})


def test_metadata_lists_what_can_be_asked_for(client):
    known = client.get("/models/tiny").json()
    found = client.get("/v2/models/tiny").json()
    version = known["version"].removeprefix("sha256:")[:12]
    assert found["versions"] == [version]
    assert client.get(f"/v2/models/tiny/versions/{version}").json() == found
    assert client.get(f"/v2/models/tiny/versions/{version}/ready").json() == {"name": "tiny", "ready": True}
    assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    names = {one["name"] for one in found["outputs"]}
    applies = {one["name"] for one in known["methods"] if one["applies"]}
    heat = {name for name, cls in registry().items() if cls.kind in HEAT and cls.needs_image}
    assert names == {"logits", "probabilities", "prediction", "explanation"} | (applies & heat)
    assert {one["name"] for one in client.get("/v2/models/tiny-regression").json()["outputs"]} >= {"values"}


@pytest.mark.parametrize("method", [name for name, cls in registry().items() if cls.kind in HEAT and cls.needs_image])
def test_a_methods_output_is_its_maps(client, method):
    """On two pictures, so that the first dimension is the pictures'."""
    model, params = model_of(method), QUICK.get(method, {})
    asked = [{"name": method, "parameters": params}]
    image = IMAGE | {"shape": [2], "data": [BASE64, BASE64]}
    found = numbers(outputs(infer(client, model, inputs=[image], outputs=asked))[method])
    native = [numbers(one["array"]) for one in answer(client, method)["maps"]]
    assert found.shape == (2, len(native), *native[0].shape)
    for one in found:
        np.testing.assert_allclose(one, np.stack(native), rtol=1e-3, atol=1e-4 * float(np.abs(native).max()))


@pytest.mark.parametrize(("model", "names"), [("tiny", ["logits", "probabilities"]), ("tiny-regression", ["values"])])
def test_numbers_are_all_outputs_in_their_order(client, model, names):
    native = client.post("/predict", json={"model": model, "image": BASE64, "top_k": 1000}).json()["predictions"]
    found = outputs(infer(client, model, outputs=[{"name": name} for name in names]))
    assert list(found) == names
    by = {"logits": "logit", "probabilities": "probability", "values": "value"}
    for name in names:
        expected = [one[by[name]] for one in sorted(native, key=lambda one: one["index"])]
        np.testing.assert_allclose(numbers(found[name])[0], expected, rtol=1e-4)
    assert list(outputs(infer(client, model))) == names[-1:]


def test_classes_as_text(client):
    found = outputs(infer(client, outputs=[{"name": "probabilities", "parameters": {"classification": 2}}]))
    native = client.post("/predict", json={"image": BASE64, "top_k": 2}).json()["predictions"]
    assert found["probabilities"]["shape"] == [1, 2]
    for text, one in zip(found["probabilities"]["data"], native, strict=True):
        score, index, label = text.split(":", 2)
        assert (int(index), label) == (one["index"], one["label"])
        assert float(score) == pytest.approx(one["probability"], abs=1e-5)


def test_an_explanation_is_the_whole_answer(client):
    parameters = {"method": "score-cam", "score-cam.score": "logit", "output.overlay": False}
    found = outputs(
        infer(
            client,
            parameters=parameters,
            inputs=[IMAGE, {"name": "targets", "datatype": "INT64", "shape": [1], "data": [2]}],
            outputs=[{"name": "explanation"}],
        )
    )
    native = answer(client, "score-cam", targets=[2], params={"score": "logit"}, output={"overlay": False})
    said = json.loads(found["explanation"]["data"][0])
    assert lasting(said).keys() == lasting(native).keys()
    assert said["params"] == native["params"]
    assert said["maps"][0]["target"] == native["maps"][0]["target"]


def test_targets_may_be_labels_or_objects(client):
    data = ["apple", '{"class": 1, "against": [2]}']
    targets = {"name": "targets", "datatype": "BYTES", "shape": [2], "data": data}
    found = outputs(infer(client, inputs=[IMAGE, targets], outputs=[{"name": "grad-cam"}]))["grad-cam"]
    native = answer(client, "grad-cam", targets=["apple", {"class": 1, "against": [2]}])["maps"]
    np.testing.assert_allclose(numbers(found)[0], [numbers(one["array"]) for one in native], rtol=1e-4, atol=1e-6)


def test_binary_data_both_ways(client):
    raw = len(PNG).to_bytes(4, "little") + PNG
    head = {
        "id": "mine",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "cam"}, {"name": "logits", "parameters": {"binary_data": False}}],
    }
    document = orjson.dumps(head)
    sent = {"Inference-Header-Content-Length": str(len(document))}
    response = client.post("/v2/models/tiny/infer", content=document + raw, headers=sent)
    assert response.status_code == 200, response.text
    found, behind = split(response.content, response.headers["inference-header-content-length"])
    assert (found["id"], found["model_name"]) == ("mine", "tiny")
    cam, logits = found["outputs"]
    assert cam["parameters"]["binary_data_size"] == len(behind)
    native = numbers(answer(client, "cam")["maps"][0]["array"])
    np.testing.assert_allclose(np.frombuffer(behind, "<f4").reshape(cam["shape"])[0, 0], native, rtol=1e-4, atol=1e-6)
    assert len(logits["data"]) == 5


@pytest.mark.parametrize("lead", [(), (1,)])
def test_pixels_are_a_picture(client, lead):
    pixels = np.asarray(PHOTO.convert("RGB"))
    image = {"name": "image", "datatype": "UINT8", "shape": [*lead, *pixels.shape], "data": pixels.ravel().tolist()}
    found = outputs(infer(client, inputs=[image]))["probabilities"]
    np.testing.assert_allclose(found["data"], outputs(infer(client))["probabilities"]["data"], rtol=1e-4)


WRONG = {
    "no picture": ({"inputs": [IMAGE | {"name": "targets", "data": ["1"]}]}, "/inputs"),
    "unknown input": ({"inputs": [IMAGE, IMAGE | {"name": "mask"}]}, "/inputs/1/name"),
    "twice": ({"inputs": [IMAGE, IMAGE]}, "/inputs"),
    "picture": ({"inputs": [IMAGE | {"shape": [2], "data": [BASE64, "!"]}]}, "/inputs/0/data/1"),
    "picture's type": ({"inputs": [IMAGE | {"datatype": "FP32", "data": [1]}]}, "/inputs/0/datatype"),
    "pixels": ({"inputs": [IMAGE | {"datatype": "UINT8", "shape": [1, 1], "data": [1]}]}, "/inputs/0/shape"),
    "unknown output": ({"outputs": [{"name": "cams"}]}, "/outputs/0/name"),
    "output twice": ({"outputs": [{"name": "cam"}, {"name": "cam"}]}, "/outputs"),
    "outputs": ({"outputs": 3}, "/outputs"),
    "unknown parameter": (
        {"outputs": [{"name": "cam", "parameters": {"leyer": 1}}]},
        "/outputs/0/parameters/leyer",
    ),
    "unknown parameter for all": (
        {"parameters": {"cam.leyer": 1}, "outputs": [{"name": "cam"}]},
        "/parameters/cam.leyer",
    ),
    "parameter of an explanation": (
        {"parameters": {"method": "cam", "cam.layer": "none"}, "outputs": [{"name": "explanation"}]},
        "/parameters/cam.layer",
    ),
    "drawing of an explanation": (
        {"outputs": [{"name": "explanation", "parameters": {"output.opacity": 2}}]},
        "/outputs/0/parameters/output.opacity",
    ),
    "unread": ({"parameters": {"cam.layer": "conv1"}}, "/parameters/cam.layer"),
    "unread output": (
        {"parameters": {"output.opacity": 1}, "outputs": [{"name": "cam"}]},
        "/parameters/output.opacity",
    ),
    "typing error": ({"parameters": {"time": 1}}, "/parameters/time"),
    "sequence": ({"parameters": {"sequence_id": 1}}, "/parameters/sequence_id"),
    "timeout": ({"parameters": {"timeout": 1.5}}, "/parameters/timeout"),
    "priority": ({"parameters": {"priority": -1}}, "/parameters/priority"),
    "precision": ({"parameters": {"precision": "fp64"}}, "/parameters/precision"),
    "classification": (
        {"outputs": [{"name": "cam", "parameters": {"classification": 2}}]},
        "/outputs/0/parameters/classification",
    ),
    "binary": ({"outputs": [{"name": "cam", "parameters": {"binary_data": 1}}]}, "/outputs/0/parameters/binary_data"),
    "numbers' parameter": ({"outputs": [{"name": "logits", "parameters": {"layer": 1}}]}, "/outputs/0/parameters"),
    "target": (
        {
            "inputs": [IMAGE, {"name": "targets", "datatype": "INT8", "shape": [1], "data": [99]}],
            "outputs": [{"name": "cam"}],
        },
        "/inputs/1/data/0",
    ),
    "targets' type": (
        {
            "inputs": [IMAGE, {"name": "targets", "datatype": "FP32", "shape": [1], "data": [1]}],
            "outputs": [{"name": "cam"}],
        },
        "/inputs/1/datatype",
    ),
    "method of an output": (
        {"outputs": [{"name": "explanation", "parameters": {"method": "gradcam"}}]},
        "/outputs/0/parameters/method",
    ),
    "method for all": (
        {"outputs": [{"name": "explanation"}], "parameters": {"method": "gradcam"}},
        "/parameters/method",
    ),
    "method that nothing explains by": ({"parameters": {"method": "score-cam"}}, "/parameters/method"),
    "method of a method": (
        {"outputs": [{"name": "cam", "parameters": {"method": "lime"}}]},
        "/outputs/0/parameters/method",
    ),
    "method of numbers": ({"outputs": [{"name": "logits", "parameters": {"method": "cam"}}]}, "/outputs/0/parameters"),
    "classification of all": ({"parameters": {"classification": 2}}, "/parameters/classification"),
    "binary data of all": ({"parameters": {"binary_data": True}}, "/parameters/binary_data"),
    "shared memory": (
        {"inputs": [IMAGE | {"data": None, "parameters": {"shared_memory_region": "r"}}]},
        "/inputs/0/parameters/shared_memory_region",
    ),
    "shared memory of an output": (
        {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}]},
        "/outputs/0/parameters/shared_memory_region",
    ),
    "an input's parameter": (
        {"inputs": [IMAGE | {"parameters": {"content/type": "x"}}]},
        "/inputs/0/parameters/content~1type",
    ),
    "targets of each picture": (
        {
            "inputs": [
                IMAGE | {"shape": [2], "data": [BASE64, BASE64]},
                {"name": "targets", "datatype": "INT64", "shape": [2, 1], "data": [1, 2]},
            ],
            "outputs": [{"name": "cam"}],
        },
        "/inputs/1/shape",
    ),
    "targets of numbers": (
        {"inputs": [IMAGE, {"name": "targets", "datatype": "INT64", "shape": [1], "data": [1]}]},
        "/inputs/1",
    ),
    "pictures of a method without targets": (
        {"inputs": [IMAGE, IMAGE | {"name": "pictures"}], "outputs": [{"name": "eigen-cam"}]},
        "/inputs/1",
    ),
    "many elements": ({"inputs": [IMAGE | {"shape": [2**20], "data": []}]}, "/inputs/0/shape"),
    "id": ({"id": 3}, "/id"),
    "many": ({"inputs": [IMAGE | {"shape": [257], "data": [""] * 257}]}, "/inputs/0/shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_named_in_the_protocols_form(client, case):
    body, pointer = WRONG[case]
    response = infer(client, **body)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/json"
    assert [one["pointer"] for one in response.json()["errors"]] == [pointer]


def test_deadlines_are_microseconds(client):
    response = infer(client, parameters={"timeout": 1}, outputs=[{"name": "occlusion"}])
    assert response.status_code == 504
    assert response.json()["error"].startswith("Deadline exceeded: ")


def test_a_method_of_pictures_is_told_to_be_an_explanation(client):
    response = infer(client, outputs=[{"name": "feature-maps"}])
    assert response.status_code == 422
    assert "'explanation'" in response.json()["error"]


@pytest.mark.parametrize("place", ["id", "output", "output's parameter", "parameter", "input", "datatype", "target"])
def test_no_answer_repeats_much_of_what_was_sent(client, place):
    text = "q " * 1500
    body = {
        "id": {"id": text},
        "output": {"outputs": [{"name": text}]},
        "output's parameter": {"outputs": [{"name": "cam", "parameters": {text: text}}]},
        "parameter": {"parameters": {text: text}},
        "input": {"inputs": [IMAGE | {"name": text}]},
        "datatype": {"inputs": [IMAGE | {"datatype": text}]},
        "target": {
            "inputs": [IMAGE, {"name": "targets", "datatype": "BYTES", "shape": [1], "data": [text]}],
            "outputs": [{"name": "cam"}],
        },
    }[place]
    response = infer(client, **body)
    assert response.status_code in (400, 422)
    assert text[:257] not in response.text


def test_a_priority_above_the_callers_is_lowered_and_said(client):
    """The protocol's clients set one without knowing of a cap."""
    found = infer(client, parameters={"priority": 1}).json()
    assert found["parameters"] == {"priority_lowered_to": 0}
    assert "parameters" not in infer(client, parameters={"priority": 12}).json()


TARGETS = {
    "label": ("b" * 257, "/inputs/1/data/1"),
    "field": (json.dumps({"class": "b" * 257}), "/inputs/1/data/1/class"),
    "picture": (json.dumps({"image": "b" * 257}), "/inputs/1/data/1/image"),
    "all": (json.dumps({"class": "b" * 10**6}), "/inputs/1/data"),
    "depth": (json.dumps({"class": json.loads("[" * 900 + "]" * 900)}), "/inputs/1/data/1"),
    "items": (json.dumps({"against": [0] * 20_000}), "/inputs/1/data/1"),
    "no JSON": ("{", "/inputs/1/data/1"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_in_text_are_bounded_as_those_in_json(client, case, monkeypatch):
    """Before any of them is read: what comes behind looks at each letter."""
    monkeypatch.setattr("service.pipeline.Pipeline.plan", None)
    text, pointer = TARGETS[case]
    targets = {"name": "targets", "datatype": "BYTES", "shape": [2], "data": ["apple", text]}
    response = infer(client, inputs=[IMAGE, targets], outputs=[{"name": "cam"}])
    assert (response.status_code, [one["pointer"] for one in response.json()["errors"]]) == (422, [pointer])


@pytest.mark.parametrize("length", ["9" * 5000, "9" * 4000, "\u0663", "+3", ""])
def test_a_length_that_is_none_is_refused(client, length):
    sent = {b"inference-header-content-length": length.encode()}
    response = client.post("/v2/models/tiny/infer", content=b"{}", headers=sent)
    assert (response.status_code, "number of bytes" in response.json()["error"]) == (400, True)


def test_what_is_too_deep_is_refused(client):
    deep = b"[" * 980 + b"]" * 980
    body = b'{"inputs": [{"name": "image", "parameters": {"binary_data_size": %s}}]}' % deep
    response = client.post("/v2/models/tiny/infer", content=body)
    assert (response.status_code, "nested more than" in response.json()["error"]) == (400, True)


def test_items_are_counted_as_they_arrive_and_binary_data_are_none(client):
    many = b'{"inputs": [' + b"," * 2**19
    response = client.post("/v2/models/tiny/infer", content=many)
    assert (response.status_code, "commas" in response.json()["error"]) == (413, True)
    response = client.post(
        "/v2/models/tiny/infer", content=b"{}" + many, headers={"Inference-Header-Content-Length": "2"}
    )
    assert response.status_code == 422
