"""Whatever a network is wrapped in, the engine runs the network: one tensor out, float32, in evaluation mode."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from service.engine.network.endings.seen import Cut, Endings
from service.engine.network.forms.adapted import Adapted, compiles, prepared
from service.engine.network.forms.outlet import Outlet
from service.models.networks.forms import BlackBox
from service.models.networks.holding import attributes
from tests import tiny

CPU = torch.device("cpu")
X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm]
)
def test_computed_weights_are_computed_once(norm) -> None:
    network = tiny.classifier()
    network.conv2 = norm(network.conv2)
    network.eval()
    expected = network(X).detach()
    found, said = prepared(network, CPU, "mine")
    assert "reparametrisation" in said[-1]
    assert isinstance(found.conv2.weight, nn.Parameter)
    torch.testing.assert_close(found(X), expected)
    torch.testing.assert_close(copy.deepcopy(found)(X), expected)
    torch.testing.assert_close(found.bfloat16()(X.bfloat16()).float(), expected, rtol=0.1, atol=0.1)


class Softened(nn.Module):
    """A softmax inside, and one at the end."""

    def __init__(self, end) -> None:
        super().__init__()
        self.inner, self.end = tiny.classifier(), end

    def forward(self, x):
        return {"p": self.end(self.inner(x * x.softmax(3).sum(3, keepdim=True)))}


ENDS = [
    nn.Softmax(1),
    nn.Sigmoid(),
    nn.LogSoftmax(1),
    lambda z: F.softmax(z, 1),
    lambda z: torch.softmax(z, dim=1),
    lambda z: z.softmax(-1),
    lambda z: z.sigmoid(),
    lambda z: F.log_softmax(input=z, dim=1),
    F.logsigmoid,
]


@pytest.mark.parametrize("end", ENDS, ids=map(str, range(len(ENDS))))
def test_the_last_softmax_or_sigmoid_can_be_left_out(end) -> None:
    network = Softened(end).eval()
    outlet = Outlet("p")
    with Endings() as endings:
        answer = outlet(network(X), 3)
    ending = endings.of(answer)
    logits = network.inner(X)
    assert ending.name in ("softmax", "sigmoid", "log_softmax", "logsigmoid")
    torch.testing.assert_close(ending.given, logits)
    torch.testing.assert_close(Adapted(network, outlet, cut=ending.call)(X), logits)
    torch.testing.assert_close(Adapted(network, outlet)(X), answer)


def test_a_linear_end_is_known_and_others_are_not() -> None:
    network = tiny.classifier().requires_grad_(False)
    x = X.clone().requires_grad_()
    linear = {
        "itself": lambda y: y,
        "scaled": lambda y: y * 2 + 1,
        "in place": lambda y: y.mul_(3),
        "turned": lambda y: -y / torch.tensor(5.0),
        "two heads": lambda y: (y + network(x)) / 2,
    }
    other = {
        "clamped": lambda y: y.clamp(0, 1),
        "clamped in place": lambda y: y.clamp_(0, 1),
        "rectified in place": lambda y: F.relu(y, inplace=True),
        "gated": lambda y: y * y.sigmoid(),
        "by hand": lambda y: 1 / (1 + (-y).exp()),
    }
    for name, end in {**linear, **other}.items():
        with Endings() as endings:
            answer = end(network(x))
        found = endings.of(answer)
        assert (found is not None and found.name == "linear") == (name in linear), name
    with Cut(1):
        assert torch.equal(network(X), network(X))


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny.classifier()

    def forward(self, x):
        return self.inner(x.mul_(2))


def test_adapted_networks_are_the_network_itself_to_all_that_walks_them() -> None:
    network = Writes().eval()
    adapted = Adapted(network, Outlet(), copies=True)
    before = X.clone()
    expected = network(X.clone())
    assert torch.equal(adapted(X), expected)
    assert torch.equal(X, before)
    assert dict(adapted.named_modules()).keys() == dict(network.named_modules()).keys()
    assert adapted.state_dict().keys() == network.state_dict().keys()
    twin = copy.deepcopy(adapted)
    with torch.no_grad():
        twin.get_submodule("inner.fc").weight.zero_()
    assert torch.equal(twin(X)[0], twin.network.inner.fc.bias)
    assert torch.equal(adapted(X), expected)
    assert adapted.double().network.inner.fc.weight.dtype == torch.float64


def test_pictures_can_be_run_one_at_a_time() -> None:
    class Batch(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) - x.mean((0, 2, 3))

    found = Adapted(Batch(), Outlet(), singly=True)(X)
    assert torch.equal(found, torch.zeros(3, 3))


def test_tensors_that_a_network_keeps_are_found() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    network[0].grids = {"a": [torch.ones(2)]}
    network.last = torch.zeros(1)
    found = list(attributes(network))
    assert sorted(len(value) for _, _, value in found) == [1, 2]
    for holder, key, value in found:
        holder[key] = value + 1
    assert float(network[0].grids["a"][0][0]) == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_is_compiled_at_its_first_forwards_is_known(monkeypatch) -> None:
    compiler = SimpleNamespace(counters={"frames": {}})
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", compiler)
    plain = nn.Sequential(nn.Linear(2, 2))
    assert not compiles(plain)
    assert compiles(nn.Sequential(torch.jit.script(nn.Linear(2, 2))))
    assert compiles(nn.Sequential(BlackBox(torch.jit.script(nn.Linear(2, 2)))))
    compiler.counters["frames"]["total"] = 1  # a function somewhere in this process was
    assert compiles(plain)


def _names():
    """Return the names that a wrapped network has beside those of every module."""
    return sorted(set(vars(Adapted(nn.Identity(), Outlet()))) - set(vars(nn.Module())))


@pytest.mark.parametrize("kind", ["module", "parameter", "buffer"])
@pytest.mark.parametrize("name", _names())
def test_a_layer_may_have_any_name_that_the_engine_uses(name, kind) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if kind == "module":
                self.add_module(name, nn.Linear(4, 3))
            elif kind == "parameter":
                self.register_parameter(name, nn.Parameter(torch.ones(3, 4)))
            else:
                self.register_buffer(name, torch.ones(3, 4))

        def forward(self, x):
            own = getattr(self, name)
            return own(x[:, 0, 0, :4]) if kind == "module" else F.linear(x[:, 0, 0, :4], own)

    network = Named().eval()
    expected, before = network(X), network.state_dict()
    adapted = Adapted(network, Outlet(), copies=True)
    torch.testing.assert_close(adapted(X), expected)
    torch.testing.assert_close(copy.deepcopy(adapted)(X), expected)
    assert network.state_dict().keys() == before.keys()
    assert dict(adapted.named_modules()).keys() == dict(network.named_modules()).keys()
