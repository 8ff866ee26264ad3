"""What follows a layer is what the network's own call makes of it, whichever activation function that is."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.contract import Rows, Targets, Tracing
from service.engine.network.rules.activations import Activations, activation_of
from service.explainers.features.feature_maps import FeatureMaps
from tests import oracles
from tests.explainers.conftest import Subject, device, tiny_input  # noqa: F401

MODULES = (
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.ReLU6(inplace=True),
    nn.Hardtanh(0, 2),
    nn.Hardtanh(),
    nn.SiLU(),
    nn.SiLU(inplace=True),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.ELU(0.7, inplace=True),
    nn.SELU(),
    nn.CELU(0.3),
    nn.LeakyReLU(0.3, inplace=True),
    nn.PReLU(8),
    nn.RReLU(),
    nn.Mish(),
    nn.Softplus(beta=3),
    nn.Softsign(),
    nn.Tanhshrink(),
    nn.Hardshrink(),
    nn.Softshrink(),
    nn.Threshold(0.1, 0.2),
    nn.Sigmoid(),
    nn.LogSigmoid(),
    nn.Tanh(),
)
FUNCTIONS = {
    "F.relu in place": lambda a: F.relu(a, inplace=True),
    "torch.relu": torch.relu,
    "Tensor.relu_": torch.Tensor.relu_,
    "Tensor.clamp": lambda a: a.clamp(min=0),
    "Tensor.clamp_": lambda a: a.clamp_(0, 4),
    "torch.clamp_min": lambda a: torch.clamp_min(a, 0),
    "Tensor.sigmoid": torch.Tensor.sigmoid,
    "torch.tanh": torch.tanh,
    "Tensor.tanh_": torch.Tensor.tanh_,
    "F.leaky_relu": lambda a: F.leaky_relu(a, 0.2),
    "F.gelu": lambda a: F.gelu(a, approximate="tanh"),
    "F.elu_": F.elu_,
    "Tensor.clip": lambda a: a.clip(0),
    "torch.maximum": lambda a: torch.maximum(a, torch.zeros_like(a)),
    "torch.where": lambda a: torch.where(a > 0, a, 0.0),
    "times where above zero": lambda a: a * (a > 0),
    "Tensor.mul_": lambda a: a.mul_((a > 0).to(a)),
    "Tensor.masked_fill": lambda a: a.masked_fill(a < 0, 0.0),
}


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _network(activation):
    torch.manual_seed(0)
    head = (nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 3), copy.deepcopy(activation), *head).eval()


@pytest.mark.parametrize(
    "activation", [*MODULES, *map(Functional, FUNCTIONS.values())], ids=[*map(str, MODULES), *FUNCTIONS]
)
def test_every_activation_that_can_follow_a_layer(device, activation):  # noqa: F811
    network = _network(activation)
    subject = Subject("activated", network, _network(activation), 32, device, "classification")
    x = tiny_input()
    info = subject.facts.layers["0"]
    assert info.followed_by is not None
    channels = tuple(range(8))
    after = subject.explain(FeatureMaps(layers=("0",), channels=channels, activation="after"), x)
    assert after.details["layers"][0]["activation_applied"] == info.followed_by
    with torch.no_grad():
        expected = network[1](network[0](x))
    assert torch.equal(after.maps[0].array, expected[0])
    before = subject.explain(FeatureMaps(layers=("0",), channels=channels), x).maps[0].array
    assert torch.equal(before, oracles.layer_output(network, x, "0")[0])
    # The rest of the network goes on from there as ever.
    torch.testing.assert_close(after.outputs, network(x)[0].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", [nn.SiLU(inplace=True), nn.GELU(), nn.ReLU(inplace=True), nn.Hardswish()])
def test_gradients_behind_the_activation(device, activation):  # noqa: F811
    network = _network(activation)
    subject = Subject("activated", network, _network(activation), 32, device, "classification")
    address = subject.facts.layers["0"].activated
    x, targets = tiny_input(), Targets(subject.facts, [1, 3])
    trace = subject.probe().trace(
        Rows.of(x), Tracing((address,), (address,)), lambda seen: targets.scores(seen.outputs)
    )
    a = network[1](network[0](x)).detach().requires_grad_()
    for i, target in enumerate((1, 3)):
        (expected,) = torch.autograd.grad(network[2:](a)[0, target], a)
        torch.testing.assert_close(trace.gradients[address][i], expected, rtol=1e-4, atol=1e-7)


def test_what_is_no_activation_is_not_taken_for_one():
    a = torch.zeros(1, 2, 3, 3)
    assert activation_of(torch.add, (a, a), {}) is None
    assert activation_of(torch.clamp, (a, -1.0), {}) is None
    assert activation_of(torch.Tensor.clamp_, (a,), {"min": torch.zeros(1)}) is None
    assert activation_of(torch.clamp, (a,), {"min": 0})[1] == "relu"
    assert activation_of(F.hardtanh, (a, 0.0, 6.0), {})[1] == "relu6"


BENDS = {
    "abs": lambda a: (a + a.abs()) / 2,
    "where": lambda a: torch.where(a > 0, a, 0.1 * a),
    "maximum": lambda a: torch.maximum(a, 0.1 * a),
}


@pytest.mark.parametrize("name", BENDS)
def test_what_bends_features_otherwise_is_named(name):
    watch = Activations(2)
    with watch:
        BENDS[name](torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
        BENDS[name](torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))  # no maps
    assert (watch.rectifiers, dict(watch.smooth)) == (0, {name: 1})
