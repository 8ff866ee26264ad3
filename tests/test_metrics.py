"""What Prometheus reads after known events."""

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import OPEN_METRICS, Metrics
from service.settings import Settings

# Of each label there are few values, whatever callers send: what is served, statuses, and words of the code.
BOUNDED = {"method", "model", "status", "precision", "kind", "outcome", "reason", "state", "le"}
BUILD = {"version", "revision", "torch", "device"}  # one value each, of the process


def _read(metrics):
    """Return {(sample, its labels' values): value}, in the order of the labels' names; a bucket's bound comes last."""
    return {
        (
            sample.name,
            *(sample.labels[name] for name in sorted(sample.labels, key=lambda n: (n == "le", n))),
        ): sample.value
        for family in text_string_to_metric_families(metrics.exposition()[0].decode())
        for sample in family.samples
    }


def test_a_batch_is_counted():
    metrics = Metrics()
    metrics.batch("rows", "tiny", "bf16", 5, 0.2, 0.625)
    metrics.batch("rows", "tiny", "bf16", 8, 0.3, 1.0)
    metrics.batch("traces", "other", "fp32", 1, 0.01, 0.125)
    found = _read(metrics)
    assert found["heatlens_rows_total", "tiny", "bf16"] == 13
    assert found["heatlens_rows_total", "other", "fp32"] == 1
    assert found["heatlens_batch_rows_count", "rows"] == 2
    assert found["heatlens_batch_rows_sum", "rows"] == 13
    assert found["heatlens_batch_rows_bucket", "rows", "4.0"] == 0
    assert found["heatlens_batch_rows_bucket", "rows", "8.0"] == 2
    assert found["heatlens_batch_seconds_sum", "rows"] == pytest.approx(0.5)
    assert found["heatlens_batch_seconds_bucket", "traces", "0.01"] == 1
    assert found["heatlens_batch_fill_ratio_sum", "rows"] == 1.625
    assert found["heatlens_batch_fill_ratio_bucket", "rows", "0.9"] == 1
    assert found["heatlens_batch_fill_ratio_bucket", "rows", "1.0"] == 2


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
        labels = set().union(*(sample.labels for sample in family.samples))
        assert labels <= (BUILD if family.type == "info" else BOUNDED)
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_rows", "_ratio"))


def test_buckets_reach_as_far_as_what_they_measure():
    """A full batch and a request at its deadline fall into buckets of their own, and not beyond the last one."""
    metrics, settings = Metrics(), Settings()
    metrics.batch("rows", "tiny", "fp32", settings.max_batch_rows, 1.0, 1.0)
    metrics.request_seconds.labels("cam", "tiny").observe(settings.default_timeout_s)
    found = _read(metrics)
    for name, labels in (
        ("batch_rows", ("rows",)),
        ("batch_fill_ratio", ("rows",)),
        ("request_seconds", ("cam", "tiny")),
    ):
        finite = [
            (float(key[-1]), count)
            for key, count in found.items()
            if key[:-1] == (f"heatlens_{name}_bucket", *labels) and key[-1] != "+Inf"
        ]
        assert max(finite)[1] == 1
        assert [count for _, count in sorted(finite)][-2] == 0


def test_what_is_offered_is_what_is_exposed():
    """The list that documents are written from has all names and labels, as they come out."""
    metrics = Metrics()
    metrics.watch("waiting", "What waits.", lambda: 1)
    metrics.watch("lost", "What was lost.", lambda: 3, counts=True)
    metrics.watch_by("models", "Models.", "status", lambda: {"ready": 1})
    metrics.tell("build", "Which.", ("version",), lambda: {"version": "1"})
    for one in metrics.named:
        if one.name in ("heatlens_waiting", "heatlens_lost_total", "heatlens_models", "heatlens_build_info"):
            continue
        attribute = one.name.removeprefix("heatlens_").removesuffix("_total").removesuffix("_ratio")
        labelled = getattr(metrics, attribute).labels(*one.labels)  # each by its own name
        labelled.observe(1) if one.kind == "histogram" else labelled.inc()
    families = {f.name: f for f in text_string_to_metric_families(metrics.exposition()[0].decode())}
    found = set()
    for name, family in families.items():
        if name.startswith("heatlens_") and not name.endswith("_created"):
            full = f"{name}_total" if family.type == "counter" else name
            labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
            found.add((full, "info" if full.endswith("_info") else family.type, frozenset(labels)))
    assert found == {(one.name, one.kind, frozenset(one.labels)) for one in metrics.named}


def test_what_only_counts_up_is_a_counter_and_what_labels_say_has_the_value_1():
    metrics = Metrics()
    metrics.watch("lost", "What was lost.", lambda: 3, counts=True)
    metrics.tell("build", "Which.", ("version", "device"), lambda: {"version": "1", "device": "cpu"})
    found = _read(metrics)
    assert found["heatlens_lost_total",] == 3
    assert found["heatlens_build_info", "cpu", "1"] == 1


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75", OPEN_METRICS),
    ],
)
def test_examples_are_in_the_format_that_has_them_and_in_that_alone(accept, kind):
    metrics, trace = Metrics(), "4bf92f3577b34da6a3ce929d0e0e4736"
    metrics.request_seconds.labels("cam", "tiny").observe(0.2, {"trace_id": trace})
    metrics.tell("build", "Which.", ("version",), lambda: {"version": "1"})
    metrics.watch("lost", "What was lost.", lambda: 3, counts=True)
    text, media_type = metrics.exposition(accept)
    assert media_type.startswith(kind)
    assert (trace in text.decode()) is (kind == OPEN_METRICS)
    if kind == OPEN_METRICS:
        families = {f.name: f for f in openmetrics.text_string_to_metric_families(text.decode())}
        assert (families["heatlens_build"].type, families["heatlens_lost"].type) == ("info", "counter")
        (example,) = [s.exemplar for s in families["heatlens_request_seconds"].samples if s.exemplar]
        assert (example.labels, example.value) == ({"trace_id": trace}, 0.2)
