"""Models load in the background, one after another; what fails leaves the others serving."""

import threading
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from service.contract import Rows, Tracing
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.store import Store
from service.errors import CatalogError, EngineUnavailable, ModelUnavailable, UnknownModel
from service.images import Transform
from service.models.spec import ModelSpec
from service.settings import Settings
from service.tasks import task
from service.tuning import Tuner
from tests import oracles, tiny


@pytest.fixture
def device():
    device = Device(torch.device("cpu"), max_batch_rows=8)
    yield device
    device.close()


def _spec(name="one", build=tiny.classifier):
    transform = Transform(32, (32, 32), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD)
    return ModelSpec(name, build, transform, task("classification"))


@contextmanager
def _started(device, specs, tuner=None, default=None):
    store = Store({spec.name: spec for spec in specs}, default or specs[0].name, device, tuner)
    store.start()
    try:
        yield store
    finally:
        store.close()
        store.join(60)


class Tuning:
    """Notes what it is asked for."""

    def __init__(self, error=None):
        self.found, self.asked, self.error, self.measured = {}, [], error, threading.Event()

    def recall(self, model):
        self.asked.append(("recall", model.facts.name))
        return False

    def measure(self, model, closing):
        self.asked.append(("measure", model.facts.name))
        self.measured.set()
        if self.error is not None:
            raise self.error


def test_the_default_model_loads_first_and_is_what_nobody_names(device):
    order = []

    def built(name):
        def build():
            order.append(name)
            return tiny.classifier()

        return build

    specs = [_spec(name, built(name)) for name in ("one", "two", "three")]
    with _started(device, specs, default="two") as store:
        assert store.wait(60)
        assert order == ["two", "one", "three"]
        assert store.get(None) is store.get("two")
        assert store.settled
        assert all(entry.status == "ready" and entry.load_s > 0 for entry in store.entries.values())


def test_a_name_that_is_not_there_is_told_with_those_that_are(device):
    with _started(device, [_spec("resnet"), _spec("other")]) as store, pytest.raises(UnknownModel) as raised:
        store.entry("resnett")
    assert "did you mean 'resnet'" in raised.value.detail
    assert "served are: resnet, other" in raised.value.detail


def test_what_is_still_loading_says_so_and_those_before_it_serve(device):
    reached, go = threading.Event(), threading.Event()

    def slow():
        reached.set()
        assert go.wait(60)
        return tiny.classifier()

    with _started(device, [_spec("one"), _spec("slow", slow)]) as store:
        assert reached.wait(60)
        assert store.get("one").facts.name == "one"
        assert not store.settled
        with pytest.raises(ModelUnavailable, match="still loading"):
            store.get("slow")
        go.set()
        assert store.wait(60)
        assert store.get("slow").facts.name == "slow"


def test_what_cannot_be_loaded_leaves_the_others_serving(device):
    def wrong():
        raise CatalogError("weights: there is no such file")

    def broken():
        raise ZeroDivisionError("theirs")

    with _started(device, [_spec("wrong", wrong), _spec("broken", broken), _spec("one")]) as store:
        assert store.wait(60)
        assert [entry.status for entry in store.entries.values()] == ["failed", "failed", "ready"]
        with pytest.raises(ModelUnavailable, match="failed to load: weights: there is no such file"):
            store.get("wrong")
        assert store.entry("broken").error == "ZeroDivisionError: theirs"
        assert store.get("one") is not None


def test_a_network_that_the_device_cannot_run_is_told_as_such(device):
    def narrow():
        return nn.Sequential(nn.Conv2d(7, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with _started(device, [_spec("narrow", narrow)]) as store:
        assert store.wait(60)
        assert store.entry("narrow").status == "failed"
        assert store.entry("narrow").error
        assert device.alive


def test_closing_ends_the_loading(device):
    reached, go = threading.Event(), threading.Event()

    def slow():
        reached.set()
        assert go.wait(60)
        return tiny.classifier()

    with _started(device, [_spec("slow", slow), _spec("never")]) as store:
        assert reached.wait(60)
        store.close()
        go.set()
    assert store.settled
    assert [entry.status for entry in store.entries.values()] == ["ready", "loading"]


def test_a_store_that_was_never_started_is_joined_at_once(device):
    Store({"one": _spec()}, "one", device).join(60)


def test_models_are_measured_once_all_are_ready(device):
    tuner = Tuning()
    with _started(device, [_spec("one"), _spec("two")], tuner) as store:
        assert store.wait(60)
        assert tuner.measured.wait(60)
    assert tuner.asked[:3] == [("recall", "one"), ("recall", "two"), ("measure", "one")]


@pytest.mark.parametrize("error", [EngineUnavailable("the server is closing"), ZeroDivisionError("theirs")])
def test_what_cannot_be_measured_serves_as_it_is(device, error, caplog):
    tuner = Tuning(error)
    with _started(device, [_spec()], tuner) as store:
        assert tuner.measured.wait(60)
        store.join(60)
        assert store.get("one") is not None
    told = [record for record in caplog.records if "measured" in record.message]
    assert [record.levelname == "ERROR" for record in told] == [isinstance(error, ZeroDivisionError)] * len(told)


def test_before_anything_is_measured_batches_are_few_rows_that_fit(device):
    with _started(device, [_spec()]) as store:
        assert store.wait(60)
        model = store.get(None)
        for precision in ("fp32", "bf16"):
            key = ("rows", id(model), (3, 32, 32), precision)
            assert device.limits.of(key) == min(device.limits.unmeasured_rows, device.limits.fitting(model.row_bytes))


def test_only_the_device_thread_changes_a_resident_model(device, monkeypatch, tmp_path):
    """Loading, measuring and asking: what is changed is changed between two batches."""
    changes = []
    change = Model.__setattr__

    def noted(model, name, value):
        changes.append((name, threading.current_thread()))
        change(model, name, value)

    monkeypatch.setattr(Model, "__setattr__", noted)
    tuner = Tuner(device, Settings(device="cpu", tune=True, cache_dir=tmp_path))
    with _started(device, [_spec()], tuner) as store:
        assert store.wait(60)
        model = store.get(None)
        store.join(120)
        probe = ModelProbe(model, device, Run(), "bf16")
        probe.scores(Rows.of(torch.zeros(2, 3, 32, 32)))
        probe.trace(Rows.of(torch.zeros(2, 3, 32, 32)), Tracing(("conv1",), ("conv1",)), lambda seen: seen.outputs)
    assert {"module", "preferred", "max_batch_s"} <= {name for name, _ in changes}
    assert {name for name, thread in changes if thread is not device._thread} == set()
