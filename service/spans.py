"""Spans for OpenTelemetry, where it is installed and asked for; nothing otherwise."""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from service import __version__

_tracer: Any = None


class Event(NamedTuple):
    """Something that happened within a span."""

    name: str
    at_ns: int  # since 1970
    attributes: Mapping[str, Any]


def install(exporter: Any = None) -> None:
    """Send spans to where the standard OTEL_... environment variables say, or to a given exporter.

    Those variables may name the service otherwise (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES), too.

    Raises:
        ImportError: the extra `heatlens[otel]` is not installed.
    """
    global _tracer
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    own = {
        "service.name": "heatlens",
        "service.version": __version__,
        "service.instance.id": str(uuid.uuid4()),
    }
    provider = TracerProvider(resource=Resource.create({**own, **OTELResourceDetector().detect().attributes}))
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    _tracer = provider.get_tracer("heatlens", __version__)


def uninstall() -> None:
    """Send no more spans."""
    global _tracer
    _tracer = None


def installed() -> bool:
    """Whether spans are sent."""
    return _tracer is not None


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


def ids() -> dict[str, str]:
    """Return `trace_id` and `span_id` of the span that this thread is in, in hexadecimal; empty outside of any."""
    if _tracer is None:
        return {}
    from opentelemetry.trace import get_current_span

    known = get_current_span().get_span_context()
    return {"trace_id": f"{known.trace_id:032x}", "span_id": f"{known.span_id:016x}"} if known.is_valid else {}


def is_sampled(span: Any) -> bool:
    """Whether a span is sent, so that whoever looks for it finds it."""
    return span is not None and bool(span.get_span_context().trace_flags.sampled)


def fail(span: Any, why: str) -> None:
    """Mark a span as ended in an error of the server's own: what a caller did wrong is none."""
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, why))


@contextmanager
def _spanning(name: str, parent: Any, serving: bool, attributes: Mapping[str, Any]) -> Iterator[Any]:
    from opentelemetry.trace import SpanKind

    with _tracer.start_as_current_span(
        name,
        context=parent,
        kind=SpanKind.SERVER if serving else SpanKind.INTERNAL,
        attributes=dict(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            # The house's errors know their status; anything else is a defect.
            if getattr(error, "status", 500) >= 500:
                span.record_exception(error)
                fail(span, type(error).__name__)
            span.set_attribute("error.type", getattr(error, "type", type(error).__name__))
            raise


def span(name: str, parent: Any = None, *, serving: bool = False, **attributes: Any) -> Any:
    """Return a context manager for one stage; its value is the span, or None where no spans are sent.

    Args:
        name: the stage's.
        parent: what `received` or `current` gave; default: the span that this thread is in.
        serving: whether it answers somebody's request, which is what those who read traces count.
        attributes: what else is known of it.
    """
    return nullcontext() if _tracer is None else _spanning(name, parent, serving, attributes)


def add(
    name: str, began_ns: int, ended_ns: int | None, attributes: Mapping[str, Any], events: Iterable[Event] = ()
) -> None:
    """Add a span of the past to the one that this thread is in.

    Args:
        name: its own.
        began_ns: since 1970.
        ended_ns: since 1970; None: now.
        attributes: what is known of it.
        events: what happened within it.
    """
    if _tracer is None:
        return
    made = _tracer.start_span(name, start_time=began_ns, attributes=dict(attributes))
    for event in events:
        made.add_event(event.name, event.attributes, event.at_ns)
    made.end(ended_ns if ended_ns is not None else time.time_ns())
