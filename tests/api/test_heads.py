"""HEAD tells what GET would, and no more."""

import queue
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.api.conftest import addresses
from tests.conftest import CATALOG

READ = [path for verb, path in addresses(create_app(Settings(catalog=CATALOG))) if verb == "GET"]
MOVING = {"date", "etag", "content-length", "server-timing"}  # of answers that say how things stand, as /metrics


@pytest.mark.parametrize("path", READ)
def test_head_wherever_get_is(client: httpx.Client, path: str) -> None:
    got, told = client.get(path, headers={"x-request-id": "one"}), client.head(path, headers={"x-request-id": "one"})
    assert (told.status_code, told.content) == (got.status_code, b"")
    assert {n: v for n, v in told.headers.items() if n not in MOVING} == {
        n: v for n, v in got.headers.items() if n not in MOVING
    }
    assert int(told.headers["content-length"]) > 0
    assert client.get("/health/live").json() == {"status": "live"}  # on the same connection, where no body is left


def test_what_is_only_posted_has_no_head(client: httpx.Client) -> None:
    answer = client.head("/predict")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")
    assert client.post("/models").headers["allow"] == "GET, HEAD"
    assert client.head("/nothing").status_code == 404


def test_a_parameter_that_is_not_read_is_refused_as_for_get(client: httpx.Client) -> None:
    assert client.head("/models?top_k=1").status_code == 422


def test_the_log_says_what_was_asked(client: httpx.Client, access: "queue.Queue[Any]") -> None:
    client.head("/methods")
    line = access.get(timeout=60)
    assert (line.verb, line.path, line.status, line.bytes_out) == ("HEAD", "/methods", 200, 0)
