"""What a request used only adds up."""

import pytest

from service.engine.scheduler.usage import Usage


def test_batches_add_up():
    usage = Usage()
    usage.count(3, 6, batch_rows=8, seconds=0.5)
    usage.count(2, 0, batch_rows=4, seconds=0.25)
    assert (usage.forwards, usage.backwards, usage.batches, usage.batch_rows) == (5, 6, 2, 12)
    assert usage.device_s == 0.75


def test_stages_are_timed_also_where_they_fail(monkeypatch):
    times = iter((1.0, 1.5, 4.0, 6.0))
    monkeypatch.setattr("service.engine.scheduler.usage.time.perf_counter", lambda: next(times))
    usage = Usage()
    with usage.stage("decode"):
        pass
    with pytest.raises(ValueError, match="no picture"), usage.stage("decode"):
        raise ValueError("no picture")
    assert usage.stages == {"decode": 2.5}
