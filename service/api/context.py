"""What the routes share: one object on the application, made by `create_app`."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from service.api.readiness import Readiness
from service.engine.scheduler.device import Device
from service.engine.store import Store
from service.fair.threads import Threads
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.settings import Settings


@dataclass(frozen=True)
class Context:
    """The parts of a running service."""

    settings: Settings
    store: Store
    device: Device
    pipeline: Pipeline
    metrics: Metrics
    pool: Threads  # the requests'
    long_pool: Threads  # those of many passes, which must not keep small ones from a thread
    body_pool: Threads  # reads large bodies: a few, as each takes the event loop's turns
    health_pool: Threads  # metrics must not wait behind requests for a thread
    readiness: Readiness


def context(request: Request) -> Context:
    """Return the context of the application that received a request."""
    return cast(Context, request.app.state.context)
