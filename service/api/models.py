"""`GET /methods`, `/models` and `/metrics`: what is served."""

from functools import cache, partial

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from service.api.callers.callers import share
from service.api.context import context
from service.api.documentation import refusals
from service.api.running import in_pool, made
from service.client import wire
from service.engine.network.resident import Model
from service.engine.store import Entry, Store
from service.methods.table import table
from service.metrics import OPEN_METRICS
from service.models.spec import ModelSpec
from service.pipeline import applicability, passes

router = APIRouter()


@router.get(
    "/methods",
    tags=["methods"],
    operation_id="list_methods",
    summary="All explanation methods.",
    response_model=wire.MethodList,
    openapi_extra={"responses": refusals(401)},
)
async def methods() -> Response:
    """Return each method with its parameters' JSON Schema, what it needs of a model, and what it costs."""
    return Response(await made(_methods), media_type="application/json")


@cache
def _methods() -> bytes:
    """Return what is the same for all who ask: to write it anew takes long, and nobody else is answered meanwhile."""
    known = wire.MethodInfo.model_fields
    listed = [
        wire.MethodInfo(**{key: value for key, value in entry.items() if key in known}) for entry in table().values()
    ]
    return wire.MethodList(methods=listed).model_dump_json().encode()


def _summary(entry: Entry, default: str) -> wire.ModelSummary:
    spec = entry.spec
    return wire.ModelSummary(
        name=spec.name,
        default=spec.name == default,
        status=entry.status,
        task=(entry.model.facts.task if entry.model else spec.task).name,
        source=spec.source,
        error=entry.error,
    )


def _input(spec: ModelSpec) -> wire.InputInfo:
    transform = spec.transform
    return wire.InputInfo(
        height=transform.crop[0],
        width=transform.crop[1],
        channels=transform.channels,
        resize=transform.resize if isinstance(transform.resize, int) else list(transform.resize),
        fit=transform.fit,
        interpolation=transform.interpolation,
        mean=list(transform.mean),
        std=list(transform.std),
        range=list(transform.range),
        window=None if transform.window is None else list(transform.window),
        assumed=list(spec.assumed),
    )


def _tuning(store: Store, model: Model) -> wire.TuningInfo | None:
    tuned = store.tuner.found.get(model.version) if store.tuner else None
    if tuned is None:
        return None
    return wire.TuningInfo(
        **{name: getattr(tuned, name) for name in wire.TuningInfo.model_fields if hasattr(tuned, name)}
        | {"timings": [wire.TimingInfo(**vars(timing)) for timing in tuned.timings]},
        incremental=model.boxes is not None,
        whole=model.whole,
    )


@router.get(
    "/models",
    tags=["models"],
    operation_id="list_models",
    summary="All served models.",
    openapi_extra={"responses": refusals(401)},
)
async def models(request: Request) -> wire.ModelList:
    """Return every model with its status."""
    store = context(request).store
    return wire.ModelList(models=[_summary(entry, store.default) for entry in store.entries.values()])


@router.get(
    "/models/{name}",
    tags=["models"],
    operation_id="get_model",
    summary="One model in full.",
    openapi_extra={"responses": refusals(401, 404)},
)
async def model(request: Request, name: str) -> wire.ModelInfo:
    """Return a model's version, input, default layer, and which methods apply to it and why others do not."""
    store = context(request).store
    entry = store.entry(name)
    spec, loaded = entry.spec, entry.model
    facts = loaded.facts if loaded else None
    head = facts.head if facts else None
    checks = facts.checks if facts else entry.checks
    return wire.ModelInfo(
        **_summary(entry, store.default).model_dump(),
        version=loaded.version if loaded else None,
        device=str(loaded.device) if loaded else None,
        load_s=entry.load_s,
        outputs=facts.outputs if facts else None,
        scale=facts.task.scale if facts else None,
        checks=[wire.CheckInfo(**vars(check)) for check in checks] if checks is not None else None,
        labels=len(spec.labels),
        task_assumed=facts.task_assumed if facts else not spec.task_known,
        loading=list(spec.said),
        input=_input(spec),
        default_layer=facts.default_layer if facts else None,
        head=wire.HeadInfo(layer=head.layer, residual=head.residual) if head else None,
        rectifiers=facts.rectifiers if facts else None,
        other_activations=list(facts.other_activations) if facts else None,
        tuning=_tuning(store, loaded) if loaded else None,
        methods=[
            wire.MethodUse(
                name=method,
                applies=reason is None,
                reason=reason,
                passes=passes(facts, method) if reason is None else None,
                sanity=store.verdict(loaded, method) if loaded and reason is None else None,
            )
            for method, reason in applicability(facts).items()
        ]
        if facts
        else None,
    )


@router.get(
    "/models/{name}/layers",
    tags=["models"],
    operation_id="get_layers",
    summary="A model's layers.",
    openapi_extra={"responses": refusals(401, 404, 503)},
)
async def layers(request: Request, name: str) -> wire.LayerList:
    """Return every address inside a network, in the order in which they answer."""
    facts = context(request).store.get(name).facts
    return wire.LayerList(
        model=name,
        layers=[
            wire.LayerWire(
                path=info.path,
                type=info.type,
                shape=list(info.shape),
                spatial=info.spatial,
                layout=str(info.layout) if info.layout is not None else None,
                default=info.path == facts.default_layer,
                followed_by=info.followed_by,
            )
            for info in facts.layers.values()
        ],
    )


@router.get(
    "/metrics",
    tags=["health"],
    operation_id="metrics",
    summary="What Prometheus collects.",
    response_class=PlainTextResponse,
    responses={200: {"content": {OPEN_METRICS: {"schema": {"type": "string"}}}}},
    openapi_extra={"responses": refusals(401)},
)
async def metrics(request: Request) -> Response:
    """Return counters, gauges and histograms: Prometheus' text, or OpenMetrics with examples of traces on request."""
    service, accept = context(request), request.headers.get("accept", "")
    text, media_type = await in_pool(
        service.health_pool, partial(service.metrics.exposition, accept), share(request.scope)
    )
    return Response(text, headers={"content-type": media_type, "vary": "accept"})
