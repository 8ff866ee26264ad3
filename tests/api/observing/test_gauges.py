"""What Prometheus reads of a service's state, against the state itself."""

from types import SimpleNamespace

import pytest

from service.api.observing import gauges
from service.engine.scheduler.run import Run
from service.metrics import Metrics
from service.settings import Settings


@pytest.fixture
def read(tiny):
    """Read one service's metrics: {(name, its labels' values): value}."""
    metrics = Metrics()
    gauges.watch(metrics, Settings(default_timeout_s=7), tiny.device, tiny.store, tiny.pipeline.codec)

    def found():
        return {
            (sample.name.removeprefix("heatlens_"), *sample.labels.values()): sample.value
            for family in metrics.registry.collect()
            if family.name.startswith("heatlens_")
            for sample in family.samples
        }

    return found


def test_what_waits_and_what_runs(tiny, read):
    admission = tiny.device.admission
    with admission.admitted(run := Run(), 10), admission.admitted(Run(), 5):
        known = read()
        assert [known[f"{name}",] for name in ("requests_waiting", "requests_running", "passes_waiting")] == [2, 0, 15]
        run.advance(4)
        known = read()
        assert [known[f"{name}",] for name in ("requests_waiting", "requests_running", "passes_waiting")] == [2, 1, 11]
    assert read()["requests_running",] == 0


def test_models_by_status_and_by_how_far_they_are_measured(tiny, read, monkeypatch):
    known = read()
    assert known["models", "ready"] == len(tiny.store.entries)
    assert [known["tuning_state", state] for state in gauges.TUNING] == [len(tiny.store.entries), 0, 0]
    versions = [entry.model.version for entry in tiny.store.entries.values()]
    measured = {versions[0]: SimpleNamespace(missing=()), versions[1]: SimpleNamespace(missing=("agreement",))}
    monkeypatch.setattr(tiny.store.tuner, "found", measured)
    known, whole = read(), {version: measured.get(version) for version in versions}
    assert known["tuning_state", "measured"] == sum(1 for v in versions if v == versions[0])
    assert known["tuning_state", "partial"] == sum(1 for v in versions if v == versions[1])
    assert sum(known["tuning_state", state] for state in gauges.TUNING) == len(tiny.store.entries) >= len(whole)


def test_limits_are_those_that_were_set_and_memory_that_ran_out_is_counted(tiny, read, monkeypatch):
    before = read()
    assert before["timeout_seconds",] == 7
    assert before["device_reserved_bytes",] == 0  # on a CPU
    monkeypatch.setattr(tiny.device.limits, "halved", 3)
    assert read()["memory_halvings_total",] == 3


def test_which_build_it_is(read):
    ((_, *words),) = [key for key in read() if key[0] == "build_info"]
    assert len(words) == len(gauges._BUILD)
    assert "cpu" in words
    assert all(words)
