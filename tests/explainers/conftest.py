"""Networks to test the methods on: our model and, apart from it, the plain network for the oracles."""

import copy
import functools
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from service.contract import Explanation, Rows, Sketch, Targets
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.explainers.base import Explainer
from service.images import Transform
from service.models.embedded import efficientnet_lite0
from service.models.spec import ModelSpec
from service.tasks import task as task_named
from tests import oracles
from tests.plain import PlainProbe


class Subject:
    """One network twice: as our resident model, and plain."""

    def __init__(self, name: str, plain: nn.Module, ours: nn.Module, size: int, device: Device, task: str) -> None:
        self.name, self.plain, self.device = name, plain, device
        transform = Transform(size, (size, size), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD)
        spec = ModelSpec(name, lambda: ours, transform, task_named(task))
        self.model = device.call(lambda: Model(spec, ours, device.device))
        self.facts = self.model.facts

    def explain(self, explainer: Explainer, x: Tensor | None, targets: Sequence[int] | None = None) -> Explanation:
        return explainer.explain(self.probe(), self.given(x), Targets(self.facts, targets))

    def explain_plainly(
        self, explainer: Explainer, x: Tensor | None, targets: Sequence[int] | None = None
    ) -> Explanation:
        """Explain on the plain network, without an engine."""
        return explainer.explain(PlainProbe(self.plain, self.facts), self.given(x), Targets(self.facts, targets))

    def probe(self, run: Run | None = None, device: Device | None = None) -> ModelProbe:
        return ModelProbe(self.model, device or self.device, run or Run())

    def given(self, x: Tensor | None) -> Tensor:
        return torch.empty(0, 3, *self.facts.input_size) if x is None else x


class Watched(PlainProbe):
    """A plain probe that keeps what it was asked, and what callers who watch are shown after each row."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject.plain, subject.facts)
        self.asked: list[Rows] = []
        self.shown: list[list[Tensor]] = []
        self.sketched: list[list[Explanation]] = []

    def scores(self, rows: Rows, *, sketch: Sketch | None = None) -> Tensor:
        outputs = super().scores(rows)
        self.asked.append(rows)
        self.sketched.append([sketch(outputs[:n]) for n in range(1, len(outputs) + 1)])
        self.shown.append([one.maps[0].array for one in self.sketched[-1]])
        return outputs


@pytest.fixture(scope="session")
def device() -> Iterator[Device]:
    device = Device(torch.device("cpu"), max_batch_rows=16)
    yield device
    device.close()


SIZE = 96
NAMES = (*oracles.NETWORKS, "efficientnet_lite0")
SOME = ("resnet18", "densenet121", "convnext_tiny")  # for what hangs little on the network


def subject_factory(device: Device) -> "functools._lru_cache_wrapper[Subject]":
    @functools.cache
    def make(name: str) -> Subject:
        build = efficientnet_lite0.efficientnet_lite0 if name == "efficientnet_lite0" else oracles.NETWORKS[name]
        ours = build()
        return Subject(name, copy.deepcopy(ours).requires_grad_(False), ours, SIZE, device, "classification")

    return make


@pytest.fixture(scope="session")
def subjects(device: Device) -> "functools._lru_cache_wrapper[Subject]":
    """Make a network by name, once a session."""
    return subject_factory(device)


@pytest.fixture(params=NAMES)
def subject(request: pytest.FixtureRequest, subjects) -> Subject:  # type: ignore[no-untyped-def]
    """Each of the torchvision networks with seeded weights, and the embedded one with its real ones."""
    return subjects(request.param)


@pytest.fixture(scope="session")
def small(device: Device):  # type: ignore[no-untyped-def]
    """Make a subject of a small network: (factory, size, task)."""

    def make(factory, size: int = 32, task: str = "classification") -> Subject:  # type: ignore[no-untyped-def]
        return Subject(factory.__name__, factory().requires_grad_(False), factory(), size, device, task)

    return make


@pytest.fixture(scope="session")
def x() -> Tensor:
    """A photograph of a cat, (1, 3, SIZE, SIZE)."""
    return oracles.photograph("chelsea", SIZE)


def narrow_layer(subject: Subject, channels: int) -> str:
    """Return the last layer of at most so many channels, or else of the fewest: Score-CAM on it is quick."""
    spatial = [info for info in subject.facts.layers.values() if info.spatial]
    plain = [info for info in spatial if "#" not in info.path and "+" not in info.path]
    fewest = min(info.shape[0] for info in plain)
    return [info.path for info in plain if info.shape[0] <= max(channels, fewest)][-1]


def module_layer(subject: Subject) -> str:
    """Return the default layer as a module; DenseNet's is rectified by a function, which peers cannot address."""
    return subject.facts.default_layer.removesuffix("+relu")


def tiny_input(size: int = 32, seed: int = 3) -> Tensor:
    """Return seeded noise, (1, 3, size, size)."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def assert_within(actual: Tensor, expected: Tensor, tolerance: float, scale: Tensor | float = 1.0) -> None:
    """Compare within an absolute tolerance, in units of `scale`."""
    assert actual.shape == expected.shape
    assert float(expected.abs().max()) > 0
    assert float((actual - expected).abs().max() / scale) <= tolerance


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 3e-5) -> None:
    """Compare maps relative to the expected one's largest value, which must not be zero.

    The tolerance leaves room for processors that add up in another order: some lose 1.3e-5 in a hundred layers.
    """
    assert actual.shape == expected.shape
    assert float(expected.abs().max()) > 0
    assert oracles.relative_error(actual, expected) <= tolerance


def assert_rectified(positive: Tensor, signed: Tensor, tolerance: float = 1e-5) -> None:
    """Compare a map with what is positive of the signed one, relative to that one's largest value: nothing may be."""
    torch.testing.assert_close(positive, signed.relu(), rtol=0, atol=tolerance * float(signed.abs().max()))
