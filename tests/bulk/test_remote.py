"""Answers that servers make: who is asked, and what a refusal means for a run."""

import base64
import json

import httpx
import numpy as np
import pytest

from service.api import formats
from service.bulk.listing import Listed
from service.bulk.loop import Stop
from service.bulk.remote import PATIENCE_S, Remote
from service.client import Client
from tests.api.test_contract import PNG

PROBLEM = {"content-type": "application/problem+json"}


def problem(status, kind, **more):
    said = {"type": f"urn:heatlens:problem:{kind}", "title": "T", "status": status, "detail": "why"} | more
    return httpx.Response(status, json=said, headers=PROBLEM)


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self):
        self.now, self.waited = 1000.0, []

    def __call__(self):
        return self.now

    def pause(self, seconds):
        self.waited.append(seconds)
        self.now += seconds


def asked(tmp_path, answer, *names, clients=1, pictures=1, clock=None, each=16, version=None):
    """Ask servers that answer so, and return what became of each picture."""
    clock = clock or Clock()
    rows = {ending: row for row in formats.TABLE for ending in row.extensions[:1] if ending[1:] in names}
    (tmp_path / "a.png").write_bytes(PNG)
    made = [Client(f"http://host{i}", max_retries=0, transport=httpx.MockTransport(answer)) for i in range(clients)]
    options = {"version": version, "each": each, "clock": clock, "pause": clock.pause}
    worker = Remote(made, "cam", {"params": {}}, rows, **options)
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
        (problem(422, "not-applicable"), True),  # as a detector says of a picture with nothing in it
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


ANSWER = {"predictions": [], "image": None, "usage": {}, "maps": [], "model": {"name": "tiny", "version": "sha256:a"}}


def test_a_server_that_is_started_anew_is_waited_for(tmp_path):
    clock = Clock()

    def answer(request):
        if clock.now < 1025:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=ANSWER)

    (done,) = asked(tmp_path, answer, "json", clock=clock)
    assert done.line is not None
    assert sum(clock.waited) == 30


def test_a_server_that_stays_away_is_given_up(tmp_path):
    clock = Clock()

    def answer(request):
        raise httpx.ConnectError("refused")

    (done,) = asked(tmp_path, answer, "json", clock=clock)
    assert (done.line, done.files) == (None, {})
    assert "is the server running there" in done.problem
    assert 0 < sum(clock.waited) <= PATIENCE_S


@pytest.mark.parametrize("gone", ["refused", 502, 503, 429])
def test_what_one_server_has_no_answer_to_another_one_has(tmp_path, gone):
    """The first one is asked once: while it rests, the others get all there is."""
    hosts, clock = [], Clock()

    def answer(request):
        hosts.append(request.url.host)
        if request.url.host != "host0":
            return httpx.Response(200, json=ANSWER)
        if gone == "refused":
            raise httpx.ConnectError("refused")
        return httpx.Response(502) if gone == 502 else problem(gone, "overloaded")

    found = asked(tmp_path, answer, "json", clients=3, pictures=12, clock=clock, each=1)
    assert [done.problem for done in found] == [None] * 12
    assert hosts.count("host0") <= 3  # of those that were in flight there
    assert clock.waited == [0.0] * len(clock.waited)


def test_another_model_than_at_the_beginning_ends_the_run(tmp_path):
    (error,) = asked(tmp_path, lambda _: httpx.Response(200, json=ANSWER), "json", version="sha256:b")
    assert isinstance(error, Stop)
    assert "http://host0 now serves another tiny, sha256:a" in str(error)
    (done,) = asked(tmp_path, lambda _: httpx.Response(200, json=ANSWER), "json", version="sha256:a")
    assert done.problem is None


def test_a_defect_is_one_pictures_alone(tmp_path, caplog):
    (done,) = asked(tmp_path, lambda _: httpx.Response(200, json={}), "json")
    assert done.line is None
    assert done.problem.startswith("a defect of the service: KeyError")
    assert "a.png" in caplog.text


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
