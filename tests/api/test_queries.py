"""What follows the question mark of an address is refused by its name, but where others put what they like."""

import httpx
import pytest

from service.api.queries import unread
from service.app import create_app
from service.settings import Settings
from tests.api.test_bad_input import problem
from tests.conftest import CATALOG

FREE = ("/docs", "/metrics", "/health/live", "/health/ready")


def _routes() -> list[tuple[str, str]]:
    document = create_app(Settings(catalog=CATALOG)).openapi()
    own = [(verb.upper(), path.replace("{name}", "tiny")) for path, item in document["paths"].items() for verb in item]
    return [*own, ("GET", "/docs"), ("GET", "/openapi.json"), ("POST", "/explain/nothing")]


@pytest.mark.parametrize(("verb", "path"), [found for found in _routes() if found[1] not in FREE])
def test_parameters_in_an_address_are_refused_where_nothing_reads_them(
    client: httpx.Client, verb: str, path: str
) -> None:
    answer = client.request(verb, f"{path}?top_k=1&a/b=&top_k=2&~=")
    found = problem(answer, 422, "invalid-parameter")
    assert [e.pointer for e in found.errors] == ["/query/top_k", "/query/a~1b", "/query/~0"]
    assert "'top_k'" in found.detail
    assert ("into its body" in found.detail) == (verb == "POST")
    assert "takes no parameters" not in client.request(verb, f"{path}?").text


def test_what_an_address_refuses_is_documented_of_each() -> None:
    refuses = {"$ref": "#/components/responses/Problem422"}
    paths = create_app(Settings(catalog=CATALOG)).openapi()["paths"]
    assert paths
    for path, item in paths.items():
        for verb, operation in item.items():
            assert operation["responses"].get("422") == refuses, (verb, path)


@pytest.mark.parametrize("path", FREE)
def test_pages_and_probes_take_anything(client: httpx.Client, path: str) -> None:
    assert client.get(f"{path}?top_k=1").status_code == 200


def test_an_address_that_is_not_there_stays_so(client: httpx.Client) -> None:
    assert client.get("/nothing?top_k=1").status_code == 404
    assert client.get("/predict?top_k=1").status_code == 405


@pytest.mark.parametrize("query", ["", "&", "=", "%ff=1", "x" * 9000, "&".join(f"a{i}=" for i in range(99))])
def test_any_text_is_told(query: str) -> None:
    error = unread(query, sends=False)
    assert len(error.errors) <= 20
    assert "takes no parameters" in error.detail


@pytest.mark.parametrize("path", [*FREE, "/"])
def test_what_nobody_reads_has_its_bound(client: httpx.Client, path: str) -> None:
    """To take parameters apart takes the loop milliseconds, and probes wait for nobody."""
    found = problem(client.get(path + "?" + "a=&" * 2000), 422, "invalid-parameter")
    assert "6,000 characters of parameters" in found.detail
