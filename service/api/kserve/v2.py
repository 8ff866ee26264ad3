"""The Open Inference Protocol V2 over REST, with its extensions for binary data and for classification.

The protocol knows no explaining; its outputs are the words for it: `probabilities`, one output for each method whose
maps are heat maps, and `explanation`, which is the whole answer of any method.
"""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service.api.callers.callers import most_urgent
from service.api.context import context
from service.api.kserve import outputs, tensors
from service.api.kserve.batch import answered, written
from service.api.kserve.inference import INPUTS, Inference
from service.api.kserve.outputs import EXPLANATION, PREDICTION
from service.api.observing.recording import record
from service.api.routes import received_bytes
from service.api.running import in_pool
from service.api.telling.health import check_live, check_ready
from service.api.telling.version import told
from service.engine.network.resident import Model
from service.errors import NotFound, ServiceError, quoted
from service.explainers.base import registry
from service.pipeline import applicability

LENGTH = "inference-header-content-length"
"""The header that says how many bytes of a body with binary data are JSON."""


def router() -> APIRouter:
    """Return the protocol's routes."""
    routes = APIRouter()
    routes.add_api_route("/v2", _server)
    routes.add_api_route("/v2/", _server)  # the protocol's text has the one, and its formal description the other
    routes.add_api_route("/v2/health/live", _live)
    routes.add_api_route("/v2/health/ready", _ready)
    routes.add_api_route("/v2/models", _models)
    routes.add_api_route("/v2/repository/index", _index, methods=["POST"])
    for place in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes.add_api_route(place, _metadata)
        routes.add_api_route(f"{place}/ready", _model_ready)
        routes.add_api_route(f"{place}/infer", _infer, methods=["POST"])
    return routes


async def _server(request: Request) -> dict[str, Any]:
    service = context(request)
    build = told(service.settings, service.device).model_dump(
        include={"name", "version", "revision", "torch", "device"}
    )
    return build | {"extensions": ["binary_tensor_data", "classification"]}


async def _live(request: Request) -> Response:
    live = await _well(request, ready=False)
    return JSONResponse({"live": live}, 200 if live else 503)


async def _ready(request: Request) -> Response:
    ready = await _well(request, ready=True)
    live = ready or await _well(request, ready=False)
    return JSONResponse({"ready": ready, "live": live}, 200 if ready else 503)


async def _well(request: Request, *, ready: bool) -> bool:
    """Whether the server is live or ready: as its own addresses say, in the protocol's words."""
    service = context(request)
    try:
        if ready:
            await check_ready(service)
        else:
            check_live(service)
    except ServiceError as error:
        record(request).failed(error)
        return False
    return True


async def _models(request: Request) -> dict[str, Any]:
    return {"models": list(context(request).store.entries)}


async def _index(request: Request) -> Response:
    states = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE"}
    return JSONResponse(
        [
            {"name": name, "state": states[entry.status], "reason": entry.error or ""}
            for name, entry in context(request).store.entries.items()
        ]
    )


def _model(request: Request, name: str, version: str | None) -> Model:
    """Return a model that is ready.

    Raises:
        NotFound: it has another version.
        ServiceError: there is none of that name, or it is not ready.
    """
    model = context(request).store.get(name)
    if version not in (None, _version(model)):
        raise NotFound(f"model {name!r} has the version {_version(model)}, and not {quoted(version)}")
    return model


def _version(model: Model) -> str:
    return model.version.removeprefix("sha256:")[:12]


async def _model_ready(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    return {"name": _model(request, name, version).facts.name, "ready": True}


async def _metadata(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    model = _model(request, name, version)
    facts = model.facts
    columns = [{"name": column, "datatype": "FP32", "shape": [-1, facts.outputs]} for column in outputs.names(facts)]
    heat = [
        {"name": method, "datatype": "FP32", "shape": [-1, -1, -1, -1]}
        for method, reason in applicability(facts).items()
        if reason is None and registry()[method].needs_image and registry()[method].kind in outputs.HEAT
    ]
    documents = [{"name": one, "datatype": "BYTES", "shape": [-1]} for one in (PREDICTION, EXPLANATION)]
    return {
        "name": name,
        "versions": [_version(model)],
        "platform": "pytorch_heatlens",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            *({"name": one, "datatype": "BYTES", "shape": [-1], "optional": True} for one in INPUTS[1:]),
        ],
        "outputs": [*columns, *heat, *documents],
    }


async def _infer(request: Request, name: str, version: str | None = None) -> Response:
    service, known = context(request), record(request)
    model = _model(request, name, version)
    length = request.headers.get(LENGTH)
    data, run = await received_bytes(request, tensors.counter(length))
    most = most_urgent(request.scope, service.settings.max_priority)
    asked = await in_pool(service.body_pool, lambda: Inference.read(data, length, model.facts, most), run.caller)
    known.method = asked.method
    found = await answered(request, asked.questions)
    head: dict[str, Any] = {"model_name": name, "model_version": _version(model)}
    if asked.lowered is not None:
        head["parameters"] = {"priority_lowered_to": asked.lowered}
    if asked.id is not None:
        head["id"] = asked.id

    def encoded() -> tuple[bytes, int | None]:
        return tensors.write(head, asked.tensors(found), asked.binary)

    answer, end = await written(request, found, encoded)
    if end is None:
        return Response(answer, media_type="application/json")
    return Response(answer, headers={LENGTH: str(end)}, media_type="application/octet-stream")
