"""Requests whose target is no path, sent to the service as it is served."""

import json
import socket

import pytest

METHODS = "GET http://other.example/methods HTTP/1.1"
LAST = METHODS + "\r\nconnection: close"


def ask(client, *requests):
    """Send requests in one piece, and return the statuses, heads and bodies that come until the server closes."""
    with socket.create_connection((client.base_url.host, client.base_url.port), 60) as connection:
        connection.sendall(b"".join(one.encode() + b"\r\nhost: host.example\r\n\r\n" for one in requests))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers.get("content-length", 0))
        found.append((int(first.split()[1]), headers, received[:size]))
        received = received[size:]
    return found


def test_a_whole_address_is_answered_as_its_path_is(client):
    (status, _, body), (other, headers, said) = ask(client, METHODS, LAST.replace("methods", "%2e%2e?a=http://b/"))
    assert (status, json.loads(body)) == (200, client.get("/methods").json())
    assert (other, headers["content-type"], json.loads(said)["instance"]) == (404, "application/problem+json", "/..")


def test_no_answer_leads_to_a_host_that_was_sent(client):
    for target in ("http://other.example/docs/", "http://other.example//x.example/", "//x.example/", "/docs/"):
        ((status, headers, body),) = ask(client, LAST.replace("http://other.example/methods", target))
        assert status == 404
        assert "location" not in headers
        assert b".example" not in json.dumps(headers).encode() + body.replace(b"//x.example/", b"")


@pytest.mark.parametrize("target", ["*", "http://other.example"])
def test_the_server_as_a_whole_tells_its_verbs(client, target):
    (status, headers, body), (next_one, *_) = ask(client, f"OPTIONS {target} HTTP/1.1", LAST)
    assert (status, headers["allow"], body, next_one) == (204, "GET, HEAD, OPTIONS, POST".lower(), b"", 200)


def test_a_tunnel_is_opened_to_nowhere_and_what_follows_is_no_request(client):
    ((status, headers, body),) = ask(client, "CONNECT other.example:443 HTTP/1.1", METHODS)
    assert (status, headers["allow"], headers["connection"]) == (405, "get, head, options, post", "close")
    assert "no tunnels" in json.loads(body)["detail"]


@pytest.mark.parametrize(("verb", "target"), [("GET", "*"), ("GET", "methods"), ("CONNECT", "/methods")])
def test_what_is_no_target_is_a_problem(client, verb, target):
    ((status, headers, body),) = ask(client, f"{verb} {target} HTTP/1.1", METHODS)
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(body)["type"] == "urn:heatlens:problem:malformed-request"
