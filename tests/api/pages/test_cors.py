"""What a page's browser asks beforehand is answered in our own form."""

import asyncio

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import CATALOG

PAGE = "https://page.example"


@pytest.fixture(scope="module")
def ask():
    app = create_app(Settings(catalog=CATALOG, device="cpu", cors_origins=PAGE))

    def options(**headers):
        async def send():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as client:
                return await client.options("/predict", headers={n.replace("_", "-"): v for n, v in headers.items()})

        return asyncio.run(send())

    return options


def test_a_page_that_may_ask_is_told_so_without_a_word(ask):
    answer = ask(origin=PAGE, access_control_request_method="POST", access_control_request_headers="content-type")
    assert (answer.status_code, answer.content) == (200, b"")
    assert "content-type" not in answer.headers
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "Origin" in answer.headers["vary"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("origin", "method", "headers", "status", "said"),
    [
        ("https://other.example", "POST", "content-type", 403, "HEATLENS_CORS_ORIGINS"),
        ("null", "POST", "content-type", 403, "HEATLENS_CORS_ORIGINS"),
        (PAGE, "DELETE", "content-type", 400, "GET, POST"),
        (PAGE, "POST", "x-other", 400, "x-request-id"),
    ],
)
def test_one_that_may_not_is_told_why_as_a_problem(ask, origin, method, headers, status, said):
    answer = ask(origin=origin, access_control_request_method=method, access_control_request_headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]
    assert (answer.headers.get("access-control-allow-origin") == PAGE) is (origin == PAGE)
    assert int(answer.headers["content-length"]) == len(answer.content)
