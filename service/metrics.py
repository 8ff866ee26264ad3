"""What Prometheus collects. Labels are bounded: methods and models are those that are served, or `none`."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

OPEN_METRICS = "application/openmetrics-text"  # the other format, which has exemplars
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
Kind = Literal["counter", "gauge", "histogram", "info"]


class Named(NamedTuple):
    """One metric, by its name as Prometheus knows it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    text: str


class _Read(Collector):
    """A metric that is read when it is collected."""

    def __init__(self, read: Callable[[], Metric]) -> None:
        self._read = read

    def collect(self) -> Any:
        """Give it as it is now."""
        yield self._read()


class Metrics:
    """The collectors of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.named: list[Named] = []  # all of ours
        self._read: dict[str, Callable[[], Any]] = {}  # how what is watched is read, by its name
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._counter(
            "requests",
            "Requests answered; of a stream that ends in an error, the status is that error's.",
            "method",
            "model",
            "status",
        )
        self.request_seconds = self._seconds("request_seconds", "From request to the last byte.", "method", "model")
        self.first_event_seconds = self._seconds(
            "first_event_seconds", "From request to the first event, of answers that are streams of them.", "method"
        )
        self.refused = self._counter(
            "refused", "Requests turned away with 429 or 503, by what was in the way.", "reason"
        )
        self.cancelled = self._counter(
            "cancelled", "Requests whose client went away before the answer's end.", "method"
        )
        self.queue_seconds = self._seconds("queue_seconds", "Waiting for the device.", "method", "model")
        self.device_seconds = self._seconds(
            "device_seconds", "Time on the device; a batch's is divided among its requests.", "method"
        )
        self.render_seconds = self._seconds("render_seconds", "Drawing and encoding.", "method")
        self.rows_avoided = self._counter("rows_avoided", "Rows answered without a forward.", "method")
        self.cache_lookups = self._counter(
            "cache_lookups", "Tables of outputs looked for in memory, by what was found.", "outcome"
        )
        self.rows = self._counter("rows", "Rows sent through a model.", "model", "precision")
        self.batch_rows = self._histogram("batch_rows", "Rows of a batch.", _ROWS, "kind")
        self.batch_fill = self._histogram(
            "batch_fill_ratio", "Rows of a batch, of those that it may have.", _SHARES, "kind"
        )
        self.batch_seconds = self._seconds("batch_seconds", "Time of a batch.", "kind")
        self.codec_seconds = self._seconds(
            "codec_seconds", "Processor time of a codec process, to `see` a picture or to `draw` a map.", "work"
        )
        self.codec_ends = self._counter(
            "codec_ends", "Codec processes that ended in the middle of work, by why; `absent`: none was there.", "why"
        )

    def batch(self, kind: str, model: str, precision: str, rows: int, seconds: float, fill: float) -> None:
        """Count a batch of a kind, `rows` or `traces`: its rows, its seconds, and how full of work it was (0 to 1)."""
        self.rows.labels(model, precision).inc(rows)
        self.batch_rows.labels(kind).observe(rows)
        self.batch_fill.labels(kind).observe(fill)
        self.batch_seconds.labels(kind).observe(seconds)

    def codec(self, work: str, cpu_s: float) -> None:
        """Count what a codec process did, and how much processor time it took."""
        self.codec_seconds.labels(work).observe(cpu_s)

    def ended(self, why: str) -> None:
        """Count a codec process that ended in the middle of work, or work that found none."""
        self.codec_ends.labels(why).inc()

    def watch(self, name: str, text: str, read: Callable[[], float], *, counts: bool = False) -> None:
        """Add a gauge, or what only counts up, that is read when it is collected; of one name, the last one counts."""
        own = f"heatlens_{name}"
        full = f"{own}_total" if counts else own

        def family() -> Metric:
            made = CounterMetricFamily if counts else GaugeMetricFamily
            return made(own, text, value=self._read[full]())

        self._watch(Named(full, "counter" if counts else "gauge", (), text), read, family)

    def watch_by(self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Add gauges by one label that are read when they are collected; of one name, the last ones count."""
        full = f"heatlens_{name}"

        def family() -> Metric:
            found = GaugeMetricFamily(full, text, labels=[label])
            for value, number in self._read[full]().items():
                found.add_metric([value], number)
            return found

        self._watch(Named(full, "gauge", (label,), text), read, family)

    def tell(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Mapping[str, str]]) -> None:
        """Add what labels alone say, with the value 1; of one name, the last one counts."""
        full = f"heatlens_{name}_info"

        def family() -> Metric:
            return InfoMetricFamily(f"heatlens_{name}", text, self._read[full]())

        self._watch(Named(full, "info", labels, text), read, family)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return everything, and its media type: Prometheus' text, or OpenMetrics where a header `Accept` names it."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    def _watch(self, named: Named, read: Callable[[], Any], family: Callable[[], Metric]) -> None:
        known = named.name in self._read
        self._read[named.name] = read
        if not known:
            self.named.append(named)
            self.registry.register(_Read(family))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self.named.append(Named(f"heatlens_{name}_total", "counter", labels, text))
        return Counter(name, text, labels, namespace="heatlens", registry=self.registry)

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        return self._histogram(name, text, _SECONDS, *labels)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        self.named.append(Named(f"heatlens_{name}", "histogram", labels, text))
        return Histogram(name, text, labels, buckets=bounds, namespace="heatlens", registry=self.registry)
