"""Tiny networks of every task, on the engine, and the same ones plain for what is worked out by hand."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from service.contract import Asked, Clean, Explanation, Target, Targets, View
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.explainers.base import Explainer
from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task
from tests.plain import PlainProbe

SIZE = 32
VIEW = View((10.0, 20.0, 74.0, 84.0), (SIZE, SIZE))  # 64 x 64 pixels of the upload from (10, 20) on


class Subject:
    """A network of a task, loaded as any other, and what a request does with it."""

    def __init__(self, device: Device, network: nn.Module, name: str, **options: object) -> None:
        self.plain = copy.deepcopy(network).requires_grad_(False)
        known = options.pop("task_known", True)
        transform = Transform(SIZE, (SIZE, SIZE), (0.5,) * 3, (0.25,) * 3)
        spec = ModelSpec("mine", lambda: network, transform, task(name), task_known=known, **options)
        self.device = device
        self.model = device.call(lambda: Model(spec, network, device.device))
        self.facts, self.task = self.model.facts, self.model.facts.task

    def answer(self, x: Tensor) -> Tensor:
        return ModelProbe(self.model, self.device, Run()).answer(x)

    def asked(
        self, x: Tensor, targets: Sequence[Asked] | None, pictures: Sequence[Tensor] = (), masks: Sequence[Tensor] = ()
    ):
        """Read and bind the targets of a request, as the pipeline does; return the readout and the targets."""
        given = self.task.read(targets, self.facts, len(pictures) + len(masks)) if targets is not None else None
        if not self.task.looks:
            return self.task.whole, Targets(self.facts, given)
        clean = Clean(self.answer(x), VIEW, lambda i: self.answer(pictures[i]), lambda i: masks[i])
        readout, bound = self.task.bind(given, self.facts, clean)
        return readout, Targets(self.facts, bound)

    def explain(self, explainer: Explainer, x: Tensor, targets=None, **more) -> Explanation:
        readout, wanted = self.asked(x, targets, **more)
        return explainer.explain(ModelProbe(self.model, self.device, Run(), "fp32", readout), x, wanted)

    def explain_plainly(self, explainer: Explainer, x: Tensor, targets=None, **more) -> Explanation:
        readout, wanted = self.asked(x, targets, **more)
        return explainer.explain(PlainProbe(self.model.module, self.facts, readout), x, wanted)


@pytest.fixture(scope="session")
def device():
    device = Device(torch.device("cpu"), max_batch_rows=8)
    yield device
    device.close()


@pytest.fixture(scope="session")
def make(device) -> Callable[..., Subject]:
    return lambda network, name, **options: Subject(device, network.eval(), name, **options)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


class Trunk(nn.Module):
    """Convolutions, and a head that makes of their maps (N, 8, 8, 8) what a task answers."""

    def __init__(self, head: Callable[["Trunk", Tensor], object], outputs: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
            self.act, self.fc, self.conv = nn.Tanh(), nn.Linear(8, outputs), nn.Conv2d(8, outputs, 1)
        self.head = head

    def forward(self, x: Tensor) -> object:
        return self.head(self, self.act(self.stem(x)))


def pooled(trunk: Trunk, a: Tensor) -> Tensor:
    return trunk.fc(a.mean((2, 3))) * 3


def by_hand(subject: Subject, x: Tensor, score: Callable[[object], Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return maps, a score of what the plain network answers, its gradient at the maps, and at the input."""
    leaf = x.clone().requires_grad_()
    a = subject.plain.act(subject.plain.stem(leaf))
    value = score(subject.plain.head(subject.plain, a))
    g, at_input = torch.autograd.grad(value, (a, leaf))
    return a.detach()[0], value.detach(), g[0], at_input[0]


def grad_cam(a: Tensor, g: Tensor) -> Tensor:
    return torch.einsum("c,chw->hw", g.mean((1, 2)), a).relu()


def target_of(targets: Targets) -> Target:
    assert targets.given is not None
    return targets.given[0]
