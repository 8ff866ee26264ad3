"""Errors as RFC 9457 problems: all that is known of one is said, and nothing of a defect."""

import json
import logging

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service import errors
from service.api import problems
from service.client import wire
from service.errors import InvalidParameter, ModelUnavailable, Overloaded, ServiceError

KINDS = [kind for _, kinds in errors.by_status() for kind in kinds]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_a_problem_says_all_that_is_known(kind: type[ServiceError]) -> None:
    fields = [errors.FieldError("/params/a~1b", "no"), errors.FieldError("/x", "neither")]
    found = wire.Problem.model_validate_json(problems.document(kind("why", errors=fields), "/where"))
    assert (found.type, found.title, found.status) == (f"urn:heatlens:problem:{kind.type}", kind.title, kind.status)
    assert (found.detail, found.instance, found.error) == ("why", "/where", kind.title)
    assert [(one.pointer, one.detail) for one in found.errors] == [tuple(one) for one in fields]
    assert "errors" not in json.loads(problems.document(kind("why"), "/where"))


def test_responses_say_when_to_come_back() -> None:
    for error, after in (
        (InvalidParameter("why"), None),
        (ModelUnavailable("why"), "5"),
        (Overloaded("x", retry_after_s=7), "7"),
    ):
        response = problems.problem(error, "/where")
        assert (response.status_code, response.headers.get("retry-after")) == (error.status, after)
        assert response.headers["content-type"] == problems.MEDIA_TYPE
        assert response.body == problems.document(error, "/where")


def test_a_defect_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    ours = InvalidParameter("why")
    assert problems.known("/where", ours) is ours
    assert not caplog.records
    shown = problems.known("/where\x1b[31m", ZeroDivisionError("a secret"))
    assert (type(shown), shown.status) == (errors.InternalError, 500)
    assert "secret" not in shown.detail
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert line.exc_info is not None
    assert "\x1b" not in line.getMessage()


def test_what_a_network_raised_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    failed = errors.ModelFailed("the network of model 'm' fails", raised="Traceback\nValueError: a secret")
    assert problems.known("/where", failed) is failed
    assert b"secret" not in problems.document(failed, "/where")
    (line,) = caplog.records
    assert "a secret" in line.raised
    assert "model 'm' fails" in line.getMessage()


def test_what_the_framework_refuses_is_a_problem_too() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/number/{value}")
    def number(value: int) -> int:
        return value

    with TestClient(app) as client:
        answers = {
            404: client.get("/nothing"),
            405: client.post("/number/3"),
            422: client.get("/number/three"),
        }
    for status, response in answers.items():
        found = wire.Problem.model_validate(response.json())
        assert (response.status_code, found.status, found.instance) == (status, status, response.request.url.path)
        assert response.headers["content-type"] == problems.MEDIA_TYPE
    assert answers[405].headers["allow"] == "GET, HEAD"
    assert "use GET" in answers[405].json()["detail"]
    assert "path/value" in answers[422].json()["detail"]


def test_whatever_stands_in_an_address_of_the_protocols_it_is_one_of_theirs() -> None:
    response = problems.problem(InvalidParameter("why"), "/v2/models/a\nb")
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.body)["error"] == "Invalid parameter: why"
