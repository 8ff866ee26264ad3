"""What Prometheus reads after known events."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics
from service.settings import Settings

# Of each label there are few values, whatever callers send: what is served, statuses, and words of the code.
BOUNDED = {"method", "model", "status", "precision", "kind", "outcome", "le"}


def _read(metrics):
    """Return {(sample, its labels' values): value}, in the order of the labels' names; a bucket's bound comes last."""
    return {
        (
            sample.name,
            *(sample.labels[name] for name in sorted(sample.labels, key=lambda n: (n == "le", n))),
        ): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def test_a_batch_is_counted():
    metrics = Metrics()
    metrics.batch("rows", "tiny", "bf16", 5, 0.2)
    metrics.batch("rows", "tiny", "bf16", 8, 0.3)
    metrics.batch("traces", "other", "fp32", 1, 0.01)
    found = _read(metrics)
    assert found["heatlens_rows_total", "tiny", "bf16"] == 13
    assert found["heatlens_rows_total", "other", "fp32"] == 1
    assert found["heatlens_batch_rows_count", "rows"] == 2
    assert found["heatlens_batch_rows_sum", "rows"] == 13
    assert found["heatlens_batch_rows_bucket", "rows", "4.0"] == 0
    assert found["heatlens_batch_rows_bucket", "rows", "8.0"] == 2
    assert found["heatlens_batch_seconds_sum", "rows"] == pytest.approx(0.5)
    assert found["heatlens_batch_seconds_bucket", "traces", "0.01"] == 1


def test_gauges_are_read_when_they_are_collected():
    metrics, state = Metrics(), {"waiting": 1, "ready": 2}
    metrics.watch("waiting", "What waits.", lambda: state["waiting"])
    metrics.watch_by("models", "Models.", "status", lambda: {"ready": state["ready"], "failed": 0})
    state |= {"waiting": 7, "ready": 3}
    found = _read(metrics)
    assert found["heatlens_waiting",] == 7
    assert (found["heatlens_models", "ready"], found["heatlens_models", "failed"]) == (3, 0)


def test_an_application_that_is_started_again_watches_its_new_parts():
    metrics = Metrics()
    for number in (1, 2):
        metrics.watch("waiting", "What waits.", lambda number=number: number)
        metrics.watch_by("models", "Models.", "status", lambda number=number: {"ready": number})
    found = _read(metrics)
    assert found["heatlens_waiting",] == found["heatlens_models", "ready"] == 2


def test_two_applications_count_apart():
    one, other = Metrics(), Metrics()
    one.requests.labels("cam", "tiny", "200").inc()
    assert ("heatlens_requests_total", "cam", "tiny", "200") in _read(one)
    assert not [key for key in _read(other) if key[0] == "heatlens_requests_total"]


def test_labels_are_bounded_and_units_are_in_names(tiny):
    """Of a service with all that it watches: only what is bounded may be a label, and times are seconds."""
    for family in tiny.metrics.registry.collect():
        if not family.name.startswith("heatlens_"):
            continue
        assert set().union(*(sample.labels for sample in family.samples)) <= BOUNDED
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_rows"))


def test_buckets_reach_as_far_as_what_they_measure():
    """A full batch and a request at its deadline fall into buckets of their own, and not beyond the last one."""
    metrics, settings = Metrics(), Settings()
    metrics.batch("rows", "tiny", "fp32", settings.max_batch_rows, 1.0)
    metrics.request_seconds.labels("cam").observe(settings.default_timeout_s)
    found = _read(metrics)
    for name, label in (("batch_rows", "rows"), ("request_seconds", "cam")):
        finite = [
            (float(key[-1]), count)
            for key, count in found.items()
            if key[:2] == (f"heatlens_{name}_bucket", label) and key[-1] != "+Inf"
        ]
        assert max(finite)[1] == 1
        assert [count for _, count in sorted(finite)][-2] == 0
