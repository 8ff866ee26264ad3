import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.contract import INPUT, Rule, Tracing
from service.errors import InvalidParameter, NotApplicable
from service.explainers.propagation.deconvnet import DeconvNet
from tests import oracles, tiny
from tests.explainers.conftest import NAMES, assert_close, module_layer, narrow_layer, tiny_input
from tests.oracles import Case, Peer
from tests.rectifiers import Rectifier, with_module_relus

Position = tuple[int, int] | str | None

TOLERANCE = 2e-5
WITHOUT_RECTIFIERS = ("efficientnet_b0", "convnext_tiny")


def oracle(case: Case) -> Tensor:
    """The kept activation sent back by a rule for rectifiers that is written by hand."""
    channel = case.params["channels"][0]
    signal = kept(oracles.layer_output(case.network, case.x, case.layer), channel, case.params.get("position"))
    return sent_back(case, signal, "deconvnet")


def kept(activation: Tensor, channel: int, position: Position = None) -> Tensor:
    """Return the signal that a deconvnet starts from: the chosen activations with their own values, zero elsewhere.

    ``position`` is a (row, column), ``None`` for the channel's strongest activation (the first of equals), or
    ``"all"`` for the whole channel. ``activation`` is (1, K, h, w).
    """
    signal = torch.zeros_like(activation)
    plane = activation[0, channel].detach()
    if position == "all":
        signal[0, channel] = plane
        return signal
    if position is None:
        strongest = int(plane.flatten().argmax())
        position = (strongest // plane.shape[1], strongest % plane.shape[1])
    row, column = position
    signal[0, channel, row, column] = plane[row, column]
    return signal


@torch.no_grad()
def explicit_deconvnet(
    features: nn.Sequential, x: Tensor, index: int, channel: int, position: Position = None
) -> Tensor:
    """A real deconvnet, Zeiler & Fergus 2014, for VGG-style features; the projection (3, H, W).

    ``features[index]`` is the layer whose activation is kept (see :func:`kept`). On the way back every
    max-pool is an ``nn.MaxUnpool2d`` fed with its switches, every ReLU rectifies the *signal*, every
    convolution is a transposed convolution with the same filters and no bias. BatchNorm, which the paper does
    not have, multiplies by its eval-mode scale, as its own transpose does. Only pools that do not overlap:
    elsewhere unpooling overwrites what a gradient would add up.
    """
    signal = x
    records: list[tuple[nn.Module, torch.Size, Tensor | None]] = []
    for module in list(features)[: index + 1]:
        shape, switches = signal.shape, None
        if isinstance(module, nn.Conv2d):
            signal = functional.conv2d(
                signal,
                module.weight,
                module.bias,
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
            )
        elif isinstance(module, nn.BatchNorm2d):
            signal = functional.batch_norm(
                signal,
                module.running_mean,
                module.running_var,
                module.weight,
                module.bias,
                training=False,
                eps=module.eps,
            )
        elif isinstance(module, nn.ReLU):
            signal = signal.clamp_min(0)
        elif isinstance(module, nn.MaxPool2d):
            if (module.kernel_size, module.stride, module.padding) != (2, 2, 0):
                raise ValueError("only pools that do not overlap have an exact unpooling")
            signal, switches = functional.max_pool2d(
                signal, module.kernel_size, module.stride, ceil_mode=module.ceil_mode, return_indices=True
            )
        else:
            raise ValueError(f"no deconvnet counterpart here for {type(module).__name__}")
        records.append((module, shape, switches))

    signal = kept(signal, channel, position)
    for module, shape, switches in reversed(records):
        if isinstance(module, nn.Conv2d):
            if isinstance(module.padding, str):
                raise ValueError("named paddings are not supported")
            leftover = [
                shape[2 + axis]
                - (
                    (signal.shape[2 + axis] - 1) * module.stride[axis]
                    - 2 * module.padding[axis]
                    + module.dilation[axis] * (module.kernel_size[axis] - 1)
                    + 1
                )
                for axis in (0, 1)
            ]
            signal = functional.conv_transpose2d(
                signal,
                module.weight,
                bias=None,
                stride=module.stride,
                padding=module.padding,
                output_padding=leftover,
                groups=module.groups,
                dilation=module.dilation,
            )
        elif isinstance(module, nn.BatchNorm2d):
            scale = module.weight / torch.sqrt(module.running_var + module.eps)
            signal = signal * scale.view(1, -1, 1, 1)
        elif isinstance(module, nn.ReLU):
            signal = signal.clamp_min(0)
        elif isinstance(module, nn.MaxPool2d):
            unpool = nn.MaxUnpool2d(module.kernel_size, module.stride)
            signal = unpool(signal, switches, output_size=shape)
    return signal[0]


def sent_back(case: Case, signal: Tensor, rule: str) -> Tensor:
    """Send a signal from a layer back to the input by a rule for rectifiers, written by hand; (3, H, W).

    ``deconvnet`` (Zeiler & Fergus 2014): relu(grad_out), whatever the forward value was; ``guided`` (Springenberg et
    al. 2015): relu(grad_out) where the forward value passed (0 < x, and x < 6 for ReLU6); ``gradient``: no rule. All
    other layers, max-pools with overlaps included, use their gradient. The signal itself is not rectified unless the
    layer ends in a ReLU.
    """
    network, inner = oracles.isolated(with_module_relus(case.network), case.layer)
    forward_values: dict[nn.Module, Tensor] = {}
    captured: list[Tensor] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        forward_values[module] = inputs[0].detach().clone()

    def change(module: nn.Module, _: tuple[Tensor, ...], grad_out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        passed = grad_out[0].clamp_min(0)
        if rule == "guided":
            value = forward_values[module]
            passed = passed * (value > 0)
            if module.ceiling is not None:
                passed = passed * (value < module.ceiling)
        return (passed,)

    if rule != "gradient":
        for module in network.modules():
            if isinstance(module, Rectifier):
                module.register_forward_pre_hook(remember)
                module.register_full_backward_hook(change)
    inner.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    with torch.enable_grad():
        leaf = case.x.clone().requires_grad_()
        network(leaf)
        (projection,) = torch.autograd.grad(captured[-1], leaf, grad_outputs=signal)
    return projection[0]


class Neuron(nn.Module):
    """A network cut at a layer: its one output has the kept activations as its gradient at that layer."""

    def __init__(self, body: nn.Module, inner: nn.Module, channel: int, position: Position) -> None:
        super().__init__()
        self.body = body
        self._choice = (channel, position)
        self._seen: list[Tensor] = []
        inner.register_forward_hook(lambda _module, _inputs, output: self._seen.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self._seen.clear()
        self.body(x)
        activation = self._seen[-1]
        # d/da (a.detach() * a) = a: the projection starts from the activation's own value and not from one
        return (kept(activation, *self._choice) * activation).flatten(1).sum(dim=1)


def captum(case: Case) -> Tensor:
    """Captum's `Deconvolution` of an activation of an inner layer, (3, H, W).

    Captum starts from a model's output, so the network is cut at the layer. It hooks ``nn.ReLU`` *modules* alone: where
    a network rectifies by function or by ReLU6, the result is silently the plain gradient, so every rectifier is made
    a module first. Its hook replaces the whole gradient at the ReLU's input, which is right only where that tensor has
    no second consumer: not in pre-activation residual networks, but in all of these here.
    """
    with oracles.quiet(), torch.enable_grad():
        from captum.attr import Deconvolution

        network, inner = oracles.isolated(with_module_relus(case.network), case.layer)
        neuron = Neuron(network, inner, case.params["channels"][0], case.params.get("position")).eval()
        return Deconvolution(neuron).attribute(case.x.clone())[0].detach()


PEERS = {"captum": Peer(captum)}


@pytest.mark.oracle("deconvnet")
@pytest.mark.parametrize(("layer", "index"), [("features.1", 1), ("features.9", 9), ("features.19", 19)])
@pytest.mark.parametrize("keep", ["maximum", "channel"])
def test_equals_an_explicit_deconvolution_network(subjects, x, layer, index, keep):
    subject = subjects("vgg11")
    found = subject.explain(DeconvNet(layer=layer, channels=(3, 11), keep=keep), x)
    for m in found.maps:
        position = "all" if keep == "channel" else None
        expected = explicit_deconvnet(subject.plain.features, x, index, m.channel, position)
        assert_close(m.array, expected)


@pytest.mark.oracle("deconvnet")
@pytest.mark.parametrize("name", sorted({*NAMES} - {*WITHOUT_RECTIFIERS}))
def test_equals_the_rule_by_hand_and_captum_once_every_rectifier_is_a_module(subjects, x, name):
    subject = subjects(name)
    layer = narrow_layer(subject, 96)
    found = subject.explain(DeconvNet(layer=layer, channels=(1,)), x).maps[0].array
    case = Case(subject.plain, x, layer, params={"channels": (1,)})
    assert_close(found, oracle(case), TOLERANCE)
    assert_close(found, captum(case), TOLERANCE)


@pytest.mark.parametrize("name", WITHOUT_RECTIFIERS)
def test_refuses_a_network_without_rectifiers(subjects, name):
    facts = subjects(name).facts
    assert facts.rectifiers == 0
    with pytest.raises(NotApplicable, match="use 'saliency'"):
        DeconvNet.require(facts)


@pytest.mark.oracle("deconvnet")
@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2", "densenet121", "resnet18"])
def test_rules_reach_functional_and_capped_rectifiers(subjects, name, rule):
    x = oracles.photograph("chelsea", 112)  # in smaller ones that channel of MobileNet's is silent
    subject = subjects(name)
    layer = module_layer(subject)
    start = kept(oracles.layer_output(subject.plain, x, layer), 5)

    def signal(seen):
        return (seen.activations[layer] * start).sum((1, 2, 3))[:, None]

    traced = subject.device.call(lambda: subject.model.trace(x, Tracing((layer,), (INPUT,), Rule(rule)), signal))
    expected = sent_back(Case(subject.plain, x, layer), start, rule)
    assert_close(traced.gradients[INPUT][0, 0], expected, TOLERANCE)


def test_strongest_channels_and_their_positions(small):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(DeconvNet(top_k=3), x)
    a = oracles.layer_output(subject.plain, x, "relu2")[0]
    peak = a.flatten(1).amax(1)
    assert [m.channel for m in found.maps] == peak.argsort(descending=True)[:3].tolist()
    for entry in found.details["activations"]:
        y, x_ = entry["position"]
        assert entry["value"] == float(a[entry["channel"]].max()) == float(a[entry["channel"], y, x_])


def test_patch_is_the_receptive_field(small):
    """conv 3x3, pool 2x2, conv 3x3: an activation sees 2 * 3 + 2 = 8 pixels, from 2 * y - 3 on."""
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(DeconvNet(channels=(2,), position=(7, 5)), x)
    x0, y0, x1, y1 = found.maps[0].patch
    assert (x0, y0, x1, y1) == (2 * 5 - 3, 2 * 7 - 3, 2 * 5 + 5, 2 * 7 + 5)
    outside = found.maps[0].array.clone()
    outside[:, y0:y1, x0:x1] = 0
    assert outside.eq(0).all()


def test_patches_are_what_a_change_can_reach_whatever_has_won(small):
    """Pools that overlap, are padded, and adapt: each pixel is changed by much, and the layer looked at."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        pools = [nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(4)]
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *pools, nn.Flatten(), nn.Linear(64, 3)).eval()

    subject = small(network, 16)
    network = subject.plain[:6].double()
    generator = torch.Generator().manual_seed(0)
    reach = torch.zeros(16, 4, 4, 16)  # where each pixel changes something, by any of many pictures
    for _ in range(8):
        x = torch.randn(1, 3, 16, 16, generator=generator).double()
        changed = x.repeat(256, 1, 1, 1)
        for sign in (-50, 50):
            rows = changed.clone()
            rows[torch.arange(256), :, torch.arange(256) // 16, torch.arange(256) % 16] += sign
            moved = ((network(rows) - network(x)).abs() > 1e-6).any(1)  # (256, 4, 4)
            reach += moved.view(16, 16, 4, 4).permute(0, 2, 3, 1)
    for row in range(4):
        for column in range(4):
            found = subject.explain(DeconvNet(layer="5", channels=(0,), position=(row, column)), tiny_input(16))
            x0, y0, x1, y1 = found.maps[0].patch
            ys, xs = reach[:, row, column].sum(1).nonzero(), reach[:, row, column].sum(0).nonzero()
            assert (x0, y0, x1, y1) == (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)


def test_position_outside_the_layer_is_refused(small):
    with pytest.raises(InvalidParameter, match="16 x 16"):
        small(tiny.classifier).explain(DeconvNet(position=(16, 0)), tiny_input())
