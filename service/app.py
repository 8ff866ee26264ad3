"""The one place that wires everything together."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service import spans
from service.api import documentation, kserve, models, problems, routes, telling
from service.api.callers.callers import Callers
from service.api.callers.keys import Key, no_key, numbered, of_file
from service.api.comparing import route as comparing
from service.api.context import Context
from service.api.edge.addresses import FIRST, HEALTH
from service.api.edge.nowhere import Nowhere
from service.api.edge.packed import Packed
from service.api.edge.rooted import Rooted
from service.api.heads import Heads
from service.api.kserve.v2 import LENGTH
from service.api.middleware import Bodies, CrossSite, Keys, Refusing
from service.api.observing import gauges
from service.api.observing.recording import Recording
from service.api.origins import origin
from service.api.pages import docs, front
from service.api.pages.cors import Cors
from service.api.queries import Queries
from service.api.readiness import Readiness
from service.codec.choosing import codec_processes, limits
from service.codec.inside import Codec
from service.codec.processes import Processes
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.store import Store
from service.errors import CatalogError
from service.fair.threads import Threads
from service.machine.accelerators import choose_device
from service.machine.cores import cores
from service.metrics import Metrics
from service.models.choice import chosen
from service.pipeline import Pipeline
from service.process import leave_cores_to_the_device
from service.sanity.verifier import Verifier
from service.settings import BATCH_MIB, BATCH_MS, TRACES, Settings, loopback, secret, unknown
from service.tuning import Tuner

log = logging.getLogger("heatlens")
_KEYS = 2**20  # characters of the file of keys: what has more is none, as a device that never ends
_LOADERS_S = 5.0  # that models which are loaded may still take when a server ends: less than it waits for its end
# Pages and probes of others, which put what they like behind a question mark.
_FREE = ("/", "/docs", "/metrics", *HEALTH)


def _api_keys(settings: Settings) -> tuple[Key, ...]:
    """Return the keys of settings and file.

    Raises:
        CatalogError: settings or file name no key where they should, or the file cannot be read.
    """
    keys: list[tuple[str, int | None]] = [(key.get_secret_value(), None) for key in settings.api_keys]
    if not keys and "api_keys" in settings.model_fields_set:
        raise CatalogError("HEATLENS_API_KEYS is set and holds no key; unset it to let everybody ask")
    if wrong := next(filter(None, (no_key(secret) for secret, _ in keys)), None):
        raise CatalogError(f"HEATLENS_API_KEYS: {wrong}")
    if settings.api_keys_file is None:
        return numbered(keys)
    try:
        with settings.api_keys_file.open(encoding="utf-8-sig") as file:  # Windows' editors begin with a mark
            text = file.read(_KEYS + 1)
        if len(text) > _KEYS:
            raise ValueError(f"it has more than {_KEYS:,} characters; name a file of keys, one a line")
        lines = of_file(text)
    except OSError as error:
        raise CatalogError(f"api_keys_file {str(settings.api_keys_file)!r}: {error.strerror}") from None
    except ValueError as error:
        said = "it is no UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise CatalogError(f"api_keys_file {str(settings.api_keys_file)!r}: {said}") from None
    if not lines:
        raise CatalogError(f"api_keys_file {str(settings.api_keys_file)!r} holds no key; write one a line")
    return numbered(keys + lines)


def _origins(settings: Settings) -> tuple[str, ...]:
    """Return the origins of pages that may ask, as browsers send them.

    Raises:
        CatalogError: one of them is none, and would never match.
    """
    try:
        return tuple(origin(text) for text in settings.cors_origins)
    except ValueError as error:
        raise CatalogError(f"cors_origins: {error}") from None


def _codec(settings: Settings, metrics: Metrics) -> Codec:
    """Start the processes that decode and draw."""
    count = codec_processes(settings)
    return Processes(limits(settings), count, cores(), observe=metrics.codec, ended=metrics.ended)


def build(settings: Settings, metrics: Metrics | None = None, codec: Codec | None = None) -> Context:
    """Make the parts of a service; nothing is loaded yet.

    Args:
        settings: the operator's.
        metrics: what is counted; default: its own.
        codec: decodes and draws; default: the threads that ask.

    Raises:
        CatalogError: the models asked for cannot be set up.
    """
    metrics = metrics or Metrics()
    specs, default = chosen(settings.model, settings.catalog, settings.models, settings.name)
    accelerator = choose_device(settings.device)
    batch_bytes = (settings.max_batch_mib or BATCH_MIB[accelerator.type]) * 2**20
    device = Device(
        accelerator,
        max_batch_rows=settings.max_batch_rows,
        unmeasured_batch_rows=8 if accelerator.type == "cpu" else 32,
        max_batch_bytes=batch_bytes,
        max_trace_bytes=TRACES[accelerator.type] * batch_bytes,
        max_batch_s=(settings.max_batch_ms or BATCH_MS[accelerator.type]) / 1e3,
        max_waiting_passes=settings.max_waiting_passes,
        max_waiting_requests=settings.max_waiting_requests,
        cache_bytes=settings.score_cache_mib * 2**20,
        clean_bytes=settings.clean_activations_mib * 2**20,
        observe=lambda kind, network, *what: metrics.batch(kind, network.facts.name, *what),
    )
    verifier = Verifier(device, settings, tests=settings.verify and settings.tune)
    store = Store(specs, default, device, Tuner(device, settings), timeout_s=settings.load_timeout_s, verifier=verifier)
    pipeline = Pipeline(settings, store, device, codec)
    gauges.watch(metrics, settings, device, store, pipeline.codec)

    def check(name: str) -> None:
        pipeline.check(Run(timeout_s=settings.readiness_timeout_s, priority=100), name)

    return Context(
        settings=settings,
        store=store,
        metrics=metrics,
        device=device,
        pipeline=pipeline,
        pool=Threads(settings.worker_threads, "heatlens-request", leave_cores_to_the_device),
        long_pool=Threads(settings.worker_threads, "heatlens-long", leave_cores_to_the_device),
        body_pool=Threads(2, "heatlens-body", leave_cores_to_the_device, times=1),
        health_pool=Threads(2, "heatlens-health", leave_cores_to_the_device, times=1),
        readiness=Readiness(check, settings.readiness_timeout_s),
    )


def close(context: Context, patience_s: float = 15.0) -> None:
    """Stop loading, answer whoever still waits, and end all threads but those of models that take longer to load."""
    context.store.close()
    context.device.close()
    if left := context.store.join(patience_s):
        log.warning("not waited for: %s still loads or measures after %g s", ", ".join(left), patience_s)
    context.readiness.close()
    for pool in (context.pool, context.long_pool, context.body_pool, context.health_pool):
        pool.shutdown(wait=True, cancel_futures=True)
    context.pipeline.codec.close()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application. Models load in the background once it starts, so that liveness answers at once."""
    settings = settings or Settings()
    for mistake in unknown(os.environ):
        if secret(mistake.partition(" ")[0]):
            raise CatalogError(
                f"{mistake}; without keys the server would be open to everybody: name them in HEATLENS_API_KEYS or "
                "HEATLENS_API_KEYS_FILE, and unset this one"
            )
        log.warning("%s", mistake)
    # One caller alone has half of what small bodies leave.
    if (needed := 2 * settings.max_body_bytes * 16 // 15) > settings.bodies_mib * 2**20:
        log.warning(
            "HEATLENS_BODIES_MIB %d has no room for the largest pictures, which are refused whenever they come; set %d "
            "or more, or a smaller HEATLENS_MAX_IMAGE_BYTES",
            settings.bodies_mib,
            needed // 2**20 + 1,
        )
    under = f"{settings.root_path}/"
    own = [path for path in (*routes.paths(), *(f"/{first}" for first in FIRST)) if f"{path}/".startswith(under)]
    if under != "/" and own:
        raise CatalogError(f"HEATLENS_ROOT_PATH {settings.root_path} hides an address of the service's own, {own[0]}")
    metrics = Metrics()
    if settings.otel:
        try:
            spans.install()
        except ImportError:
            raise CatalogError("HEATLENS_OTEL needs OpenTelemetry: pip install 'heatlens[otel]'") from None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        codec = _codec(settings, metrics) if codec_processes(settings) else None
        app.state.context = build(settings, metrics, codec)
        app.state.context.store.start()
        try:
            yield
        finally:
            close(app.state.context, _LOADERS_S)

    # A redirect would go to whatever host the client has named.
    app = FastAPI(title="heatlens", lifespan=lifespan, redirect_slashes=False, openapi_url=None)
    app.include_router(routes.router())
    app.include_router(comparing.router())
    app.include_router(models.router)
    app.include_router(kserve.router())
    app.include_router(docs.router)
    app.include_router(front.router(page=settings.page))
    app.include_router(telling.router())
    problems.install(app)
    # Of middlewares, the last one added is the outermost.
    app.add_middleware(Bodies, max_bytes=settings.bodies_mib * 2**20)
    app.add_middleware(Packed, max_bytes=settings.max_body_bytes)
    ours = routes.paths()
    app.add_middleware(Queries, free={*_FREE, *(path for path in ours if path.startswith("/explain/"))})
    app.add_middleware(Refusing, work=lambda path: ours.get(path) or kserve.work(path))
    origins = _origins(settings)
    app.add_middleware(Nowhere)
    app.add_middleware(CrossSite, origins=origins)
    keys = _api_keys(settings)
    if keys:
        app.add_middleware(Keys, keys=keys)
    elif not loopback(settings.host):
        log.warning("listening on %s without keys: whoever reaches it may ask", settings.host)
    if origins:
        app.add_middleware(
            Cors,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-encoding", "content-type", "x-request-id", "x-session-id", LENGTH],
            expose_headers=["x-request-id", "server-timing", "retry-after", LENGTH],
        )
    app.add_middleware(Heads)
    app.add_middleware(Recording, metrics=metrics)
    app.add_middleware(Callers, proxies=settings.proxies, shares=settings.shares)
    app.add_middleware(Rooted, path=settings.root_path)
    app.openapi = lambda: documentation.openapi(app)  # type: ignore[method-assign]
    return app
