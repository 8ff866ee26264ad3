"""Targets: whatever form a request names its address in, it is the same request, for the host that counts."""

import pytest

from service.server.targets import mistake

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


def scope(target, verb="GET", host="localhost:8000", hosts=LOCAL, version="1.1"):
    """Return what a head is read as, and what is wrong with it."""
    raw, _, query = target.partition("?")
    found = {
        "method": verb,
        "scheme": "http",
        "http_version": version,
        "path": raw,
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [(b"accept", b"*/*"), (b"host", host.encode())],
    }
    error = mistake(found, hosts)
    return found, error and error.detail


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://localhost:8000/predict?model=a", "/predict", b"model=a"),
        ("HTTP://LOCALHOST/predict", "/predict", b""),
        ("http://127.0.0.1/a%20b/c", "/a b/c", b""),
        ("http://[::1]:80/", "/", b""),
        ("http://localhost:", "/", b""),
        ("http://localhost?x=http://other/", "/", b"x=http://other/"),
        ("http://localhost//other.example/", "//other.example/", b""),
        ("http://localhost/http://other.example/", "/http://other.example/", b""),
    ],
)
def test_an_address_is_a_path_and_its_host_counts(target, path, query):
    found, error = scope(target, host="other.example")
    assert (error, found["path"], found["query_string"]) == (None, path, query)
    hosts = [value.decode() for name, value in found["headers"] if name == b"host"]
    assert hosts == [target.split("/")[2].partition("?")[0]]
    assert (b"accept", b"*/*") in found["headers"]


@pytest.mark.parametrize("verb", ["GET", "POST", "OPTIONS", "HEAD"])
def test_a_path_is_left_as_it_is(verb):
    found, error = scope("/predict", verb)
    assert (error, found["path"], found["headers"][1]) == (None, "/predict", (b"host", b"localhost:8000"))


@pytest.mark.parametrize(
    ("target", "verb"),
    [("http://other.example/predict", "GET"), ("other.example:443", "CONNECT"), ("http://localhost.other/", "POST")],
)
def test_a_host_that_is_none_of_the_servers_is_refused_whatever_host_stands_beside_it(target, verb):
    _, error = scope(target, verb, host="localhost")
    assert "the server is not called" in error
    assert scope(target, verb, hosts=frozenset())[1] is None  # it answers to all names


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("predict", "begins with /"),
        ("*", "begins with /"),
        ("localhost:8000", "begins with /"),
        ("http:/predict", "begins with /"),
        ("https://localhost/predict", "http is spoken"),
        ("ftp://localhost/predict", "http is spoken"),
        ("http:///predict", "names no host"),
        ("http://user@localhost/predict", "names no host"),
        ("http://localhost:8000@other/predict", "names no host"),
        ("http://localhost:eighty/predict", "names no host"),
        ("http://localhost#/predict", "names no host"),
        ("http://localhost\\.other/predict", "names no host"),
        ("http://[localhost/predict", "names no host"),
    ],
)
def test_what_is_no_target_is_told(target, said):
    assert said in scope(target, hosts=frozenset())[1]


@pytest.mark.parametrize(
    "target", ["/predict", "http://localhost/predict", "*", "localhost", "localhost:", "user@localhost:443"]
)
def test_a_tunnel_is_to_a_host(target):
    assert "CONNECT names a host" in scope(target, "CONNECT")[1]


@pytest.mark.parametrize(
    ("target", "path"), [("*", "*"), ("http://localhost", "*"), ("http://localhost/", "/"), ("http://localhost?a", "/")]
)
def test_the_server_as_a_whole_is_asked_for_its_options(target, path):
    found, error = scope(target, "OPTIONS")
    assert (error, found["path"]) == (None, path)


@pytest.mark.parametrize("path", ["/predict", "/health/live"])
@pytest.mark.parametrize(
    "host",
    ["h/path", "user@h", "h:80:80", "h:8x", "a b", "[::1", "h?q", "h#f", "\N{LATIN SMALL LETTER U WITH DIAERESIS}"],
)
def test_what_is_no_host_is_refused_whatever_the_server_is_called(host, path):
    for hosts in (LOCAL, frozenset()):
        assert "Host names no host" in scope(path, host=host, hosts=hosts)[1]


@pytest.mark.parametrize("host", ["", "h", "h:", "H_1.example.:80", "[::1]:8000", "10.0.0.1", "xn--tda"])
def test_any_host_is_one_where_the_server_answers_to_all(host):
    assert scope("/predict", host=host, hosts=frozenset())[1] is None


def test_a_health_check_is_answered_by_whatever_name():
    assert scope("http://10.0.0.7:8000/health/live")[1] is None


def test_another_version_is_told_before_its_target():
    assert "HTTP/2.0" in scope("*", "PRI", version="2.0")[1]
