"""When a request waited and when the device worked for it, as its spans have it."""

import pytest

from service import spans
from service.engine.scheduler.timeline import Timeline
from service.engine.scheduler.usage import Usage


@pytest.fixture
def clock(monkeypatch):
    """Nanoseconds that go on by ten whenever somebody asks."""
    times = iter(range(10, 100_000, 10))
    monkeypatch.setattr("service.engine.scheduler.timeline.time.time_ns", lambda: next(times))


def _spans(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


def test_the_queue_ends_where_the_device_begins(exporter, clock):
    timeline = Timeline()
    timeline.asked()  # at 10
    timeline.asked()  # again: it waits since then
    timeline.began()  # at 20
    timeline.worked(3, 8, 0.25)  # at 30
    timeline.began()
    timeline.worked(1, 8, 0.5)  # at 40
    with spans.span("work"):
        timeline.tell(1.5, 0.75, 2)
    found = _spans(exporter)
    assert (found["queue"].start_time, found["queue"].end_time) == (10, 20)
    assert (found["device"].start_time, found["device"].end_time) == (20, 40)
    assert dict(found["queue"].attributes) == {"heatlens.queue_s": 1.5}
    assert dict(found["device"].attributes) == {"heatlens.device_s": 0.75, "heatlens.batches": 2}
    told = [
        (e.timestamp, e.attributes["heatlens.passes"], e.attributes["heatlens.seconds"]) for e in found["device"].events
    ]
    assert told == [(30, 3, 0.25), (40, 1, 0.5)]


def test_of_many_batches_the_first_are_told(exporter):
    timeline = Timeline()
    timeline.asked()
    timeline.began()
    for _ in range(100):
        timeline.worked(1, 1, 0.1)
    timeline.tell(0.0, 10.0, 100)
    device = _spans(exporter)["device"]
    assert len(device.events) == 32
    assert device.attributes["heatlens.batches"] == 100
    assert device.end_time >= device.events[-1].timestamp


def test_who_never_asked_has_no_spans_and_who_never_got_a_batch_waited_until_the_end(exporter, clock):
    Timeline().tell(0.0, 0.0, 0)
    assert not exporter.get_finished_spans()
    waiting = Timeline()
    waiting.asked()  # at 10
    waiting.tell(3.0, 0.0, 0)
    assert _spans(exporter).keys() == {"queue"}
    assert _spans(exporter)["queue"].start_time == 10


def test_an_account_keeps_times_only_where_spans_are_sent(exporter):
    assert Usage().timeline is not None
    spans.uninstall()
    usage = Usage()
    assert usage.timeline is None
    usage.asks()
    usage.waited(2.0)
    usage.count(1, 0, 4, 0.5)
    usage.tell()
    assert (usage.queue_s, usage.device_s) == (2.0, 0.5)
