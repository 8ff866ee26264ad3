"""Origins that would never match are refused with what to write."""

import pytest

from service.api.origins import origin, same_host
from service.app import create_app
from service.errors import CatalogError
from service.settings import Settings
from tests.conftest import CATALOG


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://example.org", "https://example.org"),
        ("https://example.org/", "https://example.org"),
        ("HTTPS://Example.ORG", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("*", "*"),
        ("null", "null"),
    ],
)
def test_origins_are_written_as_browsers_send_them(text, found):
    assert origin(text) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("example.org", "as https://example.org"),
        ("https://example.org/page", "write https://example.org$"),
        ("https://*.example.org", r"write \* for all"),
        ("https://example.org:port", "write scheme://host or scheme://host:port"),
        ("https://a:b@example.org", "is no origin"),
        ("https://", "is no origin"),
    ],
)
def test_what_would_never_match_is_no_origin(text, says):
    with pytest.raises(ValueError, match=says):
        origin(text)


def test_a_server_with_such_an_origin_does_not_start():
    with pytest.raises(CatalogError, match=r"cors_origins: 'example.org' is no origin; write scheme://host"):
        create_app(Settings(catalog=CATALOG, cors_origins="https://a.example example.org"))


@pytest.mark.parametrize(
    ("page", "host", "same"),
    [
        ("http://a.example", "a.example", True),
        ("http://a.example:81", "a.example:80", True),
        ("https://[::1]:81", "[::1]", True),
        ("http://A.example", "a.EXAMPLE", True),
        ("http://a.example", "b.example", False),
        ("http://a.example", "a.example.b.example", False),
        ("http://a.example", "", False),
        ("null", "null", False),
        ("", "", False),
        ("http://[", "[", False),
    ],
)
def test_a_page_is_of_the_host_that_it_asks(page, host, same):
    assert same_host(page, {"host": host}) is same
