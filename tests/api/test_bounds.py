"""No answer repeats more than a beginning of what was sent, or names more than some mistakes: over all routes."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from service.api.documentation import openapi
from service.api.problems import LONGEST
from service.app import create_app
from service.ask import MOST_ERRORS, Ask
from service.errors import InvalidParameter
from service.explainers.base import registry
from service.settings import Settings
from tests.api.test_bad_input import BASE64, PNG
from tests.conftest import CATALOG

DOCUMENT = openapi(create_app(Settings(catalog=CATALOG)))
ODD = [("GET", "/nothing"), ("BREW", "/models"), ("POST", "/explain/{x}")]
ROUTES = [(verb.upper(), path) for path, item in DOCUMENT["paths"].items() for verb in item]
POSTS = [path for verb, path in ROUTES if verb == "POST" and path.startswith(("/predict", "/explain/"))]
PROTOCOLS = [path for verb, path in ROUTES if verb == "POST" and path not in POSTS]
TEXTS = {"word": "q" * 3000, "words": "q " * 1500, "quotes": "'\"" * 1500, "wide": "\N{CAT FACE}" * 1500}


def repeats(answer: httpx.Response, text: str) -> bool:
    """Whether an answer has more than the bound of a text that was sent, as it is or as Python writes it."""
    found = answer.json() if "json" in answer.headers["content-type"] else answer.text
    found = found if isinstance(found, dict) else {"text": json.dumps(found)}
    shown = [*found.values(), *(one for error in found.get("errors", ()) for one in error.values())]
    spellings = [one[: LONGEST + 1] for one in (text, text.replace("'", "\\'"), text.encode().decode("latin-1"))]
    return any(one in value for one in spellings for value in shown if isinstance(value, str))


def fields_of(path: str) -> Iterator[tuple[str, ...]]:
    """Give the place of each field of a route's request, those of its objects too."""
    reference = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schemas = DOCUMENT["components"]["schemas"]

    def inside(schema: dict[str, Any], place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, one in schema.get("properties", {}).items():
            if name not in ("image", "pictures"):  # whose texts may be long
                yield (*place, name)
            if "$ref" in one:
                yield from inside(schemas[one["$ref"].rpartition("/")[2]], (*place, name))

    yield from inside(schemas[reference.rpartition("/")[2]], ())


def nested(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(place):
        value = {name: value}
    return value


# What methods' routes have in common, one of them is asked all of; the others what is their own.
ASKED = ("/predict", "/explain/grad-cam")
HEADS = [(*route, name) for route in (*ROUTES, *ODD) for name in TEXTS if name == "word" or route[1] not in POSTS[2:]]


@pytest.mark.parametrize(("verb", "path", "kind"), HEADS)
def test_heads(client: httpx.Client, verb: str, path: str, kind: str) -> None:
    text = TEXTS[kind]
    whole = path.replace("{name}", text).replace("{x}", text)
    ask = {"params": {text: text}} if "wide" not in text else {}
    assert not repeats(client.request(verb, whole, headers={"accept": "application/json"}), text)
    named = path.replace("{name}", "tiny")
    assert not repeats(client.request(verb, named, **ask), text)
    plain = text if text.isascii() else "q" * 3000
    for header in ("accept", "content-type", "content-encoding", "x-request-id", "origin", "authorization"):
        assert not repeats(client.request(verb, named, headers={header: plain.strip()}), plain)
    form = f"multipart/form-data; boundary=x; charset={'q' * 900}"
    assert not repeats(client.request(verb, named, headers={"content-type": form}, content=b"x"), "q" * 900)


@pytest.mark.parametrize("path", POSTS)
def test_fields(client: httpx.Client, path: str) -> None:
    text = "q " * 1500
    numbers = [1.5] * 3000
    common = [(text,), ("params", text), ("output", text), ("targets",)]
    for place in [place for place in (*fields_of(path), *common) if path in ASKED or place[0] == "params"]:
        for value in (text, [{"like": text, text: 1}], [{"box": numbers}]):
            answer = client.post(path, json={"model": "tiny"} | nested(place, value))
            assert 400 <= answer.status_code < 429, answer.text
            for sent in (text, ", ".join(map(str, numbers))):
                assert not repeats(answer, sent)


@pytest.mark.parametrize("path", POSTS)
def test_parts(client: httpx.Client, path: str) -> None:
    for text in TEXTS.values():
        for files in ({text: PNG}, {"image": (text, b"GIF89a", text if text.isascii() else "image/png")}):
            assert not repeats(client.post(path, files=files), text)


@pytest.mark.parametrize("path", POSTS)
def test_many_mistakes_are_named_by_the_first(client: httpx.Client, path: str) -> None:
    words = [f"modl{i}" for i in range(100)]
    found = client.post(path, json={"image": BASE64} | dict.fromkeys(words, 1)).json()
    assert 0 < len(found["errors"]) <= MOST_ERRORS
    assert json.dumps(found["errors"]).count("did you mean") == 1


@pytest.mark.parametrize("name", registry())
def test_texts_that_are_just_short_enough(name: str) -> None:
    """What a method's own checks say of a text is bounded, too."""
    for field in registry()[name].model_fields:
        for value in ("q" * 256, ["q" * 256] * 3, {"q" * 128: 1}):
            with suppress(InvalidParameter):
                Ask.explain(name, {"params": {field: value}})
                continue  # it may be a layer's name
            with pytest.raises(InvalidParameter) as found:
                Ask.explain(name, {"params": {field: value}})
            assert "q" * (LONGEST + 1) not in str(found.value)
            assert len(found.value.errors) <= MOST_ERRORS


@pytest.mark.parametrize("path", PROTOCOLS)
def test_other_protocols(client: httpx.Client, path: str) -> None:
    """Their bodies are made of other fields, around those of the same questions."""
    text, url = "q " * 1500, path.replace("{name}", "tiny").replace("{version}", "1")
    one = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [BASE64]}
    bodies: list[Any] = [{text: 1}, {"id": text}, {"inputs": text}, {"instances": text}, {"parameters": text}]
    for value in (text, {text: text}, [text] * 3, [1.5] * 3000):
        bodies += [{"instances": [{"b64": BASE64, "params": value}]}, {"instances": [value]}]
        bodies += [{"instances": [{"b64": BASE64, name: value}]} for name in ("method", "targets", "output", "model")]
        bodies += [{"inputs": [one | {name: value}]} for name in one]
        for name in ("method", "grad-cam.layer", "timeout", "output.colormap", text):
            bodies.append({"inputs": [one], "parameters": {name: value}, "outputs": [{"name": "explanation"}]})
        bodies += [{"inputs": [one], "outputs": [{name: value}]} for name in ("name", "parameters")]
    for body in bodies:
        answer = client.post(url, json=body)
        assert answer.status_code < 500, answer.text
        if answer.status_code != 200:
            assert not repeats(answer, text)
            assert not repeats(answer, ", ".join(["1.5"] * 3000))
            assert len(answer.json().get("errors", ())) <= MOST_ERRORS
