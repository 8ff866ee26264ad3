"""Every question goes one way: read, made an `Ask`, planned, worked on, answered in a format."""

import base64
import http.client
import io
import json
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from fastapi import Request
from PIL import Image
from starlette.responses import Response

from service.answer import Needs
from service.api import formats, kserve, routes
from service.api.formats import Format
from service.app import create_app
from service.ask import Ask
from service.contract import Explanation
from service.explainers import base
from service.explainers.base import explainer, registry
from service.explainers.cam.grad_cam import GradCAM
from service.settings import Settings
from tests.api.test_contract import BASE64, METHODS, PNG, lasting
from tests.conftest import CATALOG, serving_app


def test_work_is_what_is_turned_away_when_there_is_too_much(client: httpx.Client) -> None:
    posts = {path for path, item in client.get("/openapi.json").json()["paths"].items() if "post" in item}
    assert set(routes.paths()) == posts
    protocols = "/v1/models/tiny:predict", "/v1/models/tiny:explain", "/v2/models/tiny/infer"
    assert [kserve.work(path) for path in protocols] == ["predict", "explain", "explain"]
    assert kserve.work("/v1/models/tiny") is kserve.work("/v2/repository/index") is kserve.work("/predict") is None
    assert routes.paths()["/predict"] == "predict"
    assert set(routes.paths().values()) == {"predict", "compare", *METHODS}


def test_predictions_are_json_whatever_is_accepted(client: httpx.Client) -> None:
    plain = client.post("/predict", files={"image": PNG}).json()
    for row in formats.TABLE:
        response = client.post("/predict", files={"image": PNG}, headers={"accept": row.media_type})
        assert response.headers["content-type"] == "application/json"
        assert lasting(response.json()) == lasting(plain)


def test_an_unknown_method_is_named_before_its_body_is_read(client: httpx.Client) -> None:
    response = client.post("/explain/grad-kam", content=b"no JSON")
    assert response.status_code == 404
    assert "did you mean 'grad-cam'?" in response.json()["detail"]


def test_a_deadline_begins_with_the_request(client: httpx.Client) -> None:
    response = client.post("/explain/cam", json={"image": BASE64, "timeout_s": 1e-9})
    assert response.status_code == 504
    assert "1e-09 s" in response.json()["detail"]


# A method with plusses in its name


@pytest.fixture
def plus(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of such a name, registered for as long as the test runs."""
    name = "test-cam++"
    monkeypatch.setattr(base, "_registry", dict(base._registry))

    @explainer(name, reference="none", requirement="A test.", cost="as grad-cam")
    class TestCAMPlusPlus(GradCAM):
        """Grad-CAM under another name."""

        def explain(self, *given: object) -> Explanation:
            return super().explain(*given)  # type: ignore[arg-type]

    assert registry()[name] is TestCAMPlusPlus
    return name


def test_a_plus_in_a_name_is_a_plus_in_its_path(plus: str) -> None:
    with serving_app(create_app(Settings(catalog=CATALOG, device="cpu"))) as client:
        document = client.get("/openapi.json").json()
        operation = document["paths"][f"/explain/{plus}"]["post"]
        assert operation["operationId"] == "explain_test_cam_plus_plus"
        assert not [name for name in document["components"]["schemas"] if "+" in name]
        assert "TestCAMPlusPlusRequest" in document["components"]["schemas"]
        answers = []
        for path in ("/explain/test-cam++", "/explain/test-cam%2B%2B", "/explain/test-cam+%2b"):
            place = http.client.HTTPConnection(urlsplit(str(client.base_url)).netloc, timeout=60)
            place.request("POST", path, json.dumps({"image": BASE64}), {"content-type": "application/json"})
            response = place.getresponse()  # by a client that does not rewrite paths
            answers.append((response.status, json.loads(response.read())))
            place.close()
        assert [status for status, _ in answers] == [200, 200, 200]
        assert all(body["method"] == plus for _, body in answers)
        assert answers[0][1]["maps"] == answers[1][1]["maps"] == answers[2][1]["maps"]
        assert f'method="{plus}",model="tiny",status="200"}} 3' in client.get("/metrics").text
        missed = client.post("/explain/test-cam", json={})
        assert (missed.status_code, "'test-cam++'" in missed.json()["detail"]) == (404, True)


# Another face: a protocol of its own makes an Ask, and brings its own format


def test_another_face_is_an_ask_and_a_format() -> None:
    def encode(answer: object) -> bytes:
        return b"map of %d values" % answer.maps[0].heat.array.size  # type: ignore[attr-defined]

    shown = Format("text/x-test", (), "A test.", Needs(maps=1), encode)
    app = create_app(Settings(catalog=CATALOG, device="cpu"))

    @app.post("/other/{method}")
    async def other(request: Request, method: str) -> Response:
        return await routes.handle(request, Ask.explain(method, {"image": BASE64, "targets": [1]}), shown)

    with serving_app(app) as client:
        response = client.post("/other/grad-cam")
        assert (response.status_code, response.text) == (200, "map of 256 values")
        assert response.headers["content-type"].startswith("text/x-test")
        assert "device;dur=" in response.headers["server-timing"]
        refused = client.post("/other/cam-grad")
        assert (refused.status_code, refused.json()["instance"]) == (404, "/other/cam-grad")


def test_one_handler_for_all() -> None:
    """What a route adds is the fields and the format."""
    app = create_app(Settings(catalog=CATALOG, device="cpu"))
    asked = []

    async def handle(request: Request, ask: Ask, format: Format) -> Response:
        asked.append((ask, format))
        return Response(b"{}")

    patch = pytest.MonkeyPatch()
    patch.setattr(routes, "handle", handle)
    try:
        with serving_app(app) as client:
            for method, cls in registry().items():
                image = {"image": BASE64} if cls.needs_image else {}
                client.post(f"/explain/{method}", json=image, headers={"accept": "image/webp"})
            client.post("/predict", json={"image": BASE64, "top_k": 2})
    finally:
        patch.undo()
    *explained, predicted = asked
    pictures = {True: (BASE64,), False: ()}
    assert explained == [(Ask(cls(), pictures=pictures[cls.needs_image]), formats.WEBP) for cls in registry().values()]
    assert predicted == (Ask(None, pictures=(BASE64,), top_k=2), formats.JSON)
    assert replace(predicted[0], top_k=5) == Ask.predict({"image": BASE64})


# One map of several


@pytest.mark.parametrize("accept", ["image/png", "application/x-npy"])
def test_an_address_may_name_the_map(client: httpx.Client, accept: str) -> None:
    asked = {"image": BASE64, "targets": [3, 1, 0]}
    maps = client.post("/explain/cam", json=asked).json()["maps"]
    drawn = [client.post(f"/explain/cam?map={i}", json=asked, headers={"accept": accept}).content for i in (1, 2, 3)]
    for one, found in zip(maps, drawn, strict=True):
        if accept == "image/png":
            pixels = [
                np.asarray(Image.open(io.BytesIO(data)), int) for data in (base64.b64decode(one["overlay"]), found)
            ]
            np.testing.assert_allclose(*pixels, atol=4)
        else:
            np.testing.assert_allclose(np.load(io.BytesIO(found)), one["array"]["data"], atol=1e-5)
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    ("query", "accept", "said"),
    [
        ("map=4", "image/png", "the answer has 3 maps; ask for one of them, from 1 on"),
        ("map=0", "image/png", "from 1 on"),
        ("map=-1", "image/png", "from 1 on"),
        ("map=x", "image/png", "from 1 on"),
        ("map=", "image/png", "from 1 on"),
        ("map=1&map=2", "image/png", "name one map"),
        ("map=1", "application/json", "application/json has all maps"),
        ("map=1", "application/zip", "application/zip has all maps"),
        ("map=1", "text/event-stream", "text/event-stream has all maps"),
    ],
)
def test_a_map_that_there_is_not_is_refused(client: httpx.Client, query: str, accept: str, said: str) -> None:
    asked = {"image": BASE64, "targets": [3, 1, 0]}
    response = client.post(f"/explain/cam?{query}", json=asked, headers={"accept": accept})
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["pointer"] == "/query/map"
    assert said in error["detail"]


def test_another_parameter_is_refused_beside_it(client: httpx.Client) -> None:
    response = client.post("/explain/cam?map=1&layer=x", json={"image": BASE64}, headers={"accept": "image/png"})
    assert [error["pointer"] for error in response.json()["errors"]] == ["/query/layer"]
    assert "takes no parameters but map ('layer')" in response.json()["detail"]
