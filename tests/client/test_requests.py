"""What a call says, as the request that the service reads."""

import asyncio
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from fastapi import Request

from service.api.bodies import body
from service.ask import Ask
from service.client import requests
from service.client.errors import InvalidRequest


def test_options_find_their_places():
    options = {
        "targets": "tabby",
        "model": "tiny",
        "colormap": "viridis",
        "opacity": None,
        "precision": None,
        "window": 48,
        "layer": None,
        "params": {"stride": 8},
    }
    assert requests.fields(options) == {
        "targets": ["tabby"],
        "model": "tiny",
        "output": {"array": "base64", "heatmap": False, "colormap": "viridis"},
        "params": {"stride": 8, "window": 48, "layer": None},
    }
    assert requests.fields({"targets": [1, "a"]})["targets"] == [1, "a"]
    assert requests.fields({"targets": {"class": 1}})["targets"] == [{"class": 1}]
    for one in (np.int64(1), np.array(1), np.array([1])):  # as argmax and argsort give them
        assert requests.fields({"targets": one})["targets"] == [1]


def test_the_service_reads_what_is_sent():
    asked = requests.explain("occlusion", b"picture", {"window": np.int64(48), "pictures": [b"further"], "targets": 3})
    request = httpx.Request(asked.verb, "http://host" + asked.path, headers=asked.headers, **asked.body(12.5))
    content = request.read()
    scope = {"type": "http", "method": "POST", "headers": [(n.lower(), v) for n, v in request.headers.raw]}

    async def receive():
        return {"type": "http.request", "body": content, "more_body": False}

    with ThreadPoolExecutor(1) as pool:
        sent = asyncio.run(body.read(Request(scope, receive), 10**6, 10, 1, pool))
    ask = Ask.explain("occlusion", sent.fields, sent.image)
    assert (ask.pictures, ask.further, ask.targets, ask.timeout_s) == ((b"picture",), (b"further",), (3,), 12.5)
    assert ask.method.window == 48
    assert (ask.output.array, ask.output.heatmap, ask.output.overlay) == ("base64", False, True)
    assert asked.headers["x-session-id"] == hashlib.sha256(b"picture").hexdigest()[:16]


def test_a_comparison_names_its_methods():
    asked = requests.compare(["cam", {"method": "occlusion", "params": {"window": 8}}], b"x", {"metrics": ["road"]})
    sent = asked.body(1.0)["files"][-1][1][1]
    assert '"methods": ["cam", {"method": "occlusion", "params": {"window": 8}}], "metrics": ["road"]' in sent
    with pytest.raises(InvalidRequest, match=r"window: no option of a comparison; parameters stand with their method"):
        requests.compare(None, b"x", {"window": 8})


def test_what_no_request_can_hold_is_a_mistake():
    with pytest.raises(TypeError, match="nothing that a request can hold"):
        requests.explain("cam", b"x", {"layer": object()}).body(1.0)


def test_a_time_without_end_is_as_long_as_a_server_takes():
    asked = requests.explain("cam", b"picture", {})
    assert json.loads(asked.body(float("inf"))["files"][-1][1][1])["timeout_s"] == 86_400


def test_names_are_no_addresses():
    assert requests.explain("cam?map=2/../x", b"picture", {}).path == "/explain/cam%3Fmap%3D2%2F..%2Fx"
