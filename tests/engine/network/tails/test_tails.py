"""Rows that start at a layer answer what the whole network answers with that layer's output replaced."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from service.contract import At, Rows, Tracing
from service.engine.network.capture import uninstall
from service.engine.network.forms.sizes import Sizes
from service.engine.network.tails.replay import AnotherWay
from service.engine.network.tails.tails import Tails, Way
from service.engine.network.variants import EXACT
from tests import oracles, tiny
from tests.explainers.conftest import Subject, tiny_input
from tests.plain import PlainProbe

ROWS = 5


def shares(maps: Tensor, seed: int = 0) -> Tensor:
    """Return maps (ROWS, C, h, w), each with other parts of it hidden."""
    generator = torch.Generator().manual_seed(seed)
    return maps * torch.rand(ROWS, *maps.shape[1:], generator=generator).round()


def at(subject: Subject, layer: str, x: Tensor, seed: int = 0) -> At:
    maps = subject.probe().trace(Rows.of(x), Tracing((layer,))).activations[layer]
    rows = shares(maps, seed)
    return At(ROWS, lambda i, j: rows[i:j], None, x, layer)


def plainly(subject: Subject, rows: At) -> Tensor:
    network = uninstall(copy.deepcopy(subject.model.module))
    return PlainProbe(network, subject.facts).scores(rows)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert len(torch.unique(expected, dim=0)) == len(expected)  # the rows matter
    assert oracles.relative_error(found, expected) <= EXACT


class Around(nn.Module):
    """Blocks around whose layers something goes: added, concatenated, and by its batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.add, self.cat = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)
        self.pool = nn.MaxPool2d(4)
        self.sized = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        x = x + self.add(x)
        x = torch.cat([x, self.cat(x)], 1)
        n = x.shape[0]
        x = self.sized(self.pool(x)).relu().view(n, 8, 8, 8)
        x = self.last(x)
        return self.fc(x.relu().mean((2, 3)))


def around() -> nn.Module:
    return tiny._seeded(Around)


@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional, tiny.tokens, around])
def test_every_layer_of_every_structure(small, network):
    subject, x = small(network), tiny_input()
    for layer, info in subject.facts.layers.items():
        if info.spatial:
            rows = at(subject, layer, x)
            assert_equal(subject.probe().scores(rows), plainly(subject, rows))


@pytest.mark.parametrize(
    ("layer", "way"),
    [
        ("stem", Way(True, alone=True)),
        ("add", Way(True)),  # what it is added to is one picture's, and broadcasts
        ("cat", Way(True, expands=True)),
        ("sized", Way(False)),  # it reads the number of rows before the layer
        ("last", Way(True, alone=True)),
    ],
)
def test_the_least_that_has_to_be_run_is_found(small, layer, way):
    assert small(around).model.tails.way(layer) == way


def tokens_of(prefix: int):
    class Prefixed(tiny.Tokens):
        """Tokens without a place before those of the picture; the answer is read from both."""

        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.randn(1, prefix, 16))

        def forward(self, x: Tensor) -> Tensor:
            t = self.patches(x).flatten(2).transpose(1, 2)
            t = torch.cat([self.own.expand(len(t), -1, -1), t], 1)
            t = self.norm(t + self.mix(t, t, t, need_weights=False)[0])
            return self.fc(nn.functional.gelu(t[:, 0] + t.mean(1)))

    return lambda: tiny._seeded(Prefixed)


@pytest.mark.parametrize("prefix", [1, 3])
def test_tokens_without_a_place_are_the_pictures_own(small, prefix):
    network = tokens_of(prefix)
    network.__name__ = f"prefixed{prefix}"
    subject, x = small(network), tiny_input()
    assert subject.facts.layers["norm"].layout.prefix == prefix
    rows = at(subject, "norm", x)
    assert_equal(subject.probe().scores(rows), plainly(subject, rows))
    # By hand: the clean tokens before, and those of the rows behind.
    kept = []
    hook = subject.plain.norm.register_forward_hook(lambda _, __, output: kept.append(output))
    subject.plain(x)
    hook.remove()
    maps = rows.build(0, ROWS)
    t = torch.cat([kept[0][:, :prefix].expand(ROWS, -1, -1), maps.flatten(2).mT], 1)
    expected = subject.plain.fc(nn.functional.gelu(t[:, 0] + t.mean(1)))
    assert_equal(subject.probe().scores(rows), expected)


def pieces(subject: Subject, layer: str, *seeds: int):
    tails = subject.model.tails
    found = []
    for seed in seeds:
        x = tiny_input(seed=seed)
        rows = at(subject, layer, x, seed)
        found.append((tails.prefix(layer, x), rows.build(0, ROWS), plainly(subject, rows)))
    return found


@pytest.mark.parametrize("layer", ["last", "sized"])
def test_rows_of_several_pictures_are_answered_together(small, layer):
    """Where nothing goes around the layer; or where all of the network is run for each row."""
    subject = small(around)
    found = pieces(subject, layer, 1, 2, 3)
    outputs = subject.model.tails.outputs(layer, [(prefix, maps) for prefix, maps, _ in found])
    assert_equal(outputs, torch.cat([expected for _, _, expected in found]))


def test_of_tokens_each_picture_keeps_its_own(small):
    network = tokens_of(2)
    network.__name__ = "prefixed2"
    subject = small(network)
    found = pieces(subject, "norm", 1, 2)
    outputs = subject.model.tails.outputs("norm", [(prefix, maps) for prefix, maps, _ in found])
    assert_equal(outputs, torch.cat([expected for _, _, expected in found]))


class Counting(TorchFunctionMode):
    """Notes the rows of each convolution and linear layer that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, int]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (nn.functional.conv2d, torch.conv2d, nn.functional.linear):
            self.rows.append((func.__name__, len(args[0])))
        return func(*args, **(kwargs or {}))


def test_what_is_before_the_layer_is_run_once_a_picture(small):
    subject, x = small(tiny.classifier), tiny_input()
    tails, rows = subject.model.tails, at(subject, "bn1", x)
    tails.way("bn1")
    with Counting() as counting:
        prefix = tails.prefix("bn1", x)
        assert counting.rows == [("conv2d", 1)]
        for _ in range(2):
            tails.outputs("bn1", [(prefix, rows.build(0, ROWS))])
    assert counting.rows[1:] == [("conv2d", ROWS), ("linear", ROWS)] * 2


def test_a_network_that_is_run_on_one_picture_at_a_time(small):
    subject, x = small(tiny.classifier), tiny_input()
    model = subject.model
    told = []
    sizes = Sizes(1, told.append)
    tails = Tails("one", model.module, model.examined.addresses, model.example, nullcontext, sizes, None)
    assert tails.way("conv2") == Way(False)
    rows = at(subject, "conv2", x)
    met = []
    hook = model.modules["fc"].register_forward_hook(lambda _, given, __: met.append(len(given[0])))
    found = tails.outputs("conv2", [(tails.prefix("conv2", x), rows.build(0, ROWS))])
    hook.remove()
    assert met == [1] * ROWS
    assert told == []
    assert_equal(found, plainly(subject, rows))


class Wayward(nn.Module):
    """Makes one call more each time that it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 5)
        self.more = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(2 * self.more):
            x = x.neg()
        return self.fc(self.second(x).relu().mean((2, 3)))


def test_a_network_that_goes_another_way_is_run_as_a_whole(small):
    def wayward() -> nn.Module:
        return tiny._seeded(Wayward)

    subject, x = small(wayward), tiny_input()
    rows, tails = at(subject, "second", x), subject.model.tails
    prefix, expected = tails.prefix("second", x), plainly(subject, rows)
    subject.model.module.more = True
    with pytest.raises(AnotherWay):
        tails._replayed("second", prefix, rows.build(0, ROWS), expands=False)
    assert_equal(tails.outputs("second", [(prefix, rows.build(0, ROWS))]), expected)


class SequenceFirst(tiny.Tokens):
    """What `tiny.tokens` computes, with tokens on the first axis, as `nn.TransformerEncoder` has them by default."""

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).permute(2, 0, 1)
        mixed = self.mix(*[t.transpose(0, 1)] * 3, need_weights=False)[0].transpose(0, 1)
        return self.fc(nn.functional.gelu(self.norm(t + mixed)).mean(0))


def sequence_first() -> nn.Module:
    return tiny._seeded(SequenceFirst)


def test_rows_start_at_layers_that_have_the_pictures_on_their_second_axis(small):
    """Each picture's answer is its own, alone and among others, and that of the twin with pictures first."""
    turned, plain = small(sequence_first), small(tiny.tokens)
    x = tiny_input()
    assert turned.facts.layers["norm"].turned
    assert not plain.facts.layers["norm"].turned
    assert turned.facts.layers["norm"].layout == plain.facts.layers["norm"].layout
    rows, same = at(turned, "norm", x), at(plain, "norm", x)
    torch.testing.assert_close(rows.build(0, ROWS), same.build(0, ROWS), rtol=1e-5, atol=1e-5)
    found = turned.probe().scores(rows)
    torch.testing.assert_close(found, plain.probe().scores(same), rtol=1e-4, atol=1e-5)
    one = rows.build(1, 2)
    alone = turned.probe().scores(At(1, lambda i, j: one, None, x, "norm"))
    torch.testing.assert_close(alone, found[1:2], rtol=1e-4, atol=1e-5)
