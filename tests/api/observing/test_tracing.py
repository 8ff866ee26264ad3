"""What spans of requests are called: as many names as there are addresses, whatever callers send."""

import re

import pytest
from starlette.datastructures import Headers

from service.api.observing import tracing
from service.app import create_app
from service.settings import Settings
from tests.api.conftest import addresses
from tests.conftest import CATALOG

APP = create_app(Settings(catalog=CATALOG))
FOUND = addresses(APP)


def _scope(path, method="GET", **known):
    return {"type": "http", "path": path, "method": method, "app": APP, "headers": [], **known}


@pytest.mark.parametrize(("verb", "path"), FOUND)
def test_every_address_has_a_template_also_before_its_route_was_looked_up(verb, path):
    template = tracing.route(_scope(path, verb))
    assert template is not None
    assert re.fullmatch(re.sub(r"{\w+}", ".+", template), path)
    assert "tiny" not in template


def test_names_are_few():
    """Of methods, pages and models there may be many; of templates there are as many as kinds of addresses."""
    templates = {tracing.route(_scope(path, verb)) for verb, path in FOUND}
    assert "/explain/{method}" in templates
    assert not [t for t in templates if t.startswith("/explain/") and t != "/explain/{method}"]
    assert "/models/{name}" in templates
    assert "/ui/{path}" in templates
    assert len(templates) < 50


@pytest.mark.parametrize("path", ["/made-up", "/models/a/b/c", "/v3/models", "//"])
def test_what_is_not_there_has_no_template(path):
    assert tracing.route(_scope(path)) is None


@pytest.mark.parametrize(("sent", "told"), [("GET", "GET"), ("PATCH", "PATCH"), ("get", "_OTHER"), ("FOO", "_OTHER")])
def test_verbs_that_a_client_made_up_are_one(sent, told):
    scope = _scope("/models", sent)
    known = tracing.received(scope, Headers())
    assert tracing.verb(scope) == known["http.request.method"] == told
    assert known.get("http.request.method_original") == (sent if told == "_OTHER" else None)


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("a.example:8000", "a.example", 8000),
        ("a.example", "a.example", None),
        ("[::1]:80", "[::1]", 80),
        ("[::1]", "[::1]", None),
        ("a:\xb2", "a:\xb2", None),  # a digit, and no number
        ("a:" + "9" * 5000, "a:" + "9" * 254, None),
        ("", None, None),
    ],
)
def test_the_server_is_who_the_client_asked_for(host, address, port):
    known = tracing.received(
        _scope("/models", scheme="https", http_version="1.1"), Headers({"host": host} if host else {})
    )
    assert (known.get("server.address"), known.get("server.port")) == (address, port)
    assert (known["url.scheme"], known["url.path"], known["network.protocol.version"]) == ("https", "/models", "1.1")
