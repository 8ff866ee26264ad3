"""Layers get their address, layout and reach; the default one is the last that all of the score depends on."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.engine.network.resident import Model
from service.errors import InvalidParameter, NotApplicable
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


def _shuffled(y):
    order = torch.randperm(y[0, 0].numel(), generator=torch.Generator().manual_seed(5))
    return y.flatten(2)[:, :, order].view_as(y)


LOSES = {
    "spectrum": _spectrum,
    "sorted": lambda y: y.flatten(2).sort(2)[0].view_as(y),
    "shuffled": _shuffled,
}


class Losing(nn.Module):
    """Loses or gates the places of its early maps, and goes on with finer and coarser ones."""

    def __init__(self, loses, fixed=0) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.Tanh())
        self.last = nn.Sequential(nn.Conv2d(16, 8, 3, 1, 1), nn.Tanh(), nn.Conv2d(8, 8, 9, 6, 4), nn.Tanh())
        self.fc, self.loses, self.fixed = nn.Linear(8, 4), loses, fixed

    def forward(self, x):
        y = self.early(x)
        if self.fixed and y.shape[3] != self.fixed:
            raise ValueError("of one size only")
        return self.fc(self.last(self.late(self.loses(y))).mean((2, 3)))


@pytest.mark.parametrize("fixed", [0, 32])
@pytest.mark.parametrize("loses", LOSES.values(), ids=LOSES)
def test_no_layer_behind_lost_places_has_maps(loses, fixed) -> None:
    """Whether the layers before have some or not, and whether another size shows what follows it."""
    facts = _facts(Losing(loses, fixed), 64)
    assert {path for path, info in facts.layers.items() if info.spatial} == {"early", "early.0", "early.1"}
    assert facts.default_layer == "early"


@pytest.mark.parametrize("fixed", [0, 32])
def test_what_all_of_the_picture_adds_loses_no_places(fixed) -> None:
    """Though each cell changes with each square, most of all where that is added."""
    ramp = torch.linspace(1, 9, 32 * 32).view(1, 1, 32, 32)

    def gated(y):
        return y / 3000 + (y.mean((1, 2, 3), keepdim=True) - 0.2) * F.interpolate(ramp, y.shape[2:]) / 3

    facts = _facts(Losing(gated, fixed), 64)
    assert {"early", "late.0", "last.0", "last.2"} <= {path for path, info in facts.layers.items() if info.spatial}
    assert facts.default_layer == ("last.2" if fixed else "last")


def _cropped(x):
    return x[..., 4:-4, 4:-4]


MOVES = {
    "cropped": _cropped,
    "cropped by a twentieth": lambda x: x[..., 3:-3, 3:-3],
    "cropped and resized": lambda x: F.interpolate(_cropped(x), x.shape[2:], mode="bilinear"),
    "a quarter": lambda x: x[..., 16:, 16:],
    "padded": lambda x: F.pad(x, (8,) * 4),
    "padded and resized": lambda x: F.interpolate(F.pad(x, (8,) * 4), x.shape[2:]),
    "rolled": lambda x: x.roll(8, -1),
    "rolled far": lambda x: x.roll((24, 16), (-1, -2)),
    "shifted": lambda x: F.pad(x, (0, 0, -8, 8)),
    "mirrored": lambda x: x.flip(2),
}


class Moving(nn.Module):
    """Normalises its picture, moves it, and looks at it in finer and coarser maps."""

    def __init__(self, move, *, norm=True) -> None:
        super().__init__()
        self.norm, self.move = nn.BatchNorm2d(3) if norm else None, move
        self.early = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 9, 4, 4), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = x if self.norm is None else self.norm(x)
        return self.fc(self.late(self.early(self.move(x))).mean((2, 3)))


@pytest.mark.parametrize("name", MOVES)
def test_no_layer_behind_a_moved_picture_has_maps(name) -> None:
    """Nor those whose few cells look at so much that nothing can be seen of them."""
    facts = _facts(Moving(MOVES[name]), 64)
    assert {path for path, info in facts.layers.items() if info.spatial} <= {"norm"}
    early = facts.layers["early"]
    assert early.elsewhere
    assert facts.layers["late"].elsewhere
    with pytest.raises(InvalidParameter, match=r"of other places .* crops, pads, .* do that in preprocessing, or name"):
        facts.layer("late")
    told = next(check for check in facts.checks if check.name == "places")
    assert told.outcome == "warning"
    assert "'early'" in told.found
    assert "in preprocessing" in told.remedy


def test_where_all_layers_look_elsewhere_methods_that_need_one_say_so() -> None:
    facts = _facts(Moving(_cropped, norm=False), 64)
    assert facts.default_layer is None
    with pytest.raises(NotApplicable, match=r"crops, pads, .*; do that in preprocessing, or use 'saliency'"):
        facts.require_spatial("grad-cam")


def test_a_layer_before_the_crop_keeps_its_maps() -> None:
    network = Moving(lambda x: x[..., 6:-6, 6:-6])
    network.norm = nn.Conv2d(3, 3, 3, padding=1)
    facts = _facts(network, 64)
    assert facts.layers["norm"].spatial
    assert facts.default_layer == "norm"


@pytest.mark.parametrize(
    "resize",
    [
        lambda x: F.interpolate(x, (48, 48), mode="bilinear"),
        lambda x: F.interpolate(x, (20, 20)),
        lambda x: x[..., 1::2, 1::2],
    ],
)
def test_a_network_that_resizes_its_picture_keeps_its_maps(resize) -> None:
    facts = _facts(Moving(resize), 64)
    assert not any(info.elsewhere for info in facts.layers.values())
    assert facts.default_layer == "late"
    assert "places" not in {check.name for check in facts.checks}


def _blanked(x, margin=8):
    mask = torch.zeros_like(x[:1, :1])
    mask[..., margin:-margin, margin:-margin] = 1
    return x * mask


def test_a_margin_that_is_blanked_moves_nothing() -> None:
    """Also where cells are too coarse to tell by squares; but what is cut off behind it does."""

    def blanked(move) -> nn.Module:
        network = Moving(move)
        network.early = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
        return network

    def cut(x):
        return x[..., 8:-8, 8:-8]

    facts = _facts(blanked(_blanked), 64)
    assert not any(info.elsewhere for info in facts.layers.values())
    assert facts.default_layer == "late.1"
    assert _facts(blanked(lambda x: _blanked(cut(x))), 64).layers["early"].elsewhere
    assert _facts(blanked(lambda x: cut(_blanked(x))), 64).layers["early"].elsewhere


class Averaging(Moving):
    """Averages its answers to the whole picture and to two crops of it, as at test time."""

    def forward(self, x):
        whole, middle, corner = (super(Averaging, self).forward(one) for one in (x, _cropped(x), x[..., :56, :56]))
        return (whole + middle + corner) / 3


def test_of_a_picture_and_crops_of_it_the_picture_has_maps() -> None:
    facts = _facts(Averaging(lambda x: x), 64)
    assert facts.default_layer == "late#1"
    assert facts.layers["early#1"].spatial
    for path in ("early#2", "late#2", "early#3", "late#3"):
        assert facts.layers[path].elsewhere


class Rolling(nn.Module):
    """Shifts its maps for a part of a residual block, and back, as windows of attention are shifted."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.mix = nn.Conv2d(3, 8, 2, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.block, self.deep, self.fc = nn.Identity(), nn.Conv2d(8, 8, 31, 8, 15), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x)
        x = self.block(x + self.mix(self.norm(x.roll((-6, -6), (2, 3))).relu()).roll((6, 6), (2, 3)))
        return self.fc(self.deep(x).tanh().mean((2, 3)))


def test_maps_that_are_shifted_and_back_poison_none() -> None:
    layers = _facts(Rolling(), 64).layers
    assert layers["norm"].elsewhere
    assert layers["mix"].elsewhere
    assert layers["patches"].spatial
    assert layers["block"].spatial
    assert layers["deep"].spatial


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
