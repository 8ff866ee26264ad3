"""Networks that break a rule are refused with what to do, or run so that it holds; nothing is wrong in silence."""

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.contract import INPUT, Part, Rows, Targets, Tracing
from service.engine.network.proofs.checks import Refused
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.errors import CatalogError, NotApplicable
from service.explainers.base import registry
from service.explainers.gradient.saliency import Saliency
from service.images import Transform
from service.models.networks.remedies import refusal
from service.models.spec import ModelSpec
from service.pipeline import applicability
from service.tasks import task
from tests import tiny

SIZE = 32


@pytest.fixture(scope="module")
def device():
    device = Device(torch.device("cpu"), max_batch_rows=8)
    yield device
    device.close()


def _spec(network, name="classification", channels=3, size=SIZE, **options):
    transform = Transform(size, (size, size), (0.5,) * channels, (0.25,) * channels)
    why = partial(refusal, "mine", transform)  # as sources have it
    return ModelSpec("mine", lambda: network, transform, task(name), refusal=why, **options)


def load(device, network, *args, **options):
    spec = _spec(network, *args, **options)
    return device.call(lambda: Model(spec, network, device.device))


def checks(model):
    return {check.name: check for check in model.facts.checks}


class Around(nn.Module):
    """Something done to a sound network's input, features or outputs."""

    def __init__(self, before=None, after=None, inner=None) -> None:
        super().__init__()
        self.inner = inner or tiny.classifier()
        self.before, self.after = before or (lambda x: x), after or (lambda y: y)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


def test_a_sound_network_passes_all_within_the_budget(device) -> None:
    model = load(device, tiny.classifier())
    lines = checks(model)
    assert {line.outcome for line in lines.values()} == {"passed"}
    assert set(lines) >= {"answer", "finite", "input", "repeatable", "alone", "task", "gradient", "size", "state"}
    assert "layer-gradients" in lines
    assert lines["answer"].found.endswith("(5,) a picture, float32")
    assert model.module is model.examined.module
    assert "conv1" in model.modules


class Beside(Around):
    """Has a layer whose maps nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.beside(x)
        return super().forward(x)


def test_layers_that_no_gradient_gets_to_are_said(device) -> None:
    line = checks(load(device, Beside().eval()))["layer-gradients"]
    assert line.outcome == "warning"
    assert "'beside'" in line.found
    assert "1 of" in line.found
    assert line.remedy


class Writes(Around):
    """Keeps something of each picture, which no answer shows."""

    def forward(self, x):
        self.seen.copy_(x.mean())
        return super().forward(x)


def test_what_a_forward_writes_is_said(device) -> None:
    line = checks(load(device, Writes().eval()))["state"]
    assert line.outcome == "warning"
    assert "'seen'" in line.found
    assert line.remedy


@pytest.mark.parametrize("other", [False, True])
def test_another_size_is_tried(device, other) -> None:
    pool = nn.AdaptiveAvgPool2d(4) if other else nn.AvgPool2d(8)
    network = nn.Sequential(nn.Conv2d(3, 2, 1), pool, nn.Flatten(), nn.Linear(32, 3))
    line = checks(load(device, network))["size"]
    assert line.outcome == "passed"
    assert ("only" in line.found) != other


def _ends_in_probabilities():
    return Around(after=lambda y: y.softmax(1))


def _with_an_address_for_relu():
    return nn.Sequential(nn.Conv2d(3, 8, 3), Relued(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


class Relued(nn.Module):
    def forward(self, x):
        return F.relu(x)


class OwnBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


BUDGETED = {
    "sound": tiny.classifier,
    "functions": tiny.functional,
    "tokens": tiny.tokens,
    "probabilities": _ends_in_probabilities,
    "relu": _with_an_address_for_relu,
    "a loop": lambda: PerRow(),
    "one picture": lambda: Fixed(),
    "mean of the batch": lambda: Around(after=lambda y: y - 0.5 * y.mean(0)),
    "no gradient": lambda: NoGrad(),
    "a gradient of its own": lambda: Around(before=OwnBackward.apply),
    "maps": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)),
}


@pytest.mark.parametrize("name", BUDGETED)
def test_what_looking_costs_is_counted_and_bounded(device, monkeypatch, name) -> None:
    network = BUDGETED[name]().eval()
    rows, backwards = [], []
    network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: backwards.append(1) or grad(*args, **options))
    model = load(device, network, **({"name": "segmentation"} if name == "maps" else {}))
    told = tuple(int(word) for word in checks(model)["cost"].found.split() if word.isdigit())
    assert told == (sum(rows), len(backwards))
    assert sum(rows) <= 40
    assert len(backwards) <= 8


class Counts(Around):
    def forward(self, x):
        self.seen += len(x)
        return super().forward(x) + self.seen


class Squeeze(nn.Module):
    def forward(self, x):
        return x.squeeze()


class NoGrad(Around):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


REFUSED = {
    "dropout that never ends": (Around(after=lambda y: F.dropout(y)), "two answers.*dropout"),
    "a counter": (Counts(), "two answers.*'seen'"),
    "noise": (Around(before=lambda x: x + torch.randn_like(x)), "two answers"),
    "not a number": (Around(after=lambda y: y / 0 * 0), "not a number.*division"),
    "infinite": (Around(after=lambda y: y.exp().exp().exp().exp().exp() + 1e38 * 10), "infinite"),
    "argmax": (Around(after=lambda y: y.argmax(1)), "whole numbers.*argmax"),
    "whole numbers": (Around(after=lambda y: y.long()), "whole numbers"),
    "two rows": (Around(after=lambda y: y[:2]), "keep their axis"),
    "two inputs": (nn.Bilinear(3, 3, 2), "takes 2 inputs, and one picture is explained; bind 'input2'"),
    "four channels": (nn.Sequential(nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1)), "set channels = 4"),
    "one channel": (nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1)), "set channels = 1"),
    "volumes": (nn.Sequential(nn.Conv3d(3, 3, 1), nn.Flatten()), "five axes"),
    "channels last": (Around(before=lambda x: x.permute(0, 3, 1, 2)), "channels"),
    "another size": (
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 62 * 62, 3)),
        "set input_size = 64",
    ),
    "squeezes all axes": (nn.Sequential(nn.AdaptiveAvgPool2d(1), Squeeze(), nn.Flatten(1)), "flatten"),
    "half inside": (Around(before=lambda x: x.half()), "Half"),
    "raises": (Around(before=lambda x: {}["key"]), "raises KeyError"),
    "lazy": (nn.Sequential(nn.LazyConv2d(8, 3), nn.AdaptiveAvgPool2d(1)), "run the network once"),
    "nothing": (Around(after=lambda y: None), "returned a NoneType"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_refused_with_what_to_do(device, name) -> None:
    network, message = REFUSED[name]
    with pytest.raises(CatalogError, match=message) as caught:
        load(device, copy.deepcopy(network).eval())
    text = str(caught.value)
    assert "mine" in text
    assert not text.split(":")[0].endswith("Error")
    if isinstance(caught.value, Refused):
        assert caught.value.checks[-1].outcome == "refused"
        assert caught.value.checks[-1].remedy


def _statistics():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 900, 5))


def _noise_of_a_seed(x):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return x + torch.randn(x.shape)


class PerRow(Around):
    """Runs its rows in a loop, so that how often its modules are called depends on their number."""

    def forward(self, x):
        return torch.cat([super(PerRow, self).forward(row[None]) for row in x])


class Fixed(Around):
    """Takes exactly one picture."""

    def forward(self, x):
        return super().forward(x.reshape(1, 3, SIZE, SIZE))


@pytest.mark.parametrize(
    "build",
    [
        _statistics,
        PerRow,
        Fixed,
        lambda: Around(after=lambda y: y - 0.5 * y.mean(0)),
        lambda: Around(after=lambda y: y.cumsum(0)),
        lambda: Around(after=lambda y: y + torch.cat([torch.zeros_like(y[:1]), y[:-1]])),
        lambda: Around(before=_noise_of_a_seed),
    ],
    ids=["batch statistics", "a loop", "fixed batch", "mean of the batch", "sums so far", "the one before", "seeded"],
)
def test_what_only_holds_for_one_picture_is_run_one_at_a_time(device, build) -> None:
    network = build().eval()
    plain = copy.deepcopy(network).requires_grad_(False)
    model = load(device, network)
    assert checks(model)["batch"].outcome == "warning"
    x = torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    probe = ModelProbe(model, device, Run())
    alone = torch.cat([plain(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(probe.scores(Rows.of(x)), alone, rtol=1e-4, atol=1e-5)
    layer = next(path for path in model.facts.layers if path.endswith(("conv1", "0")))
    tracing = Tracing(layers=(layer,), wrt=(layer, INPUT))
    parts = [Part(x[:2], lambda seen: seen.outputs[:, :2]), Part(x[2:], lambda seen: seen.outputs[:, :2])]
    first, second = model.trace_parts(parts, tracing)
    torch.testing.assert_close(second.outputs, alone[2:], rtol=1e-4, atol=1e-5)
    leaf = x[1:2].clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(leaf)[0, 1], leaf)
    torch.testing.assert_close(first.gradients[INPUT][1, 1:], expected, rtol=1e-4, atol=1e-6)
    assert second.activations[layer].shape[0] == 3


class Caches(nn.Module):
    """Keeps what it has made for a number of pictures, and uses it again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.grids = tiny.classifier(), {}

    def forward(self, x):
        if len(x) not in self.grids:
            self.grids[len(x)] = torch.linspace(0.5, 1, x.shape[3]).expand(len(x), 3, x.shape[2], -1).clone()
        return self.inner(x * self.grids[len(x)])


def test_caches_of_forwards_do_no_harm_to_gradients(device) -> None:
    network = Caches().eval()
    plain = copy.deepcopy(network).requires_grad_(False)
    model = load(device, network)
    x = torch.randn(3, 3, SIZE, SIZE)
    probe = ModelProbe(model, device, Run())
    torch.testing.assert_close(probe.scores(Rows.of(x)), plain(x))  # for three pictures for the first time
    found = probe.trace(Rows.of(x), Tracing(wrt=(INPUT,)), lambda seen: seen.outputs[:, :1]).gradients[INPUT]
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close(found[0], expected)
    half = ModelProbe(model, device, Run(), "bf16").scores(Rows.of(x))
    torch.testing.assert_close(half, plain(x), rtol=0.1, atol=0.1)


class Energy(Around):
    """Takes a gradient inside its forward, as networks do that descend an energy."""

    def forward(self, x):
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            (g,) = torch.autograd.grad(z.pow(3).sum(), z)
        return super().forward(x + 0.1 * g)


def test_a_forward_that_takes_gradients_is_served(device) -> None:
    network = Energy().eval()
    plain = copy.deepcopy(network).requires_grad_(False)
    model, x = load(device, network), torch.randn(3, 3, SIZE, SIZE)
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.1)):
        found = ModelProbe(model, device, Run(), precision).scores(Rows.of(x))
        torch.testing.assert_close(found, plain(x), rtol=tolerance, atol=tolerance)
    found = ModelProbe(model, device, Run()).trace(Rows.of(x), Tracing(wrt=(INPUT,)), lambda seen: seen.outputs[:, :1])
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close(found.gradients[INPUT][0], expected)


class OneBuffer(Around):
    """Writes its answers into one and the same tensor, again and again."""

    def __init__(self, *, registered) -> None:
        super().__init__()
        place = torch.zeros(64, 5)
        if registered:
            self.register_buffer("place", place)
        else:
            self.place = place

    def forward(self, x):
        self.place[: len(x)] = super().forward(x)
        return self.place[: len(x)]


@pytest.mark.parametrize("registered", [False, True])
def test_answers_in_a_tensor_that_is_used_again_are_each_pictures_own(device, registered) -> None:
    model, plain = load(device, OneBuffer(registered=registered).eval()), tiny.classifier()
    assert "'place'" in model.facts.no_gradient
    probe, (first, second) = ModelProbe(model, device, Run()), torch.randn(2, 3, 3, SIZE, SIZE)
    answers = [model.forward(first), model.forward(second)]
    torch.testing.assert_close(torch.cat(answers), plain(torch.cat([first, second])).detach())
    found = [probe.scores(Rows.of(first)), probe.scores(Rows.of(second))]
    torch.testing.assert_close(found[0], plain(first).detach())
    torch.testing.assert_close(found[1], plain(second).detach())
    reasons = applicability(model.facts)
    assert "'place'" in reasons["saliency"]
    assert reasons["occlusion"] is None


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()


def _overwritten(x):
    y = x.sigmoid()
    y[:, :, :4] = 0
    return y


@pytest.mark.parametrize("before", [NoBackward.apply, _overwritten], ids=["none", "overwritten"])
def test_a_backward_that_raises_leaves_what_needs_none(device, before) -> None:
    model, x = load(device, Around(before=before).eval()), torch.randn(3, 3, SIZE, SIZE)
    line = checks(model)["gradient"]
    assert (line.outcome, line.found) == ("warning", model.facts.no_gradient)
    assert "its backward fails" in line.found
    torch.testing.assert_close(ModelProbe(model, device, Run()).scores(Rows.of(x)), tiny.classifier()(before(x)))
    reasons = applicability(model.facts)
    for method in ("saliency", "grad-cam", "filters", "deconvnet", "lrp"):
        assert reasons[method], method
    assert "its backward fails" in reasons["grad-cam"]
    assert reasons["score-cam"] is None
    assert reasons["occlusion"] is None


@pytest.mark.parametrize(
    "draw", [random.random, np.random.random_sample, lambda: float(torch.rand(1))], ids=["python", "numpy", "torch"]
)
def test_draws_that_did_not_show_are_said(device, draw) -> None:
    line = checks(load(device, Around(before=lambda x: x if draw() < 2 else -x).eval()))["repeatable"]
    assert line.outcome == "warning"
    assert "draws at random" in line.found


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_buffer_that_is_no_number_is_not_changed_by_being_compared(device, number) -> None:
    network = Around().eval()
    network.seen.fill_(number)
    assert checks(load(device, network))["state"].outcome == "passed"


def test_complex_weights_are_looked_at_too(device) -> None:
    class Turns(Around):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("phase", torch.ones(2, dtype=torch.cfloat))

        def forward(self, x):
            self.phase.mul_(1j)
            return super().forward(x)

    assert "'phase'" in checks(load(device, Turns().eval()))["state"].found


def test_networks_that_write_to_their_input_get_a_copy(device) -> None:
    model = load(device, Around(before=lambda x: x.mul_(0.5).add_(1)).eval())
    assert checks(model)["input"].outcome == "warning"
    x = torch.randn(1, 3, SIZE, SIZE)
    before = x.clone()
    probe = ModelProbe(model, device, Run())
    expected = tiny.classifier()(before * 0.5 + 1)
    for _ in range(2):
        torch.testing.assert_close(probe.scores(Rows.of(x)), expected)
    probe.trace(Rows.of(x), Tracing(wrt=(INPUT,)), lambda seen: seen.outputs[:, :1])
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("network", "projects"),
    [(NoGrad(), False), (Around(after=lambda y: y.detach() * 2), True), (Around(before=lambda x: x.data), False)],
    ids=["no_grad", "detach", "data"],
)
def test_no_gradient_is_a_refusal_with_the_reason_and_no_zero(device, network, projects) -> None:
    model = load(device, copy.deepcopy(network).eval())
    assert checks(model)["gradient"].outcome == "warning"
    probe, x = ModelProbe(model, device, Run()), torch.randn(1, 3, SIZE, SIZE)
    reasons = applicability(model.facts)
    assert "gradient" in reasons["saliency"]
    with pytest.raises(NotApplicable, match="no gradient"):
        Saliency().explain(probe, x, Targets(model.facts, [0]))
    assert reasons["occlusion"] is None
    assert reasons["score-cam"] is None
    # What goes back from a layer to the input needs no gradient of the outputs.
    assert (reasons["deconvnet"] is None) == (reasons["filters"] is None) == projects


def test_a_network_that_answers_always_the_same_is_warned_of(device) -> None:
    model = load(device, Around(after=lambda y: y * 0).eval())
    assert checks(model)["responds"].outcome == "warning"


# Methods that change what operators hand back.
BY_RULES = {
    *("attn-lrp", "deconvnet", "deep-lift", "excitation-backprop", "full-grad", "guided-backprop", "guided-grad-cam"),
    "lrp",
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_rules_are_refused_where_a_part_is_compiled(device) -> None:
    """They would not meet the operators in there: their maps would be gradients under another name."""
    network = tiny.classifier()
    name, child = next((name, child) for name, child in network.named_children() if any(True for _ in child.modules()))
    setattr(network, name, torch.jit.script(child))
    reasons = applicability(load(device, network).facts)
    for method in BY_RULES:
        assert f"its part {name!r} is compiled" in reasons[method], method
    assert reasons["saliency"] is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("compiled", [torch.jit.script, lambda m: torch.jit.trace(m, torch.randn(2, 3, SIZE, SIZE))])
def test_compiled_networks_are_black_boxes_with_the_true_reason(device, compiled) -> None:
    plain = tiny.classifier()
    model = load(device, compiled(tiny.classifier()))
    x = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(ModelProbe(model, device, Run()).scores(Rows.of(x)), plain(x).detach())
    reasons = applicability(model.facts)
    apply = {name for name, reason in reasons.items() if not reason}
    assert apply >= {"occlusion", "saliency"}
    assert {name for name in apply if "layer" in registry()[name].model_fields} == set()
    assert "TorchScript" in reasons["grad-cam"]
    assert all(reasons[name] for name in BY_RULES)
    saliency = Saliency().explain(ModelProbe(model, device, Run()), x[:1], Targets(model.facts, [1])).maps[0].array
    leaf = x[:1].clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(leaf)[0, 1], leaf)
    torch.testing.assert_close(saliency, expected[0].abs().amax(0), rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_whole_numbers_inside_are_said(device) -> None:
    network = torch.ao.quantization.quantize_dynamic(tiny.classifier(), {nn.Linear}, dtype=torch.qint8)
    model = load(device, network)
    assert "int8" in model.facts.no_gradient
    reasons = applicability(model.facts)
    assert reasons["occlusion"] is None
    assert "int8" in reasons["saliency"]
    assert "int8" in reasons["grad-cam"]
