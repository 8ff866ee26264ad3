"""What a method sees of a model: the same as of the plain network, whatever way the engine takes to it."""

import pytest
import torch

from service.contract import INPUT, At, Boxes, Rows, Targets, Tracing, fingerprint
from service.engine.incremental import Incremental
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe, Strongest
from service.engine.scheduler.at import AtWork
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import CallWork, TraceWork
from service.errors import InvalidParameter, NotApplicable
from service.explainers.base import registry
from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task
from tests import oracles, tiny
from tests.engine.scheduler.doubles import held, together
from tests.plain import PlainProbe

TRACINGS = [
    Tracing(("conv1", "conv2")),
    Tracing(("conv1",), partial=True),
    Tracing(("conv2",), ("conv2",)),
    Tracing((), (INPUT,)),
    Tracing(("conv1",), ("conv1", "conv2", INPUT)),
]


@pytest.fixture(scope="module")
def model():
    transform = Transform(32, (32, 32), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD)
    spec = ModelSpec("one", tiny.classifier, transform, task("classification"))
    return Model(spec, tiny.classifier(), torch.device("cpu"))


@pytest.fixture(scope="module")
def plain(model):
    return PlainProbe(tiny.classifier().requires_grad_(False), model.facts)


@pytest.fixture
def device():
    device = Device(torch.device("cpu"), max_batch_rows=4, cache_bytes=10_000)
    yield device
    device.close()


def _noise(count, seed=0):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_scores_are_the_networks_outputs_of_all_rows_in_order(model, device, plain):
    x, run = _noise(11), Run()
    found = ModelProbe(model, device, run).scores(Rows.of(x))
    torch.testing.assert_close(found, plain.scores(Rows.of(x)), rtol=1e-5, atol=1e-6)
    assert (run.usage.forwards, run.usage.batches, run.done, run.expected) == (11, 3, 11, 11)
    assert run.usage.cache == "none"


def test_scores_are_asked_for_in_the_precision_of_the_request(model, device, plain):
    x, run = _noise(3), Run()
    found = ModelProbe(model, device, run, "bf16").scores(Rows.of(x))
    assert run.usage.precision == "bf16"
    exact = plain.scores(Rows.of(x))
    assert 0 < float((found - exact).abs().max()) < 0.05 * float(exact.abs().max())


def test_equal_rows_of_one_model_and_precision_are_computed_once(model, device):
    x = _noise(5)

    def ask(precision="fp32", image=x, count=5):
        run = Run()
        rows = Rows(count, lambda i, j: image[i:j], ("mine", fingerprint(image)))
        ModelProbe(model, device, run, precision).scores(rows)
        return run.usage.cache

    assert ask() == "miss"
    assert ask() == "hit"
    assert ask("bf16") == "miss"
    assert ask(image=_noise(5, seed=1)) == "miss"
    assert ask(count=4) == "miss"
    assert ask() == "hit"


def test_what_is_done_so_far_can_be_sketched(model, device):
    seen, run, x = [], Run(), _noise(10)
    run.progress = lambda: seen.append(run.sketch())
    found = ModelProbe(model, device, run).scores(Rows.of(x), sketch=lambda outputs: outputs.clone())
    assert [len(outputs) for outputs in seen] == [4, 8, 10]
    assert all(torch.equal(outputs, found[: len(outputs)]) for outputs in seen)


def test_before_anything_is_done_there_is_nothing_to_sketch(model, device):
    run = Run()
    with held(device):
        device.put(_put_off(model, device, run), run)
        assert run.sketch() is None


def _put_off(model, device, run, rows=None):
    """Return the work that a probe would wait for."""
    works = []
    probe = ModelProbe(model, device, run)
    submit, device.submit = device.submit, lambda work, run: works.append(work) or torch.zeros(2, 5)
    probe.scores(rows or Rows.of(_noise(2)), sketch=lambda outputs: outputs)
    device.submit = submit
    return works[0]


@pytest.mark.parametrize("tracing", TRACINGS, ids=str)
def test_a_trace_is_what_the_plain_network_has(model, device, plain, tracing):
    rows, run = Rows.of(_noise(6)), Run()
    objective = (lambda seen: seen.outputs[:, [0, 3]]) if tracing.wrt else None
    found = ModelProbe(model, device, run).trace(rows, tracing, objective)
    expected = plain.trace(rows, tracing, objective)
    if not tracing.partial:
        torch.testing.assert_close(found.outputs, expected.outputs, rtol=1e-5, atol=1e-6)
    for own, plainly in ((found.activations, expected.activations), (found.gradients, expected.gradients)):
        assert own.keys() == plainly.keys()
        for name in own:
            torch.testing.assert_close(own[name], plainly[name], rtol=1e-5, atol=1e-6)
    assert (run.usage.forwards, run.usage.backwards) == (6, 12 if tracing.wrt else 0)


def test_rows_of_a_trace_are_cut_by_what_they_take_with_gradients(model):
    tracing, rows = Tracing((), (INPUT,)), Rows.of(_noise(9))
    found, sizes = [], []
    device = Device(torch.device("cpu"), max_batch_rows=64)
    found.append(ModelProbe(model, device, Run()).trace(rows, tracing, lambda seen: seen.outputs[:, :2]))
    device.close()
    row_bytes = model.trace_bytes(tracing, True)
    assert row_bytes > 2 * model.row_bytes
    fresh = Model(model.spec, tiny.classifier(), torch.device("cpu"))
    device = Device(torch.device("cpu"), max_batch_rows=64, max_trace_bytes=4 * row_bytes)
    trace_parts = fresh.trace_parts
    fresh.trace_parts = lambda parts, asked: sizes.append(len(parts[0].x)) or trace_parts(parts, asked)
    found.append(ModelProbe(fresh, device, Run()).trace(rows, tracing, lambda seen: seen.outputs[:, :2]))
    assert sizes[0] == 1  # of which the others are learned
    assert sum(sizes[1:]) == 9
    assert 3 <= max(sizes) <= 5
    cut, sizes[:] = sizes[1:], []
    ModelProbe(fresh, device, Run()).trace(rows, tracing, lambda seen: seen.outputs[:, :2])
    assert sizes == cut  # or rounding would tell the first answer from the next ones
    device.close()
    torch.testing.assert_close(found[0].gradients[INPUT], found[1].gradients[INPUT], rtol=1e-4, atol=1e-6)


def test_totals_are_those_of_the_plain_network(model, device, plain):
    def total(seen):
        return [seen.gradients[INPUT].square().sum(1), seen.activations["conv1"].mean((0, 2, 3)) * len(seen.outputs)]

    rows, tracing = Rows.of(_noise(9)), Tracing(("conv1",), (INPUT,))
    asked = (rows, tracing, lambda seen: seen.outputs[:, :2])
    found = ModelProbe(model, device, Run()).trace(*asked, total=total)
    expected = plain.trace(*asked, total=total)
    for own, plainly in zip(found.totals, expected.totals, strict=True):
        torch.testing.assert_close(own, plainly, rtol=1e-4, atol=1e-6)


GRID = tuple((x, y, x + 8, y + 8) for y in range(0, 25, 4) for x in range(0, 25, 4))


@pytest.fixture
def incremental(model):
    model.incremental = Incremental.of(model.variants["fp32"].module, model.example()[:1])
    yield model.incremental
    model.incremental = None


def _boxes(key=None):
    return Boxes.on(_noise(1), torch.zeros(3, 32, 32), GRID, key)


def test_boxes_are_worked_off_as_far_as_they_reach_where_that_pays(model, device, plain, incremental, monkeypatch):
    run = Run()
    monkeypatch.setattr("service.engine.incremental.work.PAYS", 0.0)
    found = ModelProbe(model, device, run).scores(_boxes())
    torch.testing.assert_close(found, plain.scores(_boxes()), rtol=1e-4, atol=1e-6)
    assert 0 < run.usage.incremental < 1
    assert run.usage.forwards == 1 + len(GRID)


@pytest.mark.parametrize("why", ["it does not pay", "another precision", "no such way of this network"])
def test_else_they_are_rows_like_any_others(model, device, plain, incremental, monkeypatch, why):
    run, precision = Run(), "fp32"
    monkeypatch.setattr("service.engine.incremental.work.PAYS", 1e9 if why == "it does not pay" else 0.0)
    if why == "another precision":
        precision = "bf16"
    if why == "no such way of this network":
        model.incremental = None
    found = ModelProbe(model, device, run, precision).scores(_boxes())
    assert run.usage.incremental is None
    tolerance = 0.05 * float(found.abs().max()) if precision == "bf16" else 1e-5
    torch.testing.assert_close(found, plain.scores(_boxes()), rtol=0, atol=tolerance)


def test_a_batch_of_boxes_takes_no_longer_and_no_more_than_any(model, device, incremental, monkeypatch):
    monkeypatch.setattr("service.engine.incremental.work.PAYS", 0.0)
    sizes, outputs = [], incremental.outputs
    monkeypatch.setattr(incremental, "outputs", lambda *asked: (sizes.append(len(asked[-1])), outputs(*asked))[1])
    plan = incremental.plan((8, 8), 4)
    monkeypatch.setattr(model, "max_batch_s", 3.5 * sum(incremental.seconds) / plan.gain)
    ModelProbe(model, device, Run()).scores(_boxes())
    assert max(sizes) == 3


def test_equal_boxes_are_computed_once_in_whatever_way(model, device, incremental, monkeypatch):
    first, second = Run(), Run()
    ModelProbe(model, device, first).scores(_boxes(key="mine"))
    monkeypatch.setattr("service.engine.incremental.work.PAYS", 0.0)
    ModelProbe(model, device, second).scores(_boxes(key="mine"))
    assert (first.usage.cache, second.usage.cache) == ("miss", "hit")


def test_the_offset_of_an_affine_layer_is_what_it_adds(tiny, device):
    model = tiny.store.get("tiny-functional")
    probe, network = ModelProbe(model, device, Run()), model.module
    assert torch.equal(probe.offset("conv1"), network.conv1.bias)
    assert torch.equal(probe.offset("conv2#2"), network.conv2.bias)  # of each of its calls
    at_zero = network.norm(torch.zeros(1, 8, 1, 1)).detach().flatten()
    torch.testing.assert_close(probe.offset("norm"), at_zero)
    assert probe.offset("relu6#1") is None
    assert probe.offset("attention#1") is None


def test_the_weight_of_a_convolution_is_there_and_of_nothing_else(model, device):
    probe = ModelProbe(model, device, Run())
    assert torch.equal(probe.weight("conv1"), model.module.conv1.weight)
    assert not probe.weight("conv1").requires_grad
    for layer in ("fc", "conv9"):
        with pytest.raises(InvalidParameter, match="not a convolution") as raised:
            probe.weight(layer)
        assert [error.pointer for error in raised.value.errors] == ["/params/layer"]


class Twice(torch.nn.Module):
    """Calls its first convolution, whose name is `input`, twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.input = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.norm, self.fc = torch.nn.BatchNorm2d(6), torch.nn.Linear(6, 3)
        torch.nn.init.constant_(self.norm.running_mean, 0.5)

    def forward(self, x):
        return self.fc(self.norm((self.input(x) + self.input(x / 2)).relu()).mean((2, 3)))


class Once(Twice):
    def forward(self, x):
        return self.fc(self.norm(self.input(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("network", [Once, Twice])
def test_a_layer_named_input_is_not_the_input(network, device):
    network = network().eval()
    spec = ModelSpec("named", lambda: network, Transform(32, (32, 32), (0.5,) * 3, (0.25,) * 3), task("classification"))
    model = Model(spec, network, torch.device("cpu"))
    x, layer = _noise(1), "input" if type(network) is Once else "input#2"
    probe, plain = ModelProbe(model, device, Run()), PlainProbe(network, model.facts)
    tracing = Tracing((layer,), (layer, INPUT))
    found, expected = (p.trace(Rows.of(x), tracing, lambda seen: seen.outputs[:, :1]) for p in (probe, plain))
    for name in (layer, INPUT):
        torch.testing.assert_close(found.gradients[name], expected.gradients[name])
    torch.testing.assert_close(found.activations[layer], network.input(x if layer == "input" else x / 2).detach())
    assert torch.equal(probe.weight(layer), network.input.weight)
    assert torch.equal(probe.offset(layer), network.input.bias)
    for method in ("grad-cam", "feature-maps"):
        named = {"layers": (layer,)} if method == "feature-maps" else {"layer": layer}
        registry()[method](**named).explain(probe, x, Targets(model.facts, [0]))
    whole = registry()["full-grad"]().explain(probe, x, Targets(model.facts, [0]))
    assert abs(whole.details["completeness_residual"][0]) < 1e-4


def _started(probe, x, count=9, key=None):
    """Rows that start at a layer: its maps, dimmed step by step."""
    a = probe.trace(Rows.of(x), Tracing(("conv1",))).activations["conv1"]
    return At(count, lambda i, j: a * torch.arange(i, j).view(-1, 1, 1, 1) / count, key, x, "conv1")


def test_rows_at_a_layer_are_the_networks_outputs_with_that_layers_replaced(model, device, plain):
    x, run = _noise(1), Run()
    probe = ModelProbe(model, device, run, "bf16")
    rows = _started(probe, x)
    found = probe.scores(rows)
    torch.testing.assert_close(found, plain.scores(rows), rtol=1e-5, atol=1e-6)
    assert len(torch.unique(found, dim=0)) == 9
    assert run.usage.precision == "fp32"  # whatever was asked for: what is behind a layer has no copy
    assert run.usage.forwards == 1 + 9


def test_rows_at_a_layer_of_several_requests_share_a_batch(model, device, plain):
    """Their pictures differ, and each gets its own answers."""
    pictures = [_noise(1, seed) for seed in range(3)]
    asked = [_started(plain, x, 3) for x in pictures]
    ModelProbe(model, device, Run()).scores(asked[0])  # how such rows are run is known then
    runs = [Run() for _ in asked]
    works = [_put_off(model, device, run, rows) for run, rows in zip(runs, asked, strict=True)]
    found = together(device, list(zip(works, runs, strict=True)))
    for outputs, rows in zip(found, asked, strict=True):
        torch.testing.assert_close(outputs, plain.scores(rows), rtol=1e-5, atol=1e-6)
    # A batch has four rows at most: none of these works has as many of its own.
    assert max(run.usage.batch_rows / run.usage.batches for run in runs) == 4


def test_nothing_is_kept_of_a_picture_whose_rows_share_a_batch_with_no_other(device):
    network = tiny.classifier()
    behind = network.forward
    network.forward = lambda x: behind(x) + x.mean((1, 2, 3))[:, None]  # something goes around every layer
    transform = Transform(32, (32, 32), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD)
    model = Model(ModelSpec("around", lambda: network, transform, task("classification")), network, device.device)
    kept = []
    for seed in range(3):
        probe, x = ModelProbe(model, device, Run()), _noise(1, seed)
        probe.scores(_started(probe, x))
        kept.append(len(device.limits._measured))
    assert not model.tails.way("conv1").alone
    assert len(set(kept)) == 1


def test_equal_rows_at_a_layer_are_computed_once(model, device):
    def ask(seed=0):
        run, x = Run(), _noise(1, seed)
        probe = ModelProbe(model, device, run)
        probe.scores(_started(probe, x, key=("mine", fingerprint(x))))
        return run.usage.cache

    assert [ask(), ask(), ask(1)] == ["miss", "hit", "miss"]


@pytest.mark.parametrize("channels", [1, 3, 100])
def test_only_the_strongest_maps_are_seen(model, device, channels):
    rows, tracing = Rows.of(_noise(2)), Tracing(("conv1", "conv2"))
    whole = ModelProbe(model, device, Run()).trace(rows, tracing)
    found = Strongest(model, device, Run(), channels=channels).trace(rows, tracing)
    assert torch.equal(found.outputs, whole.outputs)
    for name, a in whole.activations.items():
        peaks = [float(one.max()) for one in a[0]]
        order = sorted(range(len(peaks)), key=lambda k: -peaks[k])[:channels]
        assert torch.equal(found.activations[name], a[:, order])


def test_whatever_runs_a_network_on_a_callers_picture_is_watched(device, monkeypatch):
    """A forward that hangs is known by what hangs, also where it runs to learn what others will take."""
    transform = Transform(32, (32, 32), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD)
    spec = ModelSpec("new", tiny.classifier, transform, task("classification"))
    probe = ModelProbe(Model(spec, tiny.classifier(), torch.device("cpu")), device, Run())
    works, running = [], Device._run

    def run(self, batch):
        works.extend(share.item for share in batch)
        running(self, batch)

    monkeypatch.setattr(Device, "_run", run)
    probe.trace(Rows.of(_noise(3)), Tracing(("bn1",), ("bn1",)), lambda trace: trace.outputs[:, :1])
    probe.scores(_started(probe, _noise(1)))
    assert {type(work) for work in works} == {CallWork, TraceWork, AtWork}
    assert sum(type(work) is CallWork for work in works) == 2
    assert all(work.watched for work in works)


class Formats(torch.nn.Module):
    """Computes a part in another format, as `autocast` in a forward does."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.maps = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.ReLU())
        self.cast, self.fc, self.kind = torch.nn.Identity(), torch.nn.Linear(6, 4), kind

    def forward(self, x):
        return self.fc(self.cast(self.maps(x).to(self.kind)).mean((2, 3)).float())


LAYERED = [name for name, method in registry().items() if "layer" in method.model_fields]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_what_layers_answer_in_other_formats_methods_see_in_float32(kind, device):
    torch.manual_seed(0)
    network = Formats(kind).eval()
    transform = Transform(32, (32, 32), (0.5,) * 3, (0.25,) * 3)
    spec = ModelSpec("formats", lambda: network, transform, task("classification"))
    model = Model(spec, network, torch.device("cpu"))
    assert model.facts.default_layer == "cast"
    seen = 0
    for name in LAYERED:
        method = registry()[name]
        few = {"samples": 5} if "samples" in method.model_fields else {}
        try:
            method.require(model.facts)
        except NotApplicable:
            continue
        maps = method(**few).explain(ModelProbe(model, device, Run()), _noise(1), Targets(model.facts, [1])).maps
        assert all(one.array.dtype == torch.float32 and one.array.isfinite().all() for one in maps), name
        seen += 1
    assert seen > 10
