"""Ray Serve: replicas of the application behind one address, as many as what waits needs.

    serve run service.deploy.ray:app

Settings are environment variables, as ever, in `runtime_env.env_vars`. Admission, batches, deadlines and errors are the
application's own in each replica; Serve starts replicas, ends them, and passes requests on.
"""

import asyncio
import math
import threading
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from ray import serve
from ray.util.metrics import Gauge
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.telling.health import check_live
from service.app import create_app
from service.engine.store import Store
from service.process import prepare_process
from service.settings import Settings

TARGET_S = 2.0  # seconds of the device's work that may wait at a replica
_BRIDGE_S = 5.0  # between two copies of the metrics


class _OneId:
    """Leaves the request's id to Serve's proxy, which sets the header, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await self.app(scope, receive, sending)


def build() -> FastAPI:
    """Return the application; called in the replica's process, as an application holds locks and cannot be sent."""
    prepare_process()
    app = create_app(Settings())
    app.add_middleware(_OneId)
    return app


class Bridge:
    """Copies the application's metrics to Ray's, which Prometheus collects from each node."""

    def __init__(self, registry: CollectorRegistry, period_s: float = _BRIDGE_S) -> None:
        """Begin to copy, until the process ends."""
        self._registry, self._period_s = registry, period_s
        self._gauges: dict[str, Gauge] = {}
        threading.Thread(target=self._run, name="heatlens-metrics", daemon=True).start()

    def copy(self) -> None:
        """Copy all metrics as they are now."""
        for family in self._registry.collect():
            for sample in family.samples:
                labels = {name: str(value) for name, value in sample.labels.items()}
                gauge = self._gauges.get(sample.name)
                if gauge is None:
                    gauge = Gauge(sample.name, family.documentation, tuple(labels))
                    self._gauges[sample.name] = gauge
                gauge.set(sample.value, labels)

    def _run(self) -> None:
        waiting = threading.Event()
        while not waiting.wait(self._period_s):
            self.copy()


@serve.deployment
@serve.ingress(build)
class Replica:
    """One application: one process, one device."""

    def __init__(self) -> None:
        self._bridge: Bridge | None = None

    @property
    def _context(self) -> Any:
        return self.app.state.context  # type: ignore[attr-defined]  # of Serve's ingress

    async def check_health(self) -> None:
        """Return where the replica works. The first call waits for the models: until it returns, no request comes.

        Raises:
            RuntimeError: the default model has failed to load.
            EngineUnavailable: the device's thread has ended, or a batch does not end.
        """
        context = self._context
        if self._bridge is None:
            await _ready(context.store)
            self._bridge = Bridge(context.metrics.registry)
        check_live(context)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the policy goes by."""
        return {"seconds_waiting": self._context.device.admission.waiting_s}


async def _ready(store: Store) -> None:
    """Wait until every model is ready or has failed.

    Raises:
        RuntimeError: the default one has failed.
    """
    await asyncio.get_running_loop().run_in_executor(None, store.wait)
    entry = store.entry(None)
    if entry.error is not None:
        raise RuntimeError(f"the default model failed to load: {entry.error}")


def waiting_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Return how many replicas what waits needs, so that none has more than `TARGET_S` seconds of work before it.

    Serve's policy on its controller: ten times a second, and nothing but arithmetic. Where no replica has told yet, it
    stays as it is.
    """
    waiting = dict((context.aggregated_metrics or {}).get("seconds_waiting", {}))
    if not waiting:
        return max(context.target_num_replicas, context.capacity_adjusted_min_replicas), {}
    wanted = math.ceil(sum(waiting.values()) / TARGET_S)
    return min(max(wanted, context.capacity_adjusted_min_replicas), context.capacity_adjusted_max_replicas), {}


ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
"""Sends requests of one `X-Session-Id` to one replica, whose score cache then knows the picture."""


def app(args: dict[str, str]) -> serve.Application:
    """Return the application for `serve run` and `serve deploy`, whose file may change every option.

    Args:
        args: `min_replicas`, `max_replicas`, `num_cpus` and `num_gpus` of a replica.

    Raises:
        ValueError: another name, or no number.
    """
    known = {"min_replicas": 1.0, "max_replicas": 8.0, "num_cpus": 2.0, "num_gpus": 0.0}
    if unknown := sorted(args.keys() - known.keys()):
        raise ValueError(f"unknown arguments {unknown}; there are {', '.join(known)}")
    given = known | {name: float(value) for name, value in args.items()}
    settings = Settings()
    drain_s = settings.drain_timeout_s + 15
    deployment: Any = Replica  # which Serve has made of the class
    return deployment.options(
        name="heatlens",
        max_ongoing_requests=settings.max_waiting_requests,
        max_queued_requests=-1,  # admission is the application's, with a measured Retry-After
        graceful_shutdown_timeout_s=drain_s,
        health_check_period_s=5,
        health_check_timeout_s=600,  # the first one waits for the models
        ray_actor_options={"num_cpus": given["num_cpus"], "num_gpus": given["num_gpus"]},
        autoscaling_config={
            "min_replicas": int(given["min_replicas"]),
            "max_replicas": int(given["max_replicas"]),
            "metrics_interval_s": 1,
            "upscale_delay_s": 5,
            "downscale_delay_s": 300,
            "policy": {"policy_function": "service.deploy.ray:waiting_policy"},
        },
        request_router_config={"request_router_class": ROUTER},
    ).bind()
