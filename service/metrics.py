"""What Prometheus collects. Labels are bounded: methods and models are those that are served, or `none`."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The collectors of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._read: dict[str, Callable[[], Any]] = {}  # how gauges are read, by their names
        own: dict[str, Any] = {"registry": self.registry, "namespace": "heatlens"}
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter("requests", "Requests answered.", ["method", "model", "status"], **own)
        self.request_seconds = _histogram("request_seconds", "From request to the last byte.", "method", own)
        self.queue_seconds = _histogram("queue_seconds", "Waiting for the device.", "method", own)
        self.device_seconds = _histogram(
            "device_seconds", "Time on the device; a batch's is divided among its requests.", "method", own
        )
        self.render_seconds = _histogram("render_seconds", "Drawing and encoding.", "method", own)
        self.rows_avoided = Counter("rows_avoided", "Rows answered without a forward.", ["method"], **own)
        self.cache_lookups = Counter(
            "cache_lookups", "Tables of outputs looked for in memory, by what was found.", ["outcome"], **own
        )
        self.rows = Counter("rows", "Rows sent through a model.", ["model", "precision"], **own)
        self.batch_rows = Histogram("batch_rows", "Rows of a batch.", ["kind"], buckets=_ROWS, **own)
        self.batch_seconds = _histogram("batch_seconds", "Time of a batch.", "kind", own)

    def batch(self, kind: str, model: str, precision: str, rows: int, seconds: float) -> None:
        """Count a batch of a kind, `rows` or `traces`, and how many rows and seconds it took."""
        self.rows.labels(model, precision).inc(rows)
        self.batch_rows.labels(kind).observe(rows)
        self.batch_seconds.labels(kind).observe(seconds)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when it is collected; of one name, the last one counts."""
        if name not in self._read:
            gauge = Gauge(name, text, registry=self.registry, namespace="heatlens")
            gauge.set_function(lambda: self._read[name]())
        self._read[name] = read

    def watch_by(self, name: str, text: str, label: str, read: Callable[[], dict[str, float]]) -> None:
        """Add gauges by one label that are read when they are collected; of one name, the last ones count."""
        own = self._read

        class Read(Collector):
            def collect(self) -> Any:
                family = GaugeMetricFamily(f"heatlens_{name}", text, labels=[label])
                for value, number in own[name]().items():
                    family.add_metric([value], number)
                yield family

        known = name in own
        own[name] = read
        if not known:
            self.registry.register(Read())

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


def _histogram(name: str, text: str, label: str, own: dict[str, Any]) -> Histogram:
    return Histogram(name, text, [label], buckets=_SECONDS, **own)
