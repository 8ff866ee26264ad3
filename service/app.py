"""The one place that wires everything together."""

import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import torch
from fastapi import FastAPI

from service.api import documentation, explain, models, predict, problems
from service.api.context import Context
from service.engine.catalog import requested
from service.engine.device import Device
from service.engine.store import Store
from service.errors import CatalogError
from service.pipeline import Pipeline
from service.settings import Settings

log = logging.getLogger("heatlens")


def choose_device(wanted: str) -> torch.device:
    """Return the device to run on; `auto` takes CUDA where there is one.

    Raises:
        CatalogError: CUDA was asked for and is not there.
    """
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CatalogError(f"--device {wanted}: there are {torch.cuda.device_count()} CUDA devices; use cpu or auto")
    return device


def build(settings: Settings) -> Context:
    """Make the parts of a service; nothing is loaded yet.

    Raises:
        CatalogError: the models asked for cannot be set up.
    """
    specs, default = requested(settings.model, settings.catalog)
    device = Device(choose_device(settings.device), max_batch_rows=settings.max_batch_rows)
    store = Store(specs, default, device)
    return Context(
        settings=settings,
        store=store,
        device=device,
        pipeline=Pipeline(settings, store, device),
        pool=ThreadPoolExecutor(settings.worker_threads, thread_name_prefix="heatlens-request"),
        health_pool=ThreadPoolExecutor(2, thread_name_prefix="heatlens-health"),
    )


def close(context: Context) -> None:
    """Stop loading, answer whoever still waits, and end all threads."""
    context.store.close()
    context.device.close()
    context.pool.shutdown(wait=True, cancel_futures=True)
    context.health_pool.shutdown(wait=True, cancel_futures=True)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application. Models load in the background once it starts, so that liveness answers at once."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.context = build(settings)
        app.state.context.store.start()
        try:
            yield
        finally:
            close(app.state.context)

    app = FastAPI(title="heatlens", lifespan=lifespan)
    app.include_router(predict.router)
    app.include_router(explain.router())
    app.include_router(models.router)
    problems.install(app)
    app.openapi = lambda: documentation.openapi(app)  # type: ignore[method-assign]
    return app
