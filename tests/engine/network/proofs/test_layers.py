"""Layers get their address, layout and reach; the default one is the last that all of the score depends on."""

import pytest
import torch
from torch import nn

from service.engine.network.resident import Model
from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task


def _facts(network, size=32, name="classification"):
    transform = Transform(size, (size, size), (0.5,) * 3, (0.25,) * 3)
    spec = ModelSpec("mine", lambda: network, transform, task(name))
    torch.manual_seed(0)
    return Model(spec, network.eval(), torch.device("cpu")).facts


class Blocks(nn.Module):
    """Maps, a pool of them, a part that no output depends on, and a head that is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Tanh())
        self.pool, self.unused, self.fc = nn.AvgPool2d(2), nn.Conv2d(8, 8, 1), nn.Linear(128, 5)

    def forward(self, x):
        a = self.features(x)
        self.unused(a)
        return self.fc(self.pool(a).flatten(1)).tanh() * 5


def test_pools_and_what_no_output_depends_on_are_no_default() -> None:
    facts = _facts(Blocks())
    assert facts.default_layer == "features"  # the outer name, not `features.3`
    layers = facts.layers
    assert layers["pool"].spatial
    assert layers["features"].gradient
    assert layers["features"].projects
    assert not layers["unused"].gradient
    assert layers["features.0"].followed_by == "relu"
    assert layers["features.0"].kernel == (8, 3, 3, 3)
    assert layers["features.0"].shape == (8, 16, 16)
    assert not layers["fc"].spatial


@pytest.mark.parametrize("fixed", [False, True])
def test_one_input_size_is_enough(fixed) -> None:
    network = Blocks()
    if not fixed:
        network.pool, network.fc = nn.AdaptiveAvgPool2d(4), nn.Linear(128, 5)
    facts = _facts(network)
    assert facts.default_layer == "features"
    check = next(check for check in facts.checks if check.name == "size")
    assert ("only" in check.found) == fixed


class Tiny(nn.Module):
    """Maps of so few cells that squares can hardly be told apart: their size follows the input's all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.fc = (
            nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.Tanh(), nn.Conv2d(8, 8, 1), nn.Tanh()),
            nn.Linear(8, 4),
        )

    def forward(self, x):
        return self.fc(self.deep(x).square().mean((2, 3)))


def test_maps_of_few_cells_follow_the_inputs_size() -> None:
    facts = _facts(Tiny())
    assert facts.default_layer == "deep"
    assert facts.layers["deep"].shape == (8, 2, 2)


class Turned(nn.Module):
    """Looks at its picture in another way, maybe beside how it is."""

    def __init__(self, turn, *, beside=False) -> None:
        super().__init__()
        self.maps, self.fc = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh()), nn.Linear(8, 4)
        self.turn, self.beside = turn, beside

    def forward(self, x):
        seen = [x, self.turn(x)] if self.beside else [self.turn(x)]
        return sum(self.fc(self.maps(one).square().mean((2, 3))) for one in seen)


def _spectrum(x):
    return torch.fft.fft2(x).abs().log1p()


@pytest.mark.parametrize("turn", [lambda x: x.flip(3), lambda x: x.rot90(1, (2, 3)), _spectrum])
def test_maps_of_other_places_than_the_pictures_are_none(turn) -> None:
    facts = _facts(Turned(turn))
    assert facts.default_layer is None
    assert not any(info.spatial for info in facts.layers.values())
    beside = _facts(Turned(lambda x: x.flip(3), beside=True))  # the picture and its mirror image, as at test time
    assert beside.default_layer == "maps#1"
    assert not beside.layers["maps#2"].spatial


class Attending(nn.Module):
    """Tokens of any number, and an attention whose parts are modules."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.softmax, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Softmax(dim=-1), nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        attention = self.softmax((tokens @ tokens.mT)[:, None])
        return self.fc((attention[:, 0] @ tokens).mean(1))


def test_an_attention_is_no_maps_though_its_size_follows_the_inputs() -> None:
    facts = _facts(Attending())
    assert facts.layers["softmax"].shape == (1, 64, 64)
    assert not facts.layers["softmax"].spatial
    assert facts.default_layer == "patches"


class Fewer(nn.Module):
    """Leaves every second token of a grid."""

    def forward(self, x):
        side = round(x.shape[1] ** 0.5)
        return x.view(len(x), side, side, -1)[:, ::2, ::2].flatten(1, 2)


class Attention(nn.Module):
    """Tokens of a residual block, which an attention reads by projections; all that follows has no grid."""

    def __init__(self, ordered: bool) -> None:
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 8)
        norm = nn.LayerNorm(24)
        self.qkv = (
            nn.Sequential(nn.Linear(8, 24), norm) if ordered else nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 24))
        )
        self.fc = nn.Linear(8, 5)
        self.block, self.fewer = nn.Identity(), Fewer()

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        tokens = self.block(tokens + self.mix(tokens).tanh())
        q, k, v = self.qkv(tokens).chunk(3, 2)
        query = self.fewer(q).mean(1, keepdim=True)
        return self.fc(((query @ k.mT).softmax(2) @ v)[:, 0].square())


@pytest.mark.parametrize("ordered", [True, False])
def test_what_an_attention_makes_of_its_tokens_is_no_default(ordered) -> None:
    """Neither a projection, with a norm around it or not, nor some places of one."""
    facts = _facts(Attention(ordered))
    assert facts.layers["qkv"].spatial  # it may be named
    assert facts.layers["fewer"].spatial
    assert facts.default_layer == "block"
