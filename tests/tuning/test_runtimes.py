"""Other libraries as ways to run a model: which are offered, which run, and what an answer says of it."""

import threading
from dataclasses import replace

import pytest
import torch

from service.app import build, close
from service.contract import Rows
from service.engine.network.runtimes import building
from service.engine.network.variants import Variant
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.settings import Settings
from service.tuning import Tuner, runtimes
from service.tuning.choice import Timing, Tuned
from service.tuning.runtimes import Runtimes
from tests.conftest import CATALOG
from tests.engine.network.runtimes.doubles import Saved
from tests.explainers.conftest import assert_close

NAME = Saved.name
TIMINGS = [Timing("fp32", "plain", 4, 100.0), Timing("fp32", "channels-last", 4, 120.0), Timing("fp32", NAME, 8, 300.0)]


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Let this process do what another one would."""
    monkeypatch.setattr(building, "_run", lambda work, closing: building.written(work))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    context = build(Settings(catalog=CATALOG, model=("tiny",), device="cpu", cache_dir=folder, max_batch_rows=8))
    context.store.start()
    assert context.store.wait(60)
    yield context
    close(context)


def _tuner(service, folder):
    tuner = Tuner(service.device, service.settings.model_copy(update={"tune": True, "cache_dir": folder}))
    tuner.precisions = ("fp32",)
    return tuner


def _offer(monkeypatch, *kinds):
    monkeypatch.setattr(runtimes, "KINDS", kinds)


def _variants(service, folder, closing=None):
    model = service.store.get("tiny")
    found = Runtimes(folder, None, 1).variants(model, model.variants["fp32"], closing or threading.Event())
    return [variant.name for variant in found]


def test_what_is_installed_and_answers_the_same_is_offered(service, tmp_path, monkeypatch):
    _offer(monkeypatch, Saved())
    assert _variants(service, tmp_path) == [NAME]
    for i, kind in enumerate((Saved(there=False), Saved(off=1e-3), Saved(refuses=True))):
        _offer(monkeypatch, kind)
        assert _variants(service, tmp_path / str(i)) == []
    _offer(monkeypatch, Saved())
    closing = threading.Event()
    closing.set()
    assert _variants(service, tmp_path / "closing", closing) == []
    monkeypatch.setattr(runtimes, "_MOST_BYTES", 100)
    assert _variants(service, tmp_path) == []


def test_nowhere_to_keep_it_is_nothing_offered(service, tmp_path, monkeypatch):
    _offer(monkeypatch, Saved())
    (tmp_path / "file").write_text("")
    assert _variants(service, tmp_path / "file" / "cache") == []


def test_it_is_kept_by_all_that_decides_what_it_is_worth(service, tmp_path, monkeypatch):
    model, kept = service.store.get("tiny"), Runtimes(tmp_path, None, 1)
    first = kept.folder(model, Saved())
    assert kept.folder(model, Saved()) == first
    other = Saved()
    other.release = "2"
    assert kept.folder(model, other) != first
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another one")
    assert kept.folder(model, Saved()) != first


def test_what_was_built_beforehand_is_not_built_again(service, tmp_path, monkeypatch):
    _offer(monkeypatch, Saved())
    assert _variants(service, tmp_path / "image") == [NAME]
    monkeypatch.setattr(building, "_run", None)
    model = service.store.get("tiny")
    kept = Runtimes(tmp_path / "own", tmp_path / "image", 1)
    assert kept.variant(model, model.variants["fp32"], NAME).library == NAME
    assert not (tmp_path / "own" / kept.folder(model, Saved()).name).exists()


def test_those_that_are_not_chosen_are_closed(service, tmp_path, monkeypatch):
    _offer(monkeypatch, Saved())
    model, kept = service.store.get("tiny"), Runtimes(tmp_path, None, 1)
    (variant,) = kept.variants(model, model.variants["fp32"], threading.Event())
    kept.forget(model, NAME)
    assert kept.variant(model, model.variants["fp32"], NAME).runtime is variant.runtime
    kept.forget(model, "plain")
    assert kept.variant(model, model.variants["fp32"], NAME).runtime is not variant.runtime


def test_the_library_that_was_chosen_runs_rows_and_answers_say_so(service, tmp_path, monkeypatch):
    _offer(monkeypatch, Saved())
    model = service.store.get("tiny")
    tuner = _tuner(service, tmp_path)
    model.variants["fp32"] = Variant("plain", model.module)
    assert _variants(service, tmp_path) == [NAME]
    x = model.example()

    def asked():
        run = Run()
        return ModelProbe(model, service.device, run).scores(Rows.of(x)), run.usage.runtime

    expected, runtime = asked()
    assert runtime == "torch"
    tuned = Tuned(TIMINGS, variants={"fp32": NAME}, batch_rows={"fp32": 8})
    tuner._apply(model, tuned, service.device.call)
    assert tuner.found[model.version].variants == {"fp32": NAME}
    assert (model.quicker, model.variants["fp32"].channels_last) == (2.5, True)  # 300 by 120, whose copy it stands on
    found, runtime = asked()
    assert runtime == NAME
    assert_close(found, expected)
    model.variants["fp32"].runtime.failed = True
    found, runtime = asked()
    assert runtime == "torch"
    assert_close(found, expected)


@pytest.mark.parametrize(
    "kinds", [(), (Saved(there=False),), (Saved(off=1e-3),), (Saved(),)], ids=["none", "absent", "wrong", "not built"]
)
def test_where_the_library_is_gone_the_fastest_copy_runs(service, tmp_path, monkeypatch, kinds):
    """Not installed any more, wrong since, or never built here."""
    _offer(monkeypatch, *kinds)
    model, tuner = service.store.get("tiny"), _tuner(service, tmp_path)
    tuner._apply(model, Tuned(TIMINGS, variants={"fp32": NAME}, batch_rows={"fp32": 8}), service.device.call)
    assert tuner.found[model.version].variants == {"fp32": "channels-last"}
    assert (model.variants["fp32"].library, model.quicker) == ("torch", 1.0)


def test_a_measurement_chooses_among_all_that_are_offered(service, tmp_path, monkeypatch):
    _offer(monkeypatch, Saved())
    model = service.store.get("tiny")
    tuner = _tuner(service, tmp_path)
    tuner.measure(model, threading.Event())
    tuned = tuner.found[model.version]
    timed = {timing.variant for timing in tuned.timings}
    assert NAME in timed
    fastest = max(tuned.timings, key=lambda timing: timing.rows_per_s).variant
    assert tuned.variants["fp32"] == fastest
    assert (model.variants["fp32"].library == NAME) == (fastest == NAME)
    again = _tuner(service, tmp_path)
    assert again.recall(model)
    assert again.found[model.version] == replace(tuned, remembered=True)
