"""Answers that servers make: who is asked, and what a refusal means for a run."""

import base64
import json

import httpx
import numpy as np
import pytest

from service.api import formats
from service.bulk.listing import Listed
from service.bulk.loop import Stop
from service.bulk.remote import Remote
from service.client import Client
from tests.api.test_contract import PNG

PROBLEM = {"content-type": "application/problem+json"}


def problem(status, kind, **more):
    said = {"type": f"urn:heatlens:problem:{kind}", "title": "T", "status": status, "detail": "why"} | more
    return httpx.Response(status, json=said, headers=PROBLEM)


def asked(tmp_path, answer, *names, clients=1, pictures=1):
    """Ask servers that answer so, and return what became of each picture."""
    rows = {ending: row for row in formats.TABLE for ending in row.extensions[:1] if ending[1:] in names}
    (tmp_path / "a.png").write_bytes(PNG)
    made = [Client(f"http://host{i}", max_retries=0, transport=httpx.MockTransport(answer)) for i in range(clients)]
    worker = Remote(made, "cam", {"params": {}}, rows)
    futures = [worker.start(Listed(tmp_path / "a.png", "a.png")) for _ in range(pictures)]
    found = [future.exception() or future.result() for future in futures]
    worker.close()
    for client in made:
        client.close()
    return found


@pytest.mark.parametrize(
    ("response", "final"),
    [
        (problem(413, "too-large"), True),
        (problem(415, "unsupported-media-type"), True),
        (problem(422, "unprocessable-image"), True),
        (problem(422, "model-output"), True),
        (problem(422, "invalid-parameter", errors=[{"pointer": "/targets/0", "detail": "none is seen"}]), True),
        (problem(429, "overloaded"), False),
        (problem(503, "draining"), False),
        (problem(504, "deadline-exceeded"), False),
        (problem(500, "internal-error"), False),
        (httpx.Response(502, text="bad gateway"), False),
    ],
    ids=lambda value: str(getattr(value, "status_code", value)),
)
def test_what_is_the_pictures_own_fault_is_final_and_all_else_is_not(tmp_path, response, final):
    (done,) = asked(tmp_path, lambda _: response, "png")
    assert (done.line is not None) == final
    assert done.problem
    if final:
        assert done.line["problem"]["status"] == response.status_code


@pytest.mark.parametrize(
    "response",
    [
        problem(401, "unauthorized"),
        problem(404, "unknown-method"),
        problem(422, "not-applicable"),
        problem(422, "invalid-parameter", errors=[{"pointer": "/params/window", "detail": "unknown field"}]),
    ],
    ids=lambda value: str(value.status_code),
)
def test_what_is_wrong_for_every_picture_ends_the_run(tmp_path, response):
    (error,) = asked(tmp_path, lambda _: response, "png")
    assert isinstance(error, Stop)
    assert "why" in str(error)


def test_pictures_are_shared_among_servers(tmp_path, client):
    hosts = []

    def answer(request):
        hosts.append(request.url.host)
        return problem(415, "unsupported-media-type")

    asked(tmp_path, answer, "png", clients=3, pictures=30)
    assert len(hosts) == 30
    assert set(hosts) == {"host0", "host1", "host2"}


@pytest.mark.parametrize(("names", "array"), [(("png",), "none"), (("npy",), "base64"), (("json", "npy"), "json")])
def test_only_what_is_written_is_asked_for(tmp_path, names, array):
    seen = []
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    data = {"base64": base64.b64encode(values.tobytes()).decode(), "json": values.tolist()}.get(array)
    nothing = dict.fromkeys(("target", "layer", "channel", "channels", "patch", "heatmap", "array", "completeness"))
    one = nothing | {"name": "cam", "kind": "signed", "interpolation": "bilinear", "overlay": "b3Zlcg=="}
    one |= {"min": 0.0, "max": 5.0, "flat": False, "all_negative": False}
    if data is not None:
        one["array"] = {"dtype": "float32", "shape": [2, 3], "encoding": array, "data": data}
    answer = {"predictions": [], "image": None, "usage": {}, "maps": [one]}

    def respond(request):
        seen.append(request.read())
        return httpx.Response(200, json=answer)

    (done,) = asked(tmp_path, respond, *names)
    assert len(seen) == 1
    assert f'"array": "{array}"'.encode() in seen[0]
    assert done.files.keys() == {f".{name}" for name in names}
    if "png" in names:
        assert done.files[".png"] == b"over"
    if ".npy" in done.files:
        (tmp_path / "a.npy").write_bytes(done.files[".npy"])
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)
    if "json" in names:
        assert json.loads(done.files[".json"]) == answer
