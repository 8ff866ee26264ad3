"""One tree of errors, from the problems that the service answers with."""

import inspect

import pytest

from service import errors as ours
from service.api import problems
from service.client import errors

KINDS = [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, errors.HeatlensError)]


@pytest.mark.parametrize("kind", ours.ServiceError.__subclasses__(), ids=lambda cls: cls.type)
def test_every_problem_of_the_service_has_its_place(kind):
    made = kind("why", errors=[ours.FieldError("/params/x", "unknown field")], retry_after_s=3)
    answer = problems.problem(made, "/explain/cam")
    found = errors.of_response(answer.status_code, answer.headers, bytes(answer.body))
    assert found.type == f"urn:heatlens:problem:{kind.type}"
    assert (found.status, found.title, found.detail) == (kind.status, kind.title, "why")
    assert found.errors == (errors.FieldProblem("/params/x", "unknown field"),)
    assert found.retry_after_s == 3
    assert found.retriable == (kind.status in (429, 503))
    assert str(found) == f"{kind.status} {kind.title}: why"
    assert isinstance(found, errors.InvalidRequest) == (kind.status in (400, 405, 408, 413, 415, 422, 499))
    assert isinstance(found, errors.NotApplicable) == (kind is ours.NotApplicable)


def test_the_tree_that_is_drawn_is_the_tree():
    text = errors.__doc__ or ""
    assert all(f" {cls.__name__} " in text or cls is errors.HeatlensError for cls in KINDS)


@pytest.mark.parametrize(
    ("status", "headers", "content", "kind", "said"),
    [
        (502, {}, b"<html>\n bad  gateway", errors.ServerFailed, "answered 502: <html> bad gateway"),
        (503, {}, b"", errors.Unavailable, "answered 503 without a word"),
        (301, {"location": "https://a/"}, b"", errors.ServerFailed, "leads on to https://a/"),
        (429, {"content-type": "application/problem+json"}, b"[1", errors.Overloaded, "answered 429"),
        (413, {"content-type": "application/problem+json"}, b"[1]", errors.InvalidRequest, "answered 413"),
    ],
)
def test_an_answer_of_something_else_is_shown(status, headers, content, kind, said):
    found = errors.of_response(status, headers, content)
    assert type(found) is kind
    assert said in found.detail


def test_retry_after_is_a_number_or_a_date():
    assert errors.retry_after_s("12") == 12
    assert errors.retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", now=20) == 40
    assert errors.retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", now=90) == 0
    assert [errors.retry_after_s(text) for text in ("", "soon", "-3", "1.5.2")] == [None] * 4
