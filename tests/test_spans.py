"""Spans where OpenTelemetry is wanted, and nothing at all where it is not."""

import sys
import threading
import uuid

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from service import __version__, spans
from service.errors import Cancelled, InvalidParameter

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def _finished(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


def test_without_tracing_nothing_is_made():
    with spans.span("read", None, size=3) as made:
        assert made is None
    assert spans.current() is None
    assert spans.received({"traceparent": f"00-{TRACE}-{CALLER}-01"}) is None


def test_a_span_knows_its_name_service_and_attributes(exporter):
    with spans.span("read", size=3, model="tiny"):
        pass
    (span,) = exporter.get_finished_spans()
    assert (span.name, dict(span.attributes)) == ("read", {"size": 3, "model": "tiny"})
    assert span.resource.attributes["service.name"] == "heatlens"


def test_spans_continue_the_callers_trace_and_nest(exporter):
    with spans.span("request", spans.received({"traceparent": f"00-{TRACE}-{CALLER}-01"})), spans.span("read"):
        pass
    found = _finished(exporter)
    assert f"{found['request'].parent.span_id:016x}" == CALLER
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {TRACE}
    assert found["read"].parent.span_id == found["request"].context.span_id


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{CALLER}"])
def test_a_caller_without_a_trace_starts_one(exporter, header):
    with spans.span("request", spans.received({"traceparent": header})):
        pass
    (span,) = exporter.get_finished_spans()
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" != TRACE


def test_a_trace_goes_on_in_another_thread(exporter):
    def work(parent):
        with spans.span("work", parent):
            pass

    with spans.span("request"):
        thread = threading.Thread(target=work, args=(spans.current(),))
        thread.start()
        thread.join()
    found = _finished(exporter)
    assert found["work"].parent.span_id == found["request"].context.span_id


def test_an_error_is_on_its_span_and_goes_on(exporter):
    with pytest.raises(ZeroDivisionError), spans.span("work"):
        raise ZeroDivisionError("why")
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]


def test_after_uninstalling_nothing_is_sent(exporter):
    spans.uninstall()
    with spans.span("read") as made:
        assert made is None
    assert exporter.get_finished_spans() == ()


def test_the_extra_has_to_be_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ImportError):
        spans.install(InMemorySpanExporter())
    assert spans.current() is None


def test_whose_spans_they_are_stands_on_them_and_the_usual_variables_say_otherwise(exporter, monkeypatch):
    with spans.span("read"):
        pass
    known = exporter.get_finished_spans()[0].resource.attributes
    assert known["service.version"] == __version__
    assert uuid.UUID(known["service.instance.id"])
    spans.uninstall()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-7,deployment.environment=test")
    spans.install(other := InMemorySpanExporter())
    with spans.span("read"):
        pass
    found = other.get_finished_spans()[0].resource.attributes
    named = ("service.name", "service.instance.id", "deployment.environment", "service.version")
    assert [found[name] for name in named] == ["ours", "pod-7", "test", __version__]


def test_a_span_that_serves_a_request_is_told_from_its_stages(exporter):
    with spans.span("GET /models", serving=True), spans.span("read"):
        pass
    found = _finished(exporter)
    assert (found["GET /models"].kind, found["read"].kind) == (SpanKind.SERVER, SpanKind.INTERNAL)


@pytest.mark.parametrize("error", [InvalidParameter("a field"), Cancelled("gone")], ids=lambda e: e.type)
def test_what_a_caller_did_is_no_error_of_the_servers(exporter, error):
    with pytest.raises(type(error)), spans.span("work"):
        raise error
    (span,) = exporter.get_finished_spans()
    assert span.status.is_unset
    assert span.events == ()
    assert span.attributes["error.type"] == error.type


def test_the_span_that_a_line_is_written_in_has_ids(exporter):
    assert spans.ids() == {}
    with spans.span("request", spans.received({"traceparent": f"00-{TRACE}-{CALLER}-01"})) as span:
        assert spans.ids() == {"trace_id": TRACE, "span_id": f"{span.context.span_id:016x}"}
        assert spans.is_sampled(span)
    with spans.span("unsent", spans.received({"traceparent": f"00-{TRACE}-{CALLER}-00"})) as unsent:
        assert not spans.is_sampled(unsent)
    spans.uninstall()
    assert spans.ids() == {}
    assert not spans.is_sampled(None)


def test_a_span_of_the_past_is_added_with_what_happened_within_it(exporter):
    with spans.span("work"):
        spans.add("device", 10, 30, {"seconds": 1.5}, [spans.Event("batch", 20, {"rows": 4})])
    found = _finished(exporter)
    device = found["device"]
    assert device.parent.span_id == found["work"].context.span_id
    assert (device.start_time, device.end_time, dict(device.attributes)) == (10, 30, {"seconds": 1.5})
    (event,) = device.events
    assert (event.name, event.timestamp, dict(event.attributes)) == ("batch", 20, {"rows": 4})
    spans.uninstall()
    spans.add("device", 10, 30, {})
    assert len(exporter.get_finished_spans()) == 2
