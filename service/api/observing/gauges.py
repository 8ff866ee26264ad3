"""The state of a service, as Prometheus reads it."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, get_args

from service.api.telling.version import told
from service.codec.inside import Codec
from service.engine.scheduler.device import Device
from service.engine.store import Status, Store
from service.metrics import Metrics
from service.settings import Settings

TUNING = ("pending", "partial", "measured")
_BUILD = ("version", "revision", "torch", "device")


def watch(metrics: Metrics, settings: Settings, device: Device, store: Store, codec: Codec) -> None:
    """Let Prometheus read the state of a service. Nothing of it is looked at before somebody asks."""
    gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
        ("passes_waiting", "Passes that admitted requests still expect.", lambda: device.admission.waiting_passes),
        ("seconds_waiting", "Time of the device that what waits will take.", lambda: device.admission.waiting_s),
        ("requests_waiting", "Requests that wait or are worked on.", lambda: device.admission.waiting_requests),
        (
            "requests_running",
            "Those of them that the device has done some work for.",
            lambda: device.admission.running_requests,
        ),
        ("codec_processes", "Processes that decode and draw.", lambda: len(codec.pids)),
        ("cache_bytes", "Memory of kept score matrices.", lambda: device.cache.bytes),
        ("draining", "1 while the server is about to stop.", lambda: device.admission.draining),
        ("timeout_seconds", "Time that a request has that names none.", lambda: settings.default_timeout_s),
        ("device_memory_bytes", "Memory of the accelerator in use; 0 on a CPU.", lambda: device.memory_bytes()),
        (
            "device_reserved_bytes",
            "Memory of the accelerator that PyTorch holds, in use or not; 0 on a CPU.",
            lambda: device.reserved_bytes(),
        ),
    )
    for name, text, read in gauges:
        metrics.watch(name, text, read)
    metrics.watch(
        "memory_halvings",
        "Times that memory ran out within a batch; half as many rows are tried from then on.",
        lambda: device.limits.halved,
        counts=True,
    )
    metrics.watch_by("models", "Models by status.", "status", lambda: _statuses(store))
    metrics.watch_by("tuning_state", "Models by how far they are measured.", "state", lambda: _tuned(store))
    metrics.tell("build", "Which build this is, and what it runs on.", _BUILD, lambda: _build(settings, device))


def _statuses(store: Store) -> Mapping[str, float]:
    found = Counter(entry.status for entry in store.entries.values())
    return {status: found[status] for status in get_args(Status)}


def _tuned(store: Store) -> Mapping[str, float]:
    found: Counter[str] = Counter()
    for entry in store.entries.values():
        known: Any = None
        if entry.model is not None and store.tuner is not None:
            known = store.tuner.found.get(entry.model.version)
        found["pending" if known is None else "partial" if known.missing else "measured"] += 1
    return {state: found[state] for state in TUNING}


def _build(settings: Settings, device: Device) -> Mapping[str, str]:
    known = told(settings, device)
    return {name: getattr(known, name) or "unknown" for name in _BUILD}
