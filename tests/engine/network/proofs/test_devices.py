"""A device that computes something else than a processor does is found out, and how far it is off is said."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from service.engine.network.proofs import devices
from service.engine.network.proofs.checks import Refused
from service.engine.network.proofs.devices import GRADIENT, OUTPUTS, Answer, answer, held, prove
from service.engine.network.resident import Model
from service.models.catalogue import requested
from tests import tiny
from tests.conftest import CATALOG

X = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)


class Elsewhere(nn.Module):
    """Computes on a device that is only pretended: until it is moved to the processor it is off by something."""

    def __init__(self, network: nn.Module, *, outputs: float = 0.0, gradient: float = 0.0) -> None:
        super().__init__()
        self.network, self.outputs, self.gradient = network, outputs, gradient
        self.here = False

    def to(self, *args, **kwargs):
        self.here = args == ("cpu",)
        return super().to(*args, **kwargs)

    def forward(self, x):
        found = self.network(x)
        if self.here:
            return found
        # What is added has no value, and a gradient of its own.
        found = found + self.gradient * (x - x.detach()).sum((1, 2, 3))[:, None]
        return found + self.outputs * found.detach().abs().max()


@pytest.fixture(autouse=True)
def _pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a network that pretends be told where it is moved."""
    monkeypatch.setattr(devices, "moved", lambda network, device: network.to(device))


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5))


def test_a_device_that_computes_the_same_passes_and_its_figures_are_told() -> None:
    there = Elsewhere(network(), outputs=OUTPUTS / 10)
    line = prove("x", there, X, lambda found: found, (), gradient=True)
    assert line.outcome == "passed"
    assert "outputs within 1.0e-04" in line.found
    assert "a gradient within" in line.found
    assert not there.here  # it is back where it was


@pytest.mark.parametrize(
    ("off", "told"),
    [
        ({"outputs": 0.5}, r"on cpu, outputs are \d\.\de-01"),
        ({"gradient": 1.0}, "on cpu, a gradient is .* of its length off"),
        ({"outputs": float("nan")}, "outputs are nan"),
    ],
    ids=str,
)
def test_a_device_that_does_not_is_refused_with_the_figure(off, told) -> None:
    there = Elsewhere(network(), **off)
    with pytest.raises(Refused, match=told) as raised:
        prove("x", there, X, lambda found: found, (), gradient=True)
    assert raised.value.checks[-1].outcome == "refused"
    assert "--device cpu" in str(raised.value)
    assert not there.here


def test_a_wrong_gradient_does_not_matter_where_none_is_to_be_had() -> None:
    there = Elsewhere(network(), gradient=1.0)
    line = prove("x", there, X, lambda found: found, (), gradient=False)
    assert line.outcome == "passed"
    assert "gradient" not in line.found


def test_the_gradient_is_the_largest_outputs() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(X.numel(), 4))
    found = answer(linear, X, lambda seen: seen, gradient=True)
    assert found.gradient is not None
    torch.testing.assert_close(found.gradient.flatten(), linear[1].weight[found.outputs[0].argmax()])


def test_what_runs_on_its_device_alone_is_served_with_a_warning() -> None:
    class Bound(Elsewhere):
        def forward(self, x):
            if self.here:
                raise RuntimeError("compiled for another device")
            return super().forward(x)

    line = prove("x", Bound(network()), X, lambda found: found, (), gradient=True)
    assert line.outcome == "warning"
    assert "compiled for another device" in line.found


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_the_bound_of_a_gradient_is_of_its_length(share) -> None:
    gradient = torch.zeros(1, 1, 2, 2)
    gradient[0, 0, 0, 0] = 2.0
    off = gradient.clone()
    off[0, 0, 1, 1] = 2.0 * share * GRADIENT
    outputs = torch.ones(1, 2)
    both = Answer(outputs, off), Answer(outputs, gradient)
    if share < 1:
        assert held("x", "there", *both, ()).outcome == "passed"
    else:
        with pytest.raises(Refused):
            held("x", "there", *both, ())


@pytest.mark.parametrize(("off", "fits"), [(0.0, True), (0.3, False)])
def test_a_model_is_proved_when_it_is_loaded(monkeypatch, off, fits) -> None:
    spec = requested(("tiny",), CATALOG)[0]["tiny"]
    asked: list[nn.Module] = []

    def answered(network, x, readout, *, gradient):
        found = answer(network, x, readout, gradient=gradient)
        asked.append(network)
        return found if len(asked) > 1 else replace(found, outputs=found.outputs * (1 + off))

    monkeypatch.setattr(devices, "elsewhere", lambda device: True)
    monkeypatch.setattr(devices, "answer", answered)
    if fits:
        model = Model(spec, tiny.classifier(), torch.device("cpu"))
        line = model.facts.checks[-1]
        assert (line.name, line.outcome) == ("device", "passed")
        assert asked == [model.module, model.module]
    else:
        with pytest.raises(Refused, match=r"outputs are .* off the processor"):
            Model(spec, tiny.classifier(), torch.device("cpu"))


def test_a_processor_is_believed() -> None:
    assert not devices.elsewhere(torch.device("cpu"))
    assert devices.elsewhere(torch.device("xpu:0"))
