"""Measuring how a model runs best: what is chosen, what is remembered, and who goes first."""

import json
import threading
from functools import partial

import pytest
import torch

from service.app import build, close
from service.client.wire import Request
from service.engine.network.memory import live_bytes
from service.engine.network.runtimes.graphs import Recorded
from service.engine.network.variants import Variant, candidates
from service.engine.scheduler.work import CallWork, RowsWork, rows_key
from service.errors import EngineUnavailable, InvalidParameter
from service.settings import Settings
from service.tuning import Tuner
from service.tuning.choice import AGREEMENT, NEAR_BEST
from service.tuning.steps import Steps
from tests.conftest import CATALOG


@pytest.fixture
def service(tmp_path):
    context = build(Settings(catalog=CATALOG, model=("tiny",), device="cpu", cache_dir=tmp_path, max_batch_rows=16))
    context.store.start()
    assert context.store.wait(60)
    yield context
    close(context)


def _tuner(service):
    tuner = Tuner(service.device, service.settings.model_copy(update={"tune": True}))
    tuner.patience_s = 600.0  # however busy this machine is
    return tuner


def test_measures_chooses_and_remembers(service, tmp_path, monkeypatch):
    monkeypatch.setattr("service.tuning.tuner.quick", lambda kind: ("fp32", "bf16"))  # on any processor
    model, tuner = service.store.get("tiny"), _tuner(service)
    assert not tuner.recall(model)
    tuner.measure(model, threading.Event())
    tuned = tuner.found[model.version]
    assert {t.precision for t in tuned.timings} == {"fp32", "bf16"}
    for precision in ("fp32", "bf16"):
        rates = {
            t.rows: t.rows_per_s
            for t in tuned.timings
            if (t.precision, t.variant) == (precision, tuned.variants[precision])
        }
        assert rates[tuned.batch_rows[precision]] >= NEAR_BEST * max(rates.values())
        assert service.device.limits.of(rows_key(model, (3, 32, 32), precision)) == tuned.batch_rows[precision]
        assert model.variants[precision].name == tuned.variants[precision]
    same = tuned.agreement["fp32"], tuned.weights_agreement["fp32"], tuned.probability_error["fp32"]
    assert same == pytest.approx((1, 1, 0))
    assert tuned.preferred == "fp32" or tuned.agreement[tuned.preferred] >= AGREEMENT
    assert tuned.missing == ()

    again = _tuner(service)
    assert again.recall(model)
    recalled = again.found[model.version]
    assert recalled.remembered
    assert (recalled.preferred, recalled.batch_rows, recalled.timings) == (
        tuned.preferred,
        tuned.batch_rows,
        tuned.timings,
    )


def test_forwards_that_are_recorded_are_so_before_requests_come(service):
    model, tuner, sizes = service.store.get("tiny"), _tuner(service), []

    def record(call):
        found = call()
        sizes.append(len(found))
        return found, lambda: found.copy_(call())

    way = Variant("graphs", model.module, buckets=True, recorded=Recorded(model.module, record))
    model.variants["fp32"] = way
    service.device.limits.set(rows_key(model, (3, 32, 32), "fp32"), 13)
    tuner._record(model, Steps(service.device, threading.Event(), patience_s=600.0))
    assert sizes == [1, 2, 3, 4, 6, 8, 12, 16]


def test_rows_of_boxes_are_plain_where_nobody_has_measured_them(service, monkeypatch):
    model, tuner = service.store.get("tiny"), _tuner(service)
    monkeypatch.setattr(model, "device", torch.device("cuda:0"))
    monkeypatch.setattr(model, "example", lambda: torch.zeros(1, 3, 32, 32))
    tuner._write_down(model, Steps(service.device, threading.Event(), patience_s=600.0))
    assert model.incremental is None
    assert "nobody has measured" in model.whole


def test_batches_fit_in_the_memory_that_is_set(tmp_path):
    """Before anything is measured, and in all that is measured."""
    settings = Settings(catalog=CATALOG, model=("tiny",), device="cpu", cache_dir=tmp_path, max_batch_mib=1)
    context = build(settings)
    context.device.limits.max_bytes //= 2
    context.store.start()
    assert context.store.wait(60)
    model = context.store.get("tiny")
    assert 1 < 2**19 // model.row_bytes < 8
    assert context.device.limits.of(rows_key(model, (3, 32, 32), "fp32")) == 2**19 // model.row_bytes
    tuner = _tuner(context)
    tuner.measure(model, threading.Event())
    tuned = tuner.found[model.version]
    for precision, name in tuned.variants.items():
        variant = model.variants[precision]
        row_bytes = live_bytes(variant.module, variant.laid_out(model.example()[:1]))
        most = max(t.rows for t in tuned.timings if (t.precision, t.variant) == (precision, name))
        assert 1 < most * row_bytes <= 2**19
    close(context)


@pytest.mark.parametrize(("off", "same"), [(0.0, True), (5e-4, True), (2e-3, False), (float("nan"), False)])
def test_what_is_remembered_belongs_to_what_answers_alike(service, tmp_path, off, same):
    """Another library's version may compute otherwise with the same weights; another machine differs by rounding."""
    model, tuner = service.store.get("tiny"), _tuner(service)
    tuner.measure(model, threading.Event())
    (file,) = tmp_path.glob("measured-*.json")
    kept = json.loads(file.read_text())
    with torch.inference_mode():
        expected = model.module(model.example()[:1])[0]
    assert kept["answer"] == pytest.approx(expected.tolist(), rel=1e-5)
    kept["answer"][2] += off * float(expected.abs().max())
    file.write_text(json.dumps(kept))
    assert _tuner(service).recall(model) is same
    file.write_text(json.dumps(kept | {"answer": kept["answer"][1:]}))
    assert not _tuner(service).recall(model)


def test_a_damaged_memory_is_measured_anew(service, tmp_path):
    model, tuner = service.store.get("tiny"), _tuner(service)
    tuner.measure(model, threading.Event())
    (file,) = tmp_path.glob("measured-*.json")
    whole = json.loads(file.read_text())
    for damaged in (
        json.dumps(whole | {"batch_rows": {"fp32": 2.5}}),
        json.dumps(whole | {"seconds": "long"}),
        json.dumps(whole | {"answer": [10**400] * len(whole["answer"])}),
        "",
        "[]",
        "{}",
        json.dumps({"timings": [{"x": 1}]}),
        json.dumps({"timings": []}),
    ):
        file.write_text(damaged)
        assert not _tuner(service).recall(model)
        file.with_suffix(".damaged").unlink()  # it is set aside


@pytest.mark.parametrize(
    "other",
    [
        {"variants": {"fp32": "?"}},
        {"variants": {"fp32": "plain"}, "preferred": "bf16"},
        {"variants": {"fp32": "plain", "fp16": "half"}},
    ],
)
def test_what_the_network_does_not_run_in_here_is_measured_anew(service, tmp_path, monkeypatch, other):
    model, tuner = service.store.get("tiny"), _tuner(service)
    tuner.measure(model, threading.Event())
    (file,) = tmp_path.glob("measured-*.json")
    file.write_text(json.dumps({"answer": json.loads(file.read_text())["answer"]} | other))

    def offered(module, x, precision):
        if precision == "fp16":
            raise InvalidParameter.at("/precision", "this network cannot run in fp16")
        return candidates(module, x, precision)

    monkeypatch.setattr("service.tuning.tuner.candidates", offered)
    assert not _tuner(service).recall(model)
    assert file.exists()


def test_a_way_that_fails_or_does_not_fit_is_left_out(service, monkeypatch):
    model, tuner = service.store.get("tiny"), _tuner(service)

    def offered(module, x, precision):
        if precision == "bf16":
            return [Variant("broken", _Failing(0), precision)]
        return [Variant("small", _Failing(3, module)), Variant("stale", module, recorded=Recorded(module, _stale))]

    monkeypatch.setattr("service.tuning.tuner.candidates", offered)
    tuner.measure(model, threading.Event())
    tuned = tuner.found[model.version]
    assert {(t.variant, t.rows) for t in tuned.timings} == {("small", 1), ("small", 2)}
    assert (tuned.variants, tuned.preferred) == ({"fp32": "small"}, "fp32")


class _Failing(torch.nn.Module):
    """A network that takes only so many rows."""

    def __init__(self, rows, module=None):
        super().__init__()
        self.rows, self.module = rows, module

    def forward(self, x):
        if len(x) > self.rows:
            raise torch.OutOfMemoryError("out of memory")
        return self.module(x)


def test_a_network_that_takes_one_precision_only_is_measured_in_it(tmp_path):
    (tmp_path / "catalog.toml").write_text("[models.m]\nfactory = 'tests.odd.nets:only_float32'\ninput_size = 32\n")
    context = build(Settings(catalog=tmp_path / "catalog.toml", device="cpu", cache_dir=tmp_path, max_batch_rows=4))
    context.store.start()
    try:
        model, tuner = context.store.get("m") if context.store.wait(60) else None, _tuner(context)
        tuner.measure(model, threading.Event())
        tuned = tuner.found[model.version]
        assert set(tuned.variants) == {"fp32"}
        assert tuned.preferred == "fp32"
    finally:
        close(context)


def _stale(call):
    """A recording that answers what was asked first, for ever."""
    return call(), lambda: None


class Watched:
    """A device that is asked what it is asked, and that can be made to stop."""

    def __init__(self, device, closing=None, after=0):
        self.of, self.runs, self.closing, self.after = device, [], closing, after

    def __getattr__(self, name):
        return getattr(self.of, name)

    def _asked(self, run):
        self.runs.append(run)
        if self.closing is not None and len(self.runs) == self.after:
            self.closing.set()

    def put(self, work, run):
        self._asked(run)
        return self.of.put(work, run)

    def call(self, call, run=None):
        return self.submit(CallWork(call), run)

    def submit(self, work, run):
        return self.put(work, run).wait()


def test_requests_go_before_measuring(service):
    """All that measuring asks of the device waits behind every request, and is done after a few batches."""
    lowest = next(limit.ge for limit in Request.model_fields["priority"].metadata if hasattr(limit, "ge"))
    model, tuner = service.store.get("tiny"), _tuner(service)
    forwards = [0]
    model.module.register_forward_pre_hook(lambda *_: forwards.append(forwards[-1] + 1))

    class Counted(Watched):
        def put(self, work, run):
            if isinstance(work, CallWork):
                work.call = partial(self._few, work.call)
            return super().put(work, run)

        def _few(self, call):
            before = len(forwards)
            found = call()
            assert len(forwards) - before <= 8
            return found

    tuner.device = Counted(service.device)
    tuner.measure(model, threading.Event())
    assert len(forwards) > 50
    assert len(tuner.device.runs) > 50
    assert {run.priority < lowest for run in tuner.device.runs} == {True}


@pytest.mark.parametrize("after", [0, 1, 5, 20])
def test_closing_ends_the_measuring(service, tmp_path, after):
    """Nothing is asked of the device any more, and what is unfinished is not remembered."""
    model, tuner, closing = service.store.get("tiny"), _tuner(service), threading.Event()
    tuner.device = Watched(service.device, closing, after)
    if not after:
        closing.set()
    with pytest.raises(EngineUnavailable, match="closing"):
        tuner.measure(model, closing)
    assert len(tuner.device.runs) == after
    assert list(tmp_path.glob("measured-*")) == []
    assert not _tuner(service).recall(model)


def test_closing_ends_the_comparison_of_precisions(service, tmp_path):
    """Whose maps take longest: at most the one that is under way is finished."""
    model, tuner, closing = service.store.get("tiny"), _tuner(service), threading.Event()
    asked = []

    class Closing(Watched):
        def put(self, work, run):
            if isinstance(work, RowsWork):
                closing.set()
                asked.append(work.precision)
            return super().put(work, run)

    tuner.device = Closing(service.device)
    with pytest.raises(EngineUnavailable, match="closing"):
        tuner.measure(model, closing)
    assert set(asked) == {"fp32"}
    assert list(tmp_path.glob("measured-*")) == []


def test_a_store_that_closes_is_not_measured(service):
    """Which ends what waits for the device's idle time, and keeps nothing."""
    model, tuner, closing = service.store.get("tiny"), _tuner(service), threading.Event()
    closing.set()
    with pytest.raises(EngineUnavailable, match="the server is closing"):
        tuner.measure(model, closing)
    assert not tuner.found


def test_nothing_is_measured_where_it_is_not_wanted(service):
    tuner = Tuner(service.device, service.settings)
    tuner.device = Watched(service.device)
    tuner.measure(service.store.get("tiny"), threading.Event())
    assert (tuner.device.runs, tuner.found) == ([], {})


@pytest.mark.parametrize("budget_s", [0.0, 1e-3])
def test_what_the_budget_does_not_reach_is_said_to_be_missing(service, budget_s):
    """The most valuable is first; what was proved and estimated at load goes on."""
    model, tuner = service.store.get("tiny"), _tuner(service)
    tuner.budget_s = budget_s
    before = model.variants["fp32"], model.incremental
    tuner.measure(model, threading.Event())
    tuned = tuner.found[model.version]
    assert "agreement of precisions" in tuned.missing
    assert len(tuned.missing) > 1
    assert tuned.preferred == "fp32"
    if not budget_s:
        assert (tuned.timings, tuned.variants) == ([], {})
        assert (model.variants["fp32"], model.incremental) == before
    assert model.forward(model.example()).shape == (2, 5)


def test_what_was_measured_beforehand_is_looked_at_first(service, tmp_path):
    """Under the same conditions it stands; under others it is a guess, and measured anew."""
    model = service.store.get("tiny")
    there = service.settings.model_copy(update={"tune": True, "cache_dir": tmp_path / "image"})
    first = Tuner(service.device, there)
    first.measure(model, threading.Event())
    settings = there.model_copy(update={"cache_dir": tmp_path / "own", "tuned_dir": tmp_path / "image"})
    second = Tuner(service.device, settings)
    assert second.recall(model)
    found = second.found[model.version]
    assert (found.remembered, found.guess, found.timings) == (True, False, first.found[model.version].timings)
    third = Tuner(service.device, settings)
    third.records.conditions["cores"] = 1000
    assert third.recall(model)
    found = third.found[model.version]
    assert (found.guess, found.missing) == (True, ("all of it with these cores and bounds",))
    third.measure(model, threading.Event())
    assert not third.found[model.version].guess
    assert [path.parent.name for path in tmp_path.rglob("measured-*")].count("own") == 1
