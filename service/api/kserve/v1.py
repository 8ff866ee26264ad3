"""KServe's V1 protocol: `POST /v1/models/{name}:predict` and `:explain`, a list of instances each.

An instance is a picture in base64, `{"b64": ...}`, or an object with `image` and what else a request may say; what
stands beside `instances` holds for all of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.answer import Answer, Needs
from service.api import formats
from service.api.bodies.fields import check
from service.api.context import context
from service.api.kserve import outputs, tensors
from service.api.kserve.batch import Question, answered, bounded, placed
from service.api.kserve.inference import DEFAULT
from service.api.observing.recording import record
from service.api.routes import received_bytes
from service.api.running import in_pool
from service.ask import Ask, checked
from service.client import wire
from service.contract import Facts
from service.errors import InvalidParameter, quoted


def router() -> APIRouter:
    """Return the protocol's routes."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models(request: Request) -> dict[str, list[str]]:
        return {"models": list(context(request).store.entries)}

    @routes.post("/v1/models/{name}:predict")
    async def predict(request: Request, name: str) -> Response:
        body = await _received(request)
        facts = context(request).store.get(name).facts
        row = formats.Format("", (), "", Needs(0), _numbers(facts))
        questions = [
            Question(_predicting(fields, name, facts, pointer), row, pointer)
            for fields, pointer in _instances(body, wire.PredictRequest)
        ]
        return _json("predictions", await answered(request, questions))

    @routes.post("/v1/models/{name}:explain")
    async def explain(request: Request, name: str) -> Response:
        body = await _received(request)
        questions = []
        _named(dict(body), lambda inner: inner)
        for fields, pointer in _instances(body, wire.ExplainRequest):
            method = _named(fields, pointer)
            with placed(pointer):
                questions.append(Question(Ask.explain(method, fields | {"model": name}), formats.JSON, pointer))
            record(request).method = method
        return _json("explanations", await answered(request, questions))

    # Behind those two, whose addresses it would take for models' names: what they allow would be said of it.
    @routes.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        return {"name": context(request).store.get(name).facts.name, "ready": True}

    return routes


async def _received(request: Request) -> dict[str, Any]:
    data, run = await received_bytes(request)
    return await in_pool(context(request).pool, lambda: tensors.split(data, None)[0], run.caller)


def _json(name: str, parts: list[bytes]) -> Response:
    return Response(orjson.dumps({name: [orjson.Fragment(part) for part in parts]}), media_type="application/json")


def _named(fields: dict[str, Any], pointer: Callable[[str], str]) -> str:
    """Take the method's name out of the fields.

    Raises:
        InvalidParameter: it is no name.
    """
    method = fields.pop("method", DEFAULT)
    if not isinstance(method, str):
        raise InvalidParameter.at(pointer("/method"), f"method has to be a name, not {type(method).__name__}")
    return method


def _instances(body: dict[str, Any], schema: type[wire.Request]) -> list[tuple[dict[str, Any], Callable[[str], str]]]:
    """Return each instance's fields, and where they stand in the request.

    Raises:
        InvalidParameter: there are none, or something else; or what stands beside them is wrong, which is told even
            where each instance has its own.
    """
    sent, shared = body.get("instances"), {key: value for key, value in body.items() if key != "instances"}
    if not isinstance(sent, list):
        raise InvalidParameter.at("/instances", 'send a list of pictures: {"instances": [{"image": {"b64": "..."}}]}')
    bounded(len(sent), "/instances")
    checked(schema, {key: value for key, value in shared.items() if key != "method"})
    found = []
    for i, one in enumerate(sent):
        own = _fields(one, f"/instances/{i}")
        pointer = _pointing(f"/instances/{i}", own)
        with placed(pointer):
            check(shared | own, f"instance {i}")
        found.append((shared | own, pointer))
    return found


def _fields(one: Any, pointer: str) -> dict[str, Any]:
    if isinstance(one, str):
        return {"image": one}
    if not isinstance(one, dict):
        raise InvalidParameter.at(pointer, f"an instance is a picture in base64 or an object, not {quoted(one)}")
    if set(one) == {"b64"}:
        return {"image": one["b64"]}
    image = one.get("image")
    return one | {"image": image["b64"]} if isinstance(image, Mapping) and set(image) == {"b64"} else dict(one)


def _pointing(place: str, own: Mapping[str, Any]) -> Callable[[str], str]:
    """Return how a pointer into a question becomes one into the request: into its instance, or beside them all."""

    def pointer(inner: str) -> str:
        name = inner.split("/")[1] if inner else "image"
        return place + inner if name in own or name == "image" else inner

    return pointer


def _predicting(fields: dict[str, Any], name: str, facts: Facts, pointer: Callable[[str], str]) -> Ask:
    if "top_k" in fields:
        raise InvalidParameter.at(pointer("/top_k"), "this protocol returns all outputs in their order; leave it out")
    with placed(pointer):
        ask = Ask.predict(fields | {"model": name})
    return outputs.whole(ask, facts)


def _numbers(facts: Facts) -> Callable[[Answer], bytes]:
    """Return what makes an instance's prediction: the numbers in the order of the outputs, or what a task has else."""

    def encode(answer: Answer) -> bytes:
        columns = outputs.columns(answer, facts)
        if "values" in columns or "probabilities" in columns:
            return formats.dumps(columns.get("values", columns.get("probabilities")))
        return formats.dumps(formats.document(answer)["predictions"])

    return encode
