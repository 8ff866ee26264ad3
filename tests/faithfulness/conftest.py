"""Networks of which it is known what each pixel means to the score, asked without an engine."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from service.contract import Evidence, Map, Target
from service.faithfulness.curves import Scene
from tests.plain import PlainProbe

SIZE = 14


class Additive(nn.Module):
    """The score is the sum of each pixel times its weight, over the colours: every order of pixels is worked out."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights  # (T, H, W)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,thw->nt", x, self.weights)


class Watched(PlainProbe):
    """A plain probe that counts the rows it was asked for, and keeps those that have a key."""

    def __init__(self, network: nn.Module) -> None:
        facts = SimpleNamespace(task=SimpleNamespace(whole=None))
        super().__init__(network, facts, Evidence("all", lambda raw: raw))  # type: ignore[arg-type]
        self.rows: list[int] = []
        self.kept: dict[object, Tensor] = {}

    def scores(self, rows, *, sketch=None):  # type: ignore[no-untyped-def]
        if rows.key not in self.kept:
            self.rows.append(rows.count)
            self.kept[rows.key] = super().scores(rows)
        return self.kept[rows.key]


@pytest.fixture
def image() -> Tensor:
    """A picture (1, 3, H, W), lighter than the mean everywhere."""
    return 0.5 + torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def scene(image: Tensor) -> Callable[..., Scene]:
    """Make a scene of a network, hidden behind half of the picture (`blur`) and behind nothing (`mean`)."""

    def make(network: nn.Module, *, odds: bool = True, blanks: dict[str, Tensor] | None = None) -> Scene:
        hidden = {"blur": image / 2, "mean": torch.zeros_like(image)} if blanks is None else blanks
        return Scene.of(Watched(network), image, hidden, odds=odds)

    return make


def a_map(array: Tensor, kind: str = "signed", **more: object) -> Map:
    """Return a map of the first target."""
    return Map("mine", array, kind, target=Target(0), **more)  # type: ignore[arg-type]


def weights(seed: int = 0) -> Tensor:
    """Return what each pixel of an additive network counts, (1, H, W), above zero and no two alike."""
    drawn = torch.rand(SIZE * SIZE, generator=torch.Generator().manual_seed(seed)).argsort().argsort()
    return (drawn.float() + 1).view(1, SIZE, SIZE) / 100
