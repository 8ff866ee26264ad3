"""KServe's V1 protocol: `POST /v1/models/{name}:predict` and `:explain`, a list of instances each.

An instance is a picture in base64, `{"b64": ...}`, or an object with `image` and what else a request may say; what
stands beside `instances` holds for all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.answer import Answer, Needs
from service.api import formats
from service.api.bodies.fields import Counter, check, loaded
from service.api.context import context
from service.api.kserve import outputs
from service.api.kserve.batch import Question, answered, bounded, placed, written
from service.api.kserve.inference import DEFAULT
from service.api.observing.recording import record
from service.api.routes import received_bytes
from service.api.running import in_pool
from service.ask import Ask, checked
from service.client import wire
from service.contract import Facts
from service.errors import InvalidParameter, quoted

_ITEMS = 2**16  # commas and brackets: 256 for each of the most instances that a request may hold


def router() -> APIRouter:
    """Return the protocol's routes."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models(request: Request) -> dict[str, list[str]]:
        return {"models": list(context(request).store.entries)}

    @routes.post("/v1/models/{name}:predict")
    async def predict(request: Request, name: str) -> Response:
        def questions(body: dict[str, Any]) -> list[Question]:
            facts = context(request).store.get(name).facts
            row = formats.Format("", (), "", Needs(0), _numbers(facts))
            sent = _instances(body, wire.PredictRequest, name)
            return [Question(_predicting(one, facts), row, one.pointer) for one in sent]

        return await _answered(request, "predictions", questions)

    @routes.post("/v1/models/{name}:explain")
    async def explain(request: Request, name: str) -> Response:
        return await _answered(request, "explanations", lambda body: _explaining(body, name))

    # Behind those two, whose addresses it would take for models' names: what they allow would be said of it.
    @routes.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        return {"name": context(request).store.get(name).facts.name, "ready": True}

    return routes


async def _answered(request: Request, name: str, questions: Callable[[dict[str, Any]], list[Question]]) -> Response:
    """Read a body, and answer what it asks. Whatever grows with it is done by threads."""
    data, run = await received_bytes(request, Counter(_ITEMS))
    asked = await in_pool(context(request).body_pool, lambda: questions(loaded(data, "the body", _ITEMS)), run.caller)
    if (method := asked[-1].ask.method) is not None:
        record(request).method = method.name
    parts = await answered(request, asked)
    text = await written(request, parts, lambda: b'{"%s":[%s]}' % (name.encode(), b",".join(parts)))
    return Response(text, media_type="application/json")


def _named(fields: dict[str, Any], pointer: Callable[[str], str]) -> str:
    """Take the method's name out of the fields.

    Raises:
        InvalidParameter: it is no name.
    """
    method = fields.pop("method", DEFAULT)
    if not isinstance(method, str):
        raise InvalidParameter.at(pointer("/method"), f"method has to be a name, not {type(method).__name__}")
    return method


@dataclass(frozen=True)
class _Instance:
    """One instance's fields, with those that hold for all, and where they stand in the request.

    alike: whether it has nothing of its own but a picture.
    """

    fields: dict[str, Any]
    pointer: Callable[[str], str]
    alike: bool


def _instances(body: dict[str, Any], schema: type[wire.Request], model: str) -> list[_Instance]:
    """Return the instances.

    Raises:
        InvalidParameter: there are none, or something else; or what stands beside them is wrong, which is told even
            where each instance has its own.
    """
    sent, shared = body.get("instances"), {key: value for key, value in body.items() if key != "instances"}
    if not isinstance(sent, list):
        raise InvalidParameter.at("/instances", 'send a list of pictures: {"instances": [{"image": {"b64": "..."}}]}')
    bounded(len(sent), "/instances")
    check(shared)
    checked(schema, {key: value for key, value in shared.items() if key != "method"})
    found = []
    for i, one in enumerate(sent):
        own = _fields(one, f"/instances/{i}")
        pointer = _pointing(f"/instances/{i}", own, one)
        with placed(pointer):
            check(own)
        fields = shared | own
        if fields.get("model") not in (None, model):
            raise InvalidParameter.at(
                pointer("/model"),
                "the address names the model; leave this out, or ask for the other one at /v1/models/NAME",
            )
        alike = own.keys() == {"image"} and isinstance(own["image"], str)
        found.append(_Instance(fields | {"model": model}, pointer, alike))
    return found


def _explaining(body: dict[str, Any], model: str) -> list[Question]:
    """Return an explanation's questions; those that differ by their pictures alone are checked as one."""
    _named(dict(body), lambda inner: inner)
    questions, first = [], None
    for one in _instances(body, wire.ExplainRequest, model):
        method = _named(one.fields, one.pointer)
        with placed(one.pointer):
            if first is None or not one.alike:
                ask = Ask.explain(method, one.fields)
                first = ask if one.alike else first
            else:
                ask = replace(first, pictures=(one.fields["image"],))
        questions.append(Question(ask, formats.JSON, one.pointer))
    return questions


def _fields(one: Any, pointer: str) -> dict[str, Any]:
    if isinstance(one, str):
        return {"image": one}
    if not isinstance(one, dict):
        raise InvalidParameter.at(pointer, f"an instance is a picture in base64 or an object, not {quoted(one)}")
    if set(one) == {"b64"}:
        return {"image": one["b64"]}
    image = one.get("image")
    return one | {"image": image["b64"]} if isinstance(image, Mapping) and set(image) == {"b64"} else dict(one)


def _pointing(place: str, own: Mapping[str, Any], sent: Any) -> Callable[[str], str]:
    """Return how a pointer into a question becomes one into the request: into its instance, or beside them all."""
    image = sent.get("image") if isinstance(sent, Mapping) else None
    at = "" if isinstance(sent, str) else "/b64" if set(sent) == {"b64"} else "/image"
    at += "/b64" if isinstance(image, Mapping) and set(image) == {"b64"} else ""

    def pointer(inner: str) -> str:
        name = inner.split("/")[1] if inner else "image"
        if name == "image":
            return place + at
        return place + inner if name in own else inner

    return pointer


def _predicting(one: _Instance, facts: Facts) -> Ask:
    if "top_k" in one.fields:
        raise InvalidParameter.at(
            one.pointer("/top_k"), "this protocol returns all outputs in their order; leave it out"
        )
    with placed(one.pointer):
        ask = Ask.predict(one.fields)
    return outputs.whole(ask, facts)


def _numbers(facts: Facts) -> Callable[[Answer], bytes]:
    """Return what makes an instance's prediction: the numbers in the order of the outputs, or what a task has else."""

    def encode(answer: Answer) -> bytes:
        columns = outputs.columns(answer, facts)
        if "values" in columns or "probabilities" in columns:
            return formats.dumps(columns.get("values", columns.get("probabilities")))
        return formats.dumps(formats.document(answer)["predictions"])

    return encode
