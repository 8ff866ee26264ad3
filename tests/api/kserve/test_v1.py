import asyncio

import numpy as np
import pytest

from service.api.kserve import v1
from service.explainers.base import registry
from tests.api.test_contract import BASE64, answer

MODELS = ["tiny", "tiny-regression"]


def test_models_and_whether_they_are_ready(client):
    listed = client.get("/v1/models").json()["models"]
    assert listed == [one["name"] for one in client.get("/models").json()["models"]]
    assert client.get("/v1/models/tiny").json() == {"name": "tiny", "ready": True}
    unknown = client.get("/v1/models/none")
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/json")
    assert unknown.json()["error"].startswith("Unknown model: ")


@pytest.mark.parametrize("path", ["/v1/models/tiny:predict", "/v1/models/tiny:explain", "/v1/models/a:b:explain"])
def test_what_asks_is_no_model_and_says_which_verb_it_takes(client, path):
    answer = client.options(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("model", MODELS)
def test_predictions_are_all_outputs_in_their_order(client, model):
    native = client.post("/predict", json={"model": model, "image": BASE64, "top_k": 1000}).json()["predictions"]
    by = {one["index"]: one.get("probability", one.get("value")) for one in native}
    sent = {"instances": [BASE64, {"b64": BASE64}, {"image": BASE64}, {"image": {"b64": BASE64}}]}
    found = client.post(f"/v1/models/{model}:predict", json=sent).json()["predictions"]
    assert len(found) == 4
    for one in found:
        np.testing.assert_allclose(one, [by[i] for i in range(len(by))], rtol=1e-4)


def test_explanations_are_whole_answers(client):
    body = {"instances": [{"image": BASE64, "targets": [3]}, BASE64], "method": "cam", "output": {"overlay": False}}
    first, second = client.post("/v1/models/tiny:explain", json=body).json()["explanations"]
    native = answer(client, "cam", targets=[3], output={"overlay": False})
    assert first.keys() == native.keys()
    assert (first["params"], first["image"]) == (native["params"], native["image"])
    a, b = (np.array(one["maps"][0]["array"]["data"]) for one in (first, native))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert second["maps"][0]["target"]["index"] == second["predictions"][0]["index"]
    assert [one["id"].partition("/")[2] for one in (first, second)] == ["0", "1"]


def test_without_a_method_it_is_grad_cam(client):
    found = client.post("/v1/models/tiny:explain", json={"instances": [BASE64]})
    assert found.json()["explanations"][0]["method"] == "grad-cam"


WRONG = {
    "none": ("explain", {}, "/instances", 422),
    "empty": ("predict", {"instances": []}, "/instances", 422),
    "many": ("predict", {"instances": [""] * 257}, "/instances", 422),
    "kind": ("predict", {"instances": [BASE64, 3]}, "/instances/1", 422),
    "picture": ("predict", {"instances": [BASE64, "!"]}, "/instances/1", 422),
    "picture in an object": ("predict", {"instances": [{"b64": "!"}]}, "/instances/0/b64", 422),
    "picture's object": ("explain", {"instances": [{"image": {"b64": "!"}}]}, "/instances/0/image/b64", 422),
    "picture with a name": ("explain", {"instances": [{"image": "!"}]}, "/instances/0/image", 422),
    "no picture": ("predict", {"instances": [{"timeout_s": 9}]}, "/instances/0/image", 422),
    "own field": ("explain", {"instances": [{"image": BASE64, "targets": [99]}]}, "/instances/0/targets/0", 422),
    "shared field that none takes": (
        "explain",
        {"instances": [{"image": BASE64, "precision": "fp32"}], "precision": False},
        "/precision",
        422,
    ),
    "shared method that none takes": (
        "explain",
        {"instances": [{"image": BASE64, "method": "cam"}], "method": 3},
        "/method",
        422,
    ),
    "shared field of predictions that none takes": (
        "predict",
        {"instances": [{"image": BASE64, "timeout_s": 60}], "timeout_s": "soon"},
        "/timeout_s",
        422,
    ),
    "shared field": ("explain", {"instances": [BASE64], "targets": [99]}, "/targets/0", 422),
    "unknown field": ("explain", {"instances": [BASE64], "target": [9]}, "/target", 422),
    "priority": ("predict", {"instances": [BASE64], "priority": 3}, "/priority", 422),
    "top_k": ("predict", {"instances": [BASE64], "top_k": 3}, "/top_k", 422),
    "method kind": ("explain", {"instances": [BASE64], "method": 3}, "/method", 422),
    "method": ("explain", {"instances": [BASE64], "method": "gradcam"}, None, 404),
    "another model": (
        "explain",
        {"instances": [BASE64, {"image": BASE64, "model": "late"}]},
        "/instances/1/model",
        422,
    ),
    "another model for all": ("predict", {"instances": [BASE64], "model": "late"}, "/model", 422),
    "long text for all": ("explain", {"instances": [BASE64], "params": {"layer": "b" * 257}}, "/params/layer", 422),
    "long text": ("explain", {"instances": [BASE64, {"image": "", "x": "b" * 257}]}, "/instances/1/x", 422),
    "fields": ("predict", {"instances": [BASE64]} | {f"k{i}": 0 for i in range(200)}, "", 422),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_named_in_the_protocols_form(client, case):
    verb, body, pointer, status = WRONG[case]
    response = client.post(f"/v1/models/tiny:{verb}", json=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert isinstance(found["error"], str)
    if pointer is not None:
        assert [one["pointer"] for one in found["errors"]] == [pointer]


def test_a_content_type_is_not_looked_at(client):
    body = b'{"instances": ["%s"]}' % BASE64.encode()
    assert client.post("/v1/models/tiny:predict", content=body).status_code == 200


@pytest.mark.parametrize("method", [name for name, cls in registry().items() if not cls.needs_image])
def test_methods_without_a_picture_say_so(client, method):
    response = client.post("/v1/models/tiny:explain", json={"instances": [BASE64], "method": method})
    assert response.status_code == 422
    assert "not used here" in response.json()["error"]


@pytest.mark.parametrize("verb", ["predict", "explain"])
@pytest.mark.parametrize("place", ["instance", "shared"])
def test_what_is_too_deep_is_refused(client, verb, place):
    deep = b"[" * 980 + b"]" * 980
    body = b'{"instances": [%s]}' % deep if place == "instance" else b'{"instances": [""], "foo": %s}' % deep
    response = client.post(f"/v1/models/tiny:{verb}", content=body)
    assert (response.status_code, "nested more than" in response.json()["error"]) == (400, True)


def test_what_holds_for_all_is_looked_at_once_and_by_threads(client, monkeypatch):
    """Its items may be many, and so may the instances."""
    seen = []

    def checking(fields):
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        seen.append(set(fields))

    monkeypatch.setattr(v1, "check", checking)
    body = {"instances": [BASE64] * 5, "method": "cam", "output": {"array": "none", "overlay": False}}
    assert client.post("/v1/models/tiny:explain", json=body).status_code == 200
    assert seen == [{"method", "output"}, *[{"image"}] * 5]


def test_items_are_counted_as_they_arrive(client):
    response = client.post("/v1/models/tiny:explain", content=b'{"instances": [' + b"," * 2**17)
    assert (response.status_code, "commas" in response.json()["error"]) == (413, True)
