"""Measuring how a model runs best: what is chosen, what is remembered, and who goes first."""

import json
import threading

import pytest
import scipy.stats
import torch

from service.app import build, close
from service.contract import Rows
from service.engine.network.graphs import Recorded
from service.engine.network.memory import live_bytes
from service.engine.network.variants import Variant
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import RowsWork
from service.settings import Settings
from service.tuning import AGREEMENT, Tuner, photographs, rank_correlation
from tests.conftest import CATALOG
from tests.engine.scheduler.doubles import held


@pytest.fixture
def service(tmp_path):
    context = build(Settings(catalog=CATALOG, model=("tiny",), device="cpu", cache_dir=tmp_path, max_batch_rows=16))
    context.store.start()
    assert context.store.wait(60)
    yield context
    close(context)


def _tuner(service):
    return Tuner(service.device, service.settings.model_copy(update={"tune": True}))


def test_measures_chooses_and_remembers(service, tmp_path):
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
        assert rates[tuned.batch_rows[precision]] >= 0.95 * max(rates.values())
        assert service.device.limits.of(("rows", id(model), (3, 32, 32), precision)) == tuned.batch_rows[precision]
        assert model.variants[precision].name == tuned.variants[precision]
    assert tuned.agreement["fp32"] == 1
    assert tuned.preferred == "fp32" or tuned.agreement[tuned.preferred] >= AGREEMENT

    again = _tuner(service)
    assert again.recall(model)
    recalled = again.found[model.version]
    assert recalled.remembered
    assert (recalled.preferred, recalled.batch_rows, recalled.timings) == (
        tuned.preferred,
        tuned.batch_rows,
        tuned.timings,
    )


def test_batches_fit_in_the_memory_that_is_set(tmp_path):
    """Before anything is measured, and in all that is measured."""
    settings = Settings(catalog=CATALOG, model=("tiny",), device="cpu", cache_dir=tmp_path, max_batch_mib=1)
    context = build(settings)
    context.device.limits.max_bytes //= 2
    context.store.start()
    assert context.store.wait(60)
    model = context.store.get("tiny")
    assert 1 < 2**19 // model.row_bytes < 8
    assert context.device.limits.of(("rows", id(model), (3, 32, 32), "fp32")) == 2**19 // model.row_bytes
    tuner = _tuner(context)
    tuner.measure(model, threading.Event())
    tuned = tuner.found[model.version]
    for precision, name in tuned.variants.items():
        variant = model.variants[precision]
        row_bytes = live_bytes(variant.module, variant.laid_out(model.example()[:1]))
        most = max(t.rows for t in tuned.timings if (t.precision, t.variant) == (precision, name))
        assert 1 < most * row_bytes <= 2**19
    close(context)


def test_a_damaged_memory_is_measured_anew(service, tmp_path):
    model, tuner = service.store.get("tiny"), _tuner(service)
    tuner.measure(model, threading.Event())
    (file,) = tmp_path.glob("measured-*.json")
    for damaged in (
        "",
        "[]",
        "{}",
        json.dumps({"timings": [{"x": 1}]}),
        json.dumps({"timings": [], "variants": {"fp32": "?"}}),
    ):
        file.write_text(damaged)
        assert not _tuner(service).recall(model)


def test_a_precision_that_disagrees_is_not_chosen(service, monkeypatch):
    model, tuner = service.store.get("tiny"), _tuner(service)
    monkeypatch.setattr("service.tuning.PAYS", 0.0)
    monkeypatch.setattr("service.tuning.AGREEMENT", 1.1)
    tuner.measure(model, threading.Event())
    assert model.preferred == "fp32"


def test_a_way_that_fails_or_does_not_fit_is_left_out(service, monkeypatch):
    model, tuner = service.store.get("tiny"), _tuner(service)

    def offered(module, x, precision):
        if precision == "bf16":
            return [Variant("broken", _Failing(0), precision)]
        return [Variant("small", _Failing(3, module)), Variant("stale", module, recorded=Recorded(module, _stale))]

    monkeypatch.setattr("service.tuning.candidates", offered)
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


def _stale(call):
    """A recording that answers what was asked first, for ever."""
    return call(), lambda: None


def test_requests_go_before_measuring(service):
    """Measuring takes small steps, and each of them only when nobody waits."""
    model, tuner, order = service.store.get("tiny"), _tuner(service), []
    forward = model.forward

    def noted(rows, precision="fp32"):
        order.append("request")
        return forward(rows, precision)

    model.forward = noted
    put, queued = service.device.put, threading.Event()

    def noting(work, run):
        ticket = put(work, run)
        queued.set()
        return ticket

    with held(service.device):
        service.device.put = noting
        measuring = threading.Thread(target=tuner._call, args=(lambda: order.append("measuring"), threading.Event()))
        measuring.start()
        assert queued.wait(20)
        rows = Rows(100, lambda i, j: torch.zeros(j - i, 3, 32, 32))
        asked = service.device.put(RowsWork(model, (3, 32, 32), rows), Run())
    asked.wait()
    measuring.join(30)
    assert order[-1] == "measuring"
    assert len(order) > 5


def test_closing_ends_the_measuring(service):
    closing = threading.Event()
    closing.set()
    service.store.tuner = _tuner(service)
    service.store._tune(service.store.get("tiny"), service.store.tuner)  # logs, and does not wait
    assert not service.store.tuner.found or closing.is_set()


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_spearmans(seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(50, generator=generator).relu()  # ties
    b = a + torch.randn(50, generator=generator).mul(0.5).relu()
    assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-9)
    assert rank_correlation(torch.zeros(9), torch.zeros(9)) == 1
    assert rank_correlation(torch.zeros(9), torch.arange(9.0)) == 0


def test_the_photographs_are_there():
    assert len(list(photographs())) == 3
