"""Spans for OpenTelemetry, where it is installed and asked for; nothing otherwise."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

_tracer: Any = None


def install(exporter: Any = None) -> None:
    """Send spans to where the standard OTEL_... environment variables say, or to a given exporter.

    Raises:
        ImportError: the extra `heatlens[otel]` is not installed.
    """
    global _tracer
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "heatlens"}))
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    _tracer = provider.get_tracer("heatlens")


def uninstall() -> None:
    """Send no more spans."""
    global _tracer
    _tracer = None


def received(headers: Mapping[str, str]) -> Any:
    """Return the span that a caller's header `traceparent` names, to pass to `span`; None where no spans are sent."""
    if _tracer is None:
        return None
    from opentelemetry.propagate import extract

    return extract(headers)


def current() -> Any:
    """Return the span that this thread is in, to pass to `span` in another one; None where no spans are sent."""
    if _tracer is None:
        return None
    from opentelemetry import context

    return context.get_current()


@contextmanager
def _spanning(name: str, parent: Any, attributes: Mapping[str, Any]) -> Iterator[Any]:
    with _tracer.start_as_current_span(name, context=parent, attributes=dict(attributes)) as span:
        yield span


def span(name: str, parent: Any = None, **attributes: Any) -> Any:
    """Return a context manager for one stage; its value is the span, or None where no spans are sent."""
    return nullcontext() if _tracer is None else _spanning(name, parent, attributes)
