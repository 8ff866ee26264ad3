"""Models load in the background, beside those that answer; what fails leaves the others serving."""

import sys
import threading
from contextlib import contextmanager
from queue import SimpleQueue

import pytest
import torch
from torch import nn

from service.contract import Rows, Tracing
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.engine.store import Store
from service.errors import CatalogError, EngineUnavailable, ModelUnavailable, UnknownModel
from service.images import Transform
from service.models.spec import ModelSpec
from service.settings import Settings
from service.tasks import task
from service.tuning import Tuner
from tests import oracles, tiny


def _spec(name="one", build=tiny.classifier):
    transform = Transform(32, (32, 32), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD)
    return ModelSpec(name, build, transform, task("classification"))


@contextmanager
def _started(device, specs, tuner=None, default=None, **options):
    store = Store({spec.name: spec for spec in specs}, default or specs[0].name, device, tuner, **options)
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
    assert "Served are: resnet, other" in raised.value.detail


def test_what_is_still_loading_says_so_and_those_before_it_serve(device, held):
    with _started(device, [_spec("one"), _spec("slow", held.factory)]) as store:
        assert held.reached.acquire(timeout=60)
        assert store.get("one").facts.name == "one"
        assert not store.settled
        with pytest.raises(ModelUnavailable, match="still loading"):
            store.get("slow")
        held.go.set()
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
        with pytest.raises(ModelUnavailable, match="failed to load: weights: there is no such file") as raised:
            store.get("wrong")
        assert raised.value.retry_after_s == 3600  # it does not load before a restart
        assert store.entry("broken").error == "ZeroDivisionError: theirs"
        assert store.get("one") is not None


def test_what_ends_the_process_ends_its_own_loading_alone(device):
    class Exits(nn.Module):
        def __init__(self, *, always):
            super().__init__()
            self.inner, self.always = tiny.classifier(), always

        def forward(self, x):
            if self.always or x.shape[-1] != 32:
                raise SystemExit("only 32 pixels")
            return self.inner(x)

    specs = [
        _spec("asks", lambda: sys.exit(2)),
        _spec("exits", lambda: Exits(always=True)),
        _spec("another size", lambda: Exits(always=False)),
    ]
    with _started(device, [*specs, _spec("one")]) as store:
        assert store.wait(60)
        assert [entry.status for entry in store.entries.values()] == ["failed", "failed", "ready", "ready"]
        assert store.entry("asks").error == "SystemExit: 2"
        assert "only 32 pixels" in store.entry("exits").error


def test_what_was_looked_at_is_kept_of_one_that_is_refused(device):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.seen += 1
            return x.mean((2, 3)) + self.seen

    with _started(device, [_spec("counts", Counts), _spec("one")]) as store:
        assert store.wait(60)
        *before, last = store.entry("counts").checks
        assert {check.outcome for check in before} == {"passed"}
        assert (last.name, last.outcome) == ("repeatable", "refused")
        assert store.entry("one").checks is None  # the model has its own


def test_a_network_that_the_device_cannot_run_is_told_as_such(device):
    def narrow():
        return nn.Sequential(nn.Conv2d(7, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with _started(device, [_spec("narrow", narrow)]) as store:
        assert store.wait(60)
        assert store.entry("narrow").status == "failed"
        assert store.entry("narrow").error
        assert device.alive


def test_closing_ends_the_loading(device, held):
    with _started(device, [_spec("slow", held.factory), _spec("never")]) as store:
        assert held.reached.acquire(timeout=60)
        store.close()
        held.go.set()
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
            assert key in device.limits._growing


def test_a_resident_model_is_changed_by_whoever_alone_has_it(device, monkeypatch, tmp_path):
    """By its loader before it is served, and by the device thread between two batches from then on."""
    changes = []
    change = Model.__setattr__
    tuner = Tuner(device, Settings(device="cpu", tune=True, cache_dir=tmp_path))
    with _started(device, [_spec()], tuner) as store:

        def noted(model, name, value):
            served = store.entries["one"].model is not None
            changes.append((name, threading.current_thread(), served))
            change(model, name, value)

        monkeypatch.setattr(Model, "__setattr__", noted)
        assert store.wait(60)
        model = store.get(None)
        store.join(120)
        probe = ModelProbe(model, device, Run(), "bf16")
        probe.scores(Rows.of(torch.zeros(2, 3, 32, 32)))
        probe.trace(Rows.of(torch.zeros(2, 3, 32, 32)), Tracing(("conv1",), ("conv1",)), lambda seen: seen.outputs)
    assert {"boxes", "preferred", "max_batch_s"} <= {name for name, _, served in changes if served}
    assert {name for name, thread, served in changes if served and thread is not device._thread} == set()
    assert device._thread not in {thread for _, thread, served in changes if not served}


class Held:
    """Builds networks whose first forward waits until it may go on, or waits itself."""

    def __init__(self):
        held = self
        self.reached, self.go, self.threads = threading.Semaphore(0), threading.Event(), set()

        class Slow(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = tiny.classifier()

            def forward(self, x):
                held.threads.add(threading.current_thread())
                held.reached.release()
                assert held.go.wait(60)
                return self.inner(x)

        self.build = lambda: Slow().eval()

    def factory(self):
        self.reached.release()
        assert self.go.wait(60)
        return tiny.classifier()


@pytest.fixture
def held():
    held = Held()
    yield held
    held.go.set()


def _answers(store, device, name):
    x = torch.zeros(1, 3, 32, 32)
    found = ModelProbe(store.get(name), device, Run()).scores(Rows.of(x))
    torch.testing.assert_close(found, tiny.classifier()(x))


def test_ready_models_answer_while_another_is_examined(device, held):
    """As one that compiles for minutes: nothing of it is on the device thread before it is ready."""
    with _started(device, [_spec("one"), _spec("slow", held.build), _spec("last")], default="one") as store:
        assert held.reached.acquire(timeout=60)
        _answers(store, device, "one")
        with pytest.raises(ModelUnavailable, match="'slow' is still loading"):
            store.get("slow")
        assert device._thread not in held.threads
        held.go.set()
        assert store.wait(60)
        _answers(store, device, "slow")
        assert device._thread in held.threads


@pytest.mark.parametrize("compiled", [False, True])
def test_nothing_is_compiled_while_requests_wait_for_the_device(device, monkeypatch, compiled):
    """The batches and gradients that requests bring were first met on the loader's thread, where parts are compiled."""
    monkeypatch.setattr("service.engine.store.compiles", lambda module: compiled)
    noted: SimpleQueue[tuple[threading.Thread, bool, int]] = SimpleQueue()  # a list would be put back

    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny.classifier()

        def forward(self, x):
            noted.put((threading.current_thread(), torch.is_inference_mode_enabled(), len(x)))
            return self.inner(x)

    with _started(device, [_spec("noting", lambda: Noting().eval())]) as store:
        assert store.wait(60)
        model = store.get(None)
        layer, x = model.facts.default_layer, model.example()[:1]
        ModelProbe(model, device, Run()).trace(Rows.of(x), Tracing((layer,), (layer,)), lambda s: s.outputs[:, :1])
    met = [noted.get() for _ in range(noted.qsize())]
    served = [kind for thread, *kind in met if thread is device._thread]
    first = {tuple(kind): thread for thread, *kind in reversed(met)}
    assert [True, 8] in served
    assert [False, 1] in served
    early = {kind for kind, thread in first.items() if thread is not device._thread}
    assert ((True, 8) in early) == compiled
    assert {(True, 1), (False, 1)} <= early


@pytest.mark.parametrize("kind", ["factory", "build"])
def test_one_that_takes_long_does_not_hold_up_the_rest(device, held, kind):
    """Whether it waits while it is built or while it is looked at, and it is served once it is there."""
    ready = {name: threading.Event() for name in ("one", "last")}

    class Noting(Tuning):
        def recall(self, model):
            ready.get(model.facts.name, threading.Event()).set()
            return False

    specs = [_spec("slow", getattr(held, kind)), _spec("one"), _spec("last")]
    with _started(device, specs, Noting(), patience_s=0, building_s=0) as store:
        assert held.reached.acquire(timeout=60)
        assert all(event.wait(60) for event in ready.values())
        assert not store.settled
        assert store.entry("slow").status == "loading"
        held.go.set()
        assert store.wait(60)
        assert {entry.status for entry in store.entries.values()} == {"ready"}


@pytest.mark.parametrize("kind", ["factory", "build"])
def test_those_that_hang_fail_alone(device, held, monkeypatch, kind):
    """However many hang, and whatever comes of them later."""
    ended = Store._ended

    def hung(store, thread):
        return not held.reached.acquire(timeout=60) if "hangs" in thread.name else ended(store, thread)

    monkeypatch.setattr(Store, "_ended", hung)
    specs = [_spec(f"hangs-{i}", getattr(held, kind)) for i in range(4)]
    with _started(device, [*specs, _spec("one"), _spec("last")], timeout_s=900) as store:
        assert store.wait(60)
        statuses = {name: entry.status for name, entry in store.entries.items()}
        assert statuses == dict.fromkeys((spec.name for spec in specs), "failed") | {"one": "ready", "last": "ready"}
        with pytest.raises(ModelUnavailable, match=r"within 900 s.*HEATLENS_LOAD_TIMEOUT_S"):
            store.get("hangs-0")
        _answers(store, device, "one")
        assert {name for name in store.join(0) if "hangs" in name} == {f"heatlens-loader of {s.name}" for s in specs}
        held.go.set()
        assert store.join(60) == []
        assert store.entry("hangs-0").model is None
        assert store.entry("hangs-0").status == "failed"


def test_what_hangs_is_waited_for_so_long(device, held):
    with _started(device, [_spec("one", held.factory)], timeout_s=0.01) as store:
        assert store.wait(60)
        assert "not come to an end within 0.01 s" in store.entry("one").error
        held.go.set()
        assert store.join(60) == []


def test_the_default_model_is_loaded_alone_at_first(device, held):
    built = []

    def build():
        built.append(threading.current_thread())
        return tiny.classifier()

    with _started(device, [_spec("slow", held.build), _spec("one", build)]) as store:
        assert held.reached.acquire(timeout=60)
        assert built == []
        held.go.set()
        assert store.wait(60)
        assert len(built) == 1


def test_networks_are_built_one_at_a_time(device):
    """Weights that are drawn come from one seed for all threads."""
    at_once, inside = [], threading.Lock()

    def build():
        at_once.append(inside.acquire(blocking=False))
        torch.manual_seed(0)
        network = tiny.classifier()
        inside.release()
        return network

    specs = [_spec(f"m{i}", build) for i in range(6)]
    with _started(device, specs, patience_s=0) as store:
        assert store.wait(60)
    assert at_once == [True] * 6
    assert {entry.status for entry in store.entries.values()} == {"ready"}


def test_a_fresh_model_runs_as_arithmetic_and_proofs_tell(device):
    with _started(device, [_spec()]) as store:
        assert store.wait(60)
        model = store.get(None)
        assert model.variants["fp32"].name == "folded, channels-last"
        assert model.traced is model.variants["fp32"]
        assert model.incremental is not None  # waits for the proof
        assert model.whole is None
        x = model.example()
        torch.testing.assert_close(model.forward(x), tiny.classifier()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("error", [EngineUnavailable("the server is closing"), ZeroDivisionError("theirs")])
def test_what_cannot_be_proved_takes_rows_whole(device, monkeypatch, error):
    def fails(model, device):
        raise error

    monkeypatch.setattr("service.engine.store.prove_boxes", fails)
    with _started(device, [_spec()]) as store:
        assert store.wait(60)
        assert store.get(None).incremental is None
        _answers(store, device, "one")


def test_methods_are_tested_once_all_models_are_measured(device):
    done, recalled, over = [], [], threading.Event()

    class Verifier:
        tests = True

        def verdict(self, version, method):
            return version, method

        def recall(self, model):
            recalled.append((model.facts.name, store.entry(model.facts.name).status))

        def verify(self, spec, model, closing):
            done.append(("tested", spec.name))
            if len(done) == 4:
                over.set()
            raise RuntimeError("it serves as it is")

    class Noting(Tuning):
        def measure(self, model, closing):
            done.append(("measured", model.facts.name))

    specs = {name: _spec(name) for name in ("one", "other")}
    store = Store(specs, "one", device, Noting(), verifier=Verifier())
    store.start()
    try:
        assert over.wait(60)
        assert done == [("measured", "one"), ("measured", "other"), ("tested", "one"), ("tested", "other")]
        assert sorted(recalled) == [("one", "loading"), ("other", "loading")]  # before anybody asks
        assert store.verdict(store.get("one"), "cam") == (store.get("one").version, "cam")
    finally:
        store.close()
        store.join(60)
    assert Store(specs, "one", device).verdict(None, "cam") is None


def test_where_nothing_is_tested_what_was_found_earlier_is_told(device):
    recalled = []

    class Verifier:
        tests = False

        def recall(self, model):
            recalled.append(model.facts.name)

        def verify(self, spec, model, closing):
            recalled.append("tested")

    store = Store({"one": _spec()}, "one", device, verifier=Verifier())
    store.start()
    assert store.wait(60)
    store.join(60)
    assert recalled == ["one"]
