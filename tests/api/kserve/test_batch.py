import asyncio
import gc
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from service.api.kserve import batch
from service.api.kserve.batch import MOST, Question, bounded, placed
from service.engine.scheduler.run import Run
from service.errors import DeadlineExceeded, FieldError, InvalidParameter, Overloaded
from tests.api.test_contract import BASE64


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
    assert response.json()["errors"][0]["pointer"] == "/instances/2/image"
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
        self.run, self.future = run, asyncio.get_running_loop().create_future()
        run.limit(timeout_s, 0)

    def start(self):
        return self.future

    def abandon(self, future):
        future.cancel()


def test_a_question_that_is_answered_ends_no_other_one(monkeypatch):
    """Each instance may have a deadline of its own; the first one's is over before the second one's answer is there."""

    async def asked():
        works, request = [], Request({"type": "http", "heatlens": SimpleNamespace(run=Run())}, asyncio.Event().wait)

        def begin(_request, timeout_s, _format, run):
            works.append(_Work(run, timeout_s))
            return works[-1]

        monkeypatch.setattr(batch, "begin", begin)
        answering = asyncio.ensure_future(batch.answered(request, [Question(at, None, str) for at in (0.01, 60.0)]))
        while not works:
            await asyncio.sleep(0)
        works[0].future.set_result(b"first")
        while works[0].run.time_left_s:
            await asyncio.sleep(0.005)
        assert not answering.done()
        works[1].future.set_result(b"second")
        return await answering

    assert asyncio.run(asked()) == [b"first", b"second"]


def test_an_answer_that_comes_too_late_is_no_oversight(monkeypatch):
    """It ends in an error in the very moment in which its deadline is over, and nobody asks for it any more."""
    complaints = []

    async def asked():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
        request = Request({"type": "http", "heatlens": SimpleNamespace(run=Run())}, asyncio.Event().wait)

        def begin(_request, timeout_s, _format, run):
            work = _Work(run, timeout_s)
            work.future.set_exception(Overloaded("too much"))
            return work

        async def once(*_, **__):
            await asyncio.sleep(0)  # the question has ended, and whoever gathers them has not heard of it

        monkeypatch.setattr(batch, "begin", begin)
        monkeypatch.setattr(batch.asyncio, "wait", once)
        question = Question(60.0, None, lambda inner: inner)
        with pytest.raises(DeadlineExceeded):
            await batch.answered(request, [question])
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(asked())
    assert complaints == []
