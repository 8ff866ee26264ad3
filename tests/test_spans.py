"""Spans where OpenTelemetry is wanted, and nothing at all where it is not."""

import sys
import threading

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import spans

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter():
    exporter = InMemorySpanExporter()
    spans.install(exporter)
    yield exporter
    spans.uninstall()


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
