import asyncio
import concurrent.futures
import gc
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from service.api.formats import JSON
from service.api.kserve import batch
from service.api.kserve.batch import MOST, Question, bounded, placed
from service.engine.scheduler.run import Run
from service.errors import DeadlineExceeded, FieldError, InvalidParameter, Overloaded
from service.fair.threads import Threads
from service.settings import Settings
from tests.api.test_contract import BASE64
from tests.conftest import CATALOG, serving


def test_errors_point_into_the_request_as_it_was_sent():
    with pytest.raises(InvalidParameter) as raised, placed(lambda inner: f"/there{inner}"):
        raise InvalidParameter("/image: wrong", errors=[FieldError("/image", "wrong")])
    assert raised.value.detail == "/there/image: wrong"
    assert [one.pointer for one in raised.value.errors] == ["/there/image"]


@pytest.mark.parametrize("count", [0, MOST + 1])
def test_a_request_holds_some_questions_and_not_too_many(count):
    bounded(MOST, "/x")
    with pytest.raises(InvalidParameter):
        bounded(count, "/x")


def test_the_first_error_ends_all_of_a_request(held):
    """Others of the request are still on the device meanwhile, and nothing is left of them."""
    held.hold()
    response = held.client.post("/v1/models/tiny:predict", json={"instances": [BASE64, BASE64, "!"]})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/instances/2"
    held.let()
    assert held.quiet()


def test_one_deadline_for_all(held):
    held.hold()
    sent = {"instances": [BASE64] * 3, "timeout_s": 0.2}
    assert held.client.post("/v1/models/tiny:predict", json=sent).status_code == 504
    held.let()
    assert held.quiet()


class _Work:
    """A question whose answer comes when it is told to."""

    def __init__(self, run, timeout_s):
        self.run, self.future = run, concurrent.futures.Future()
        run.limit(timeout_s, 0)

    def start(self):
        return asyncio.wrap_future(self.future)

    def abandon(self, future):
        future.cancel()


@pytest.fixture
def request_():
    with Threads(1, "heatlens-body") as pool:
        app = SimpleNamespace(state=SimpleNamespace(context=SimpleNamespace(body_pool=pool)))
        scope = {"type": "http", "heatlens": SimpleNamespace(run=Run(id="mine")), "app": app}
        yield Request(scope, asyncio.Event().wait)


def test_a_question_that_is_answered_ends_no_other_one(monkeypatch, request_):
    """Each instance may have a deadline of its own; the first one's is over before the second one's answer is there."""
    works = []

    def begin(_request, timeout_s, _format, run):
        works.append(_Work(run, timeout_s))
        return works[-1]

    async def asked():
        answering = asyncio.ensure_future(batch.answered(request_, [Question(at, JSON, str) for at in (0.01, 60.0)]))
        while len(works) < 2:
            await asyncio.sleep(0)
        works[0].future.set_result(b"first")
        while works[0].run.time_left_s:
            await asyncio.sleep(0.005)
        assert not answering.done()
        works[1].future.set_result(b"second")
        return await answering

    monkeypatch.setattr(batch, "begin", begin)
    assert asyncio.run(asked()) == [b"first", b"second"]
    assert [one.run.id for one in works] == ["mine/0", "mine/1"]


def test_an_answer_that_comes_too_late_is_no_oversight(monkeypatch, request_):
    """It ends in an error in the very moment in which its deadline is over, and nobody asks for it any more."""
    complaints = []

    def begin(_request, timeout_s, _format, run):
        work = _Work(run, timeout_s)
        work.future.set_exception(Overloaded("too much"))
        return work

    async def asked():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))

        async def once(*_, **__):
            await asyncio.sleep(0)  # the question has ended, and whoever gathers them has not heard of it

        monkeypatch.setattr(batch.asyncio, "wait", once)
        with pytest.raises(DeadlineExceeded):
            await batch.answered(request_, [Question(60.0, JSON, lambda inner: inner)])
        await asyncio.sleep(0)
        gc.collect()

    monkeypatch.setattr(batch, "begin", begin)
    asyncio.run(asked())
    assert complaints == []


def test_all_questions_are_accounted_for(client, access):
    """What is logged, and answered as `Server-Timing`, is of all of them, and not of the first one."""
    body = {
        "instances": [BASE64] * 3,
        "method": "occlusion",
        "params": {"window": 8, "stride": 8},
        "output": {"array": "none", "heatmap": False, "overlay": False},
    }
    response = client.post("/v1/models/tiny:explain", json=body, headers={"x-request-id": "batch-of-three"})
    found = response.json()["explanations"]
    assert [one["id"] for one in found] == [f"batch-of-three/{i}" for i in range(3)]
    line = next(one for one in iter(access.get, None) if one.id == "batch-of-three")
    told = [one["usage"]["forwards"] + one["usage"]["rows_avoided"] for one in found]
    assert line.forwards + line.rows_avoided == sum(told)
    assert line.queue_s == pytest.approx(sum(one["usage"]["queue_ms"] for one in found) / 1e3, abs=1e-3)


@pytest.fixture(scope="module")
def bounded_client():
    with serving(Settings(catalog=CATALOG, device="cpu", max_answer_values=9000, max_answer_pixels=5000)) as found:
        yield found


def _maps(client, count, **output):
    body = {"instances": [BASE64] * count, "method": "cam", "output": output}
    return client.post("/v1/models/tiny:explain", json=body)


def test_all_answers_together_are_bounded_as_one_is(bounded_client):
    drawn = {"array": "none", "overlay": False}
    few, many = (_maps(bounded_client, count, **drawn) for count in (2, 8))
    assert few.status_code == 200, few.text
    assert (many.status_code, [one["pointer"] for one in many.json()["errors"]]) == (422, ["/output"])
    assert "fewer pictures or methods in one request" in many.json()["error"]


def test_values_that_would_be_too_many_are_refused_before_any_is_found(bounded_client):
    maps = {"method": "feature-maps", "params": {"layers": ["conv1"], "top_k": 8}}
    output = {"heatmap": False, "overlay": False}
    one, many = (
        bounded_client.post("/v1/models/tiny:explain", json={"instances": [BASE64] * n, "output": output} | maps)
        for n in (1, 64)
    )
    assert one.status_code == 200, one.text
    assert (many.status_code, [e["pointer"] for e in many.json()["errors"]]) == (422, ["/output/array"])
    wide = {"name": "image", "datatype": "BYTES", "shape": [64], "data": [BASE64] * 64}
    asked = bounded_client.post("/v2/models/tiny/infer", json={"inputs": [wide], "outputs": [{"name": "saliency"}]})
    assert (asked.status_code, "raw values" in asked.text) == (422, True)
