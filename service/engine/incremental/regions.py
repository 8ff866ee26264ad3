"""Rectangles of maps: which part of an output a change reaches, and how a batch of them goes through the operators.

All rows of a batch have rectangles of one size, so that they run as one batch; where a row needs less, or is at a
border, its rectangle is moved inside and holds values that did not change.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.incremental.graph import Joined, Node, Pair, Pooled, Shifted, Window

T = TypeVar("T")
Ints = NDArray[np.int64]
Key = tuple[int, float]  # of a kept map: node, and what its border is filled with


@dataclass(frozen=True)
class Region:
    """Where rows differ from the clean map: within [low, high); [start, start + size) is held of it."""

    low: Ints  # (N, 2): y, x
    high: Ints  # (N, 2)
    start: Ints  # (N, 2)
    size: Pair

    @staticmethod
    def around(low: Ints, high: Ints, bounds: Pair) -> "Region":
        """Return the region of the least common size that holds [low, high) of each row, within the map."""
        extent = (high - low).max(0, initial=1)
        return Region(low, high, np.clip(low, 0, np.array(bounds) - extent), (int(extent[0]), int(extent[1])))

    @staticmethod
    def whole(rows: int, bounds: Pair) -> "Region":
        """Return the region that is the whole map."""
        zeros = np.zeros((rows, 2), np.int64)
        return Region(zeros, zeros + np.array(bounds), zeros, bounds)

    def same(self, other: "Region") -> bool:
        """Whether both hold the same rectangles."""
        return self.size == other.size and np.array_equal(self.start, other.start)

    def through(self, window: Window, bounds: Pair) -> "Region":
        """Return the region of an output that a change here reaches; `bounds` is the output's size."""
        stride, reach, before = np.array(window.stride), np.array(window.reach), np.array(window.before)
        low = -((reach - 1 - before - self.low) // stride)  # ceil((low + before - reach + 1) / stride)
        high = (self.high - 1 + before) // stride + 1
        low = np.clip(low, 0, np.array(bounds) - 1)  # nothing reached: an empty rectangle, at the border
        return Region.around(low, np.clip(high, low, bounds), bounds)

    def shifted(self, by: Pair) -> "Region":
        """Return the region in a map with a border."""
        move = np.array(by)
        return Region(self.low + move, self.high + move, self.start + move, self.size)

    @staticmethod
    def union(regions: Sequence["Region"], bounds: Pair) -> "Region":
        """Return the smallest region that holds all of them."""
        if len(regions) == 1:
            return regions[0]
        low = np.minimum.reduce([r.low for r in regions])
        return Region.around(low, np.maximum.reduce([r.high for r in regions]), bounds)


@dataclass(frozen=True)
class Map:
    """A clean map with a border: (H, W, C) contiguous, its own values from `before` on."""

    values: Tensor
    before: Pair

    @staticmethod
    def of(x: Tensor, fill: float, before: Pair, after: Pair) -> "Map":
        """Return the map of a value (1, ..., H, W) with a border of `fill`."""
        h, w = x.shape[-2:]
        channels_last = x.reshape(1, -1, h, w)[0].permute(1, 2, 0)
        values = x.new_full((before[0] + h + after[0], before[1] + w + after[1], channels_last.shape[2]), fill)
        values[before[0] : before[0] + h, before[1] : before[1] + w] = channels_last
        return Map(values, before)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.numel() * self.values.element_size()


@dataclass
class Layout:
    """Where the rectangles of a batch lie, by node, and how they are addressed: the same wherever corners are equal."""

    regions: Sequence[Region | None]
    _known: dict[Hashable, object] = field(default_factory=dict)

    def remember(self, key: Hashable, find: Callable[[], T]) -> T:
        """Return what was found before under a key."""
        if key not in self._known:
            self._known[key] = find()
        return cast(T, self._known[key])


Lines = tuple[int, int] | Tensor
"""Where rectangles begin in a map: the corner that all of them have, or the number of each line's first value."""


def lines(clean: Map, start: Ints, size: Pair) -> Lines:
    """Return where the rectangles from `start` (N, 2) on lie in a map with a border."""
    at = start + np.array(clean.before)
    if (at == at[0]).all():
        return int(at[0, 0]), int(at[0, 1])
    begin = (at[:, :1] + np.arange(size[0])) * clean.values.shape[1] + at[:, 1:]
    return torch.from_numpy(begin.reshape(-1)).to(clean.values.device)


def cut(maps: Sequence[Map], lengths: Sequence[int], where: Lines, size: Pair) -> Tensor:
    """Return rectangles (N, h, w, C); the first `lengths[0]` rows from the first map, ..."""
    (h, w), c = size, maps[0].values.shape[2]
    out = maps[0].values.new_empty(sum(lengths), h, w, c)
    row = 0
    for clean, length in zip(maps, lengths, strict=True):
        part, values = out[row : row + length], clean.values
        if isinstance(where, Tensor):
            # Neighbouring values of a line lie together: each line of a rectangle is one run, wherever it begins.
            runs = values.as_strided((values.shape[0] * values.shape[1] - w + 1, w * c), (c, 1))
            torch.index_select(runs, 0, where[row * h : (row + length) * h], out=part.view(-1, w * c))
        else:
            y, x = where
            part.copy_(values[y : y + h, x : x + w].expand_as(part))
        row += length
    return out


Places = tuple[int, int] | tuple[Tensor, Tensor | None]
"""Where patches go: at the offset that all of them have, or value by value: to where, and which (None: all)."""


def places(offset: Ints, bounds: Pair, size: Pair, device: torch.device) -> Places:
    """Return where patches of a size go in rectangles of `bounds`, at `offset` (N, 2); what lies outside is dropped."""
    if (offset == offset[0]).all():
        return int(offset[0, 0]), int(offset[0, 1])
    (height, width), (h, w) = bounds, size
    ys, xs = offset[:, :1] + np.arange(h), offset[:, 1:] + np.arange(w)  # (N, h), (N, w)
    index = ((np.arange(len(offset))[:, None] * height + ys)[:, :, None] * width + xs[:, None, :]).reshape(-1)
    inside = (((ys >= 0) & (ys < height))[:, :, None] & ((xs >= 0) & (xs < width))[:, None, :]).reshape(-1)
    which = None if inside.all() else torch.from_numpy(inside.nonzero()[0]).to(device)
    return torch.from_numpy(index[inside]).to(device), which


def paste(into: Tensor, patch: Tensor, where: Places) -> None:
    """Write patches (N, h, w, C) into (N, H, W, C)."""
    (n, height, width), (h, w) = into.shape[:3], patch.shape[1:3]
    to, which = where
    if isinstance(to, int):
        assert isinstance(which, int)
        y, x, y0, x0 = to, which, max(-to, 0), max(-which, 0)
        y1, x1 = min(h, height - y), min(w, width - x)
        if y1 > y0 and x1 > x0:
            into[:, y + y0 : y + y1, x + x0 : x + x1] = patch[:, y0:y1, x0:x1]
        return
    source = patch.reshape(n * h * w, -1)
    into.view(n * height * width, -1).index_copy_(0, to, source if which is None else source[which])


@dataclass(frozen=True)
class Clean:
    """What is kept of a picture, for one plan's switch."""

    outputs: Tensor  # (1, K)
    switch: int
    maps: Mapping[Key, Map]
    means: Mapping[int, Tensor]  # by pooling node, (1, C, ...)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        rest = [self.outputs, *self.means.values()]
        return sum(m.nbytes for m in self.maps.values()) + sum(t.numel() * t.element_size() for t in rest)

    def map(self, node: int) -> Map:
        """Return a node's map, with whatever border."""
        return self.maps[node, 0.0] if (node, 0.0) in self.maps else self.maps[node, -math.inf]


class Batch:
    """One batch of rows on its way through the network."""

    def __init__(
        self,
        nodes: Sequence[Node],
        last: Mapping[int, Sequence[int]],
        layout: Layout,
        cleans: Sequence[Clean],
        lengths: Sequence[int],
    ) -> None:
        """Take operators, what nobody reads after each, where rows differ, and pictures with their numbers of rows."""
        self.nodes, self.last, self.layout, self.regions = nodes, last, layout, list(layout.regions)
        self.cleans, self.lengths = cleans, lengths
        self.rows, self.switch = sum(lengths), cleans[0].switch
        self.values: dict[int, Tensor] = {}

    def run(self, patches: Tensor) -> Tensor:
        """Return outputs (N, K) of patches (N, 3, h, w), those of one picture together."""
        self.values[0] = patches.contiguous(memory_format=torch.channels_last)
        for node in self.nodes[1:]:
            whole = node.index >= self.switch or all(self._is_whole(i) for i in node.inputs)
            if whole:
                given = [self._whole(i) for i in node.inputs]
                self.values[node.index] = node.call(given, self.rows, overwrite=True)
                del given
            else:
                self.values[node.index] = self._regional(node)
            for i in self.last.get(node.index, ()):
                del self.values[i]
        return self.values[len(self.nodes) - 1]

    def _is_whole(self, i: int) -> bool:
        region = self.regions[i]
        return region is None or region.size == self.nodes[i].size

    def _whole(self, i: int) -> Tensor:
        if not self._is_whole(i):
            everything = Region.whole(self.rows, self.nodes[i].size)
            self.values[i] = self._aligned(i, everything, "whole")
            self.regions[i] = everything
        return self.values[i]

    def _region(self, i: int) -> Region:
        region = self.regions[i]
        assert region is not None
        return region

    def _regional(self, node: Node) -> Tensor:
        rule, source = node.rule, node.inputs[0]
        if isinstance(rule, Shifted):
            return self.values[source]
        if isinstance(rule, Pooled):
            return self._pooled(node)
        region = self._region(node.index)
        if isinstance(rule, Window):
            return rule.run(self._read(node, rule, region), region.start)
        if isinstance(rule, Joined) and not all(self._region(i).same(region) for i in node.inputs):
            return self._joined(node, region)
        given = [self._aligned(i, region, node.index) for i in node.inputs]
        return node.call(given, self.rows, region.size, overwrite=True)

    def _read(self, node: Node, rule: Window, region: Region) -> Tensor:
        """Return what an operator reads for its region of the output, (N, C, h, w)."""
        source = node.inputs[0]
        held = self._region(source)
        start, size = reading(rule, region)
        offset = held.start - start
        if size == held.size and not offset.any():
            return self.values[source]
        key = source, rule.fill
        maps = [clean.maps[key] if key in clean.maps else clean.maps[source, 0.0] for clean in self.cleans]
        out = self._cut(maps, start, size, ("read", node.index))
        self._paste(out, self.values[source], offset, ("read", node.index))
        return self._as(out, source)

    def _cut(self, maps: Sequence[Map], start: Ints, size: Pair, key: Hashable) -> Tensor:
        where = self.layout.remember(("cut", key), lambda: lines(maps[0], start, size))
        return cut(maps, self.lengths, where, size)

    def _paste(self, into: Tensor, value: Tensor, offset: Ints, key: Hashable) -> None:
        patch = _channels_last(value)
        bounds, size = (into.shape[1], into.shape[2]), (patch.shape[1], patch.shape[2])
        paste(into, patch, self.layout.remember(("paste", key), lambda: places(offset, bounds, size, into.device)))

    def _aligned(self, i: int, region: Region, reader: Hashable) -> Tensor:
        """Return a node's values in another region that holds its own."""
        held = self._region(i)
        if held.same(region):
            return self.values[i]
        out = self._cut([clean.map(i) for clean in self.cleans], region.start, region.size, (reader, i))
        self._paste(out, self.values[i], held.start - region.start, (reader, i))
        return self._as(out, i)

    def _joined(self, node: Node, region: Region) -> Tensor:
        out = self._cut([clean.map(node.index) for clean in self.cleans], region.start, region.size, node.index)
        channel = 0
        refs = node.args[0]  # a tensor may be there twice
        for ref in refs:
            width = self.nodes[ref.node].shape[0]
            offset = self._region(ref.node).start - region.start
            into = out[..., channel : channel + width]
            self._paste(into, self.values[ref.node], offset, (node.index, ref.node))
            channel += width
        return self._as(out, node.index)

    def _pooled(self, node: Node) -> Tensor:
        """Return means over whole maps: the clean ones, and what the change adds."""
        source = node.inputs[0]
        held = self._region(source)
        before = self._cut([clean.map(source) for clean in self.cleans], held.start, held.size, node.index)
        added = self.values[source].sum((2, 3)) - before.sum((1, 2))  # (N, C)
        clean = torch.cat(
            [
                c.means[node.index].expand(length, *node.shape)
                for c, length in zip(self.cleans, self.lengths, strict=True)
            ]
        )
        return clean + (added / math.prod(self.nodes[source].size)).view(clean.shape)

    def _as(self, out: Tensor, i: int) -> Tensor:
        """Return (N, h, w, C) with the axes of a node's value."""
        n, h, w, _ = out.shape
        return out.permute(0, 3, 1, 2).view(n, *self.nodes[i].shape[:-2], h, w)


def reading(rule: Window, region: Region) -> tuple[Ints, Pair]:
    """Return where the input that an output's region reads begins, (N, 2), and its size."""
    start = region.start * np.array(rule.stride) - np.array(rule.before)
    h, w = ((n - 1) * s + r for n, s, r in zip(region.size, rule.stride, rule.reach, strict=True))
    return start, (h, w)


def _channels_last(x: Tensor) -> Tensor:
    """Return (N, ..., h, w) as (N, h, w, C)."""
    return x.reshape(len(x), -1, *x.shape[-2:]).permute(0, 2, 3, 1)


def larger(a: Pair, b: Pair) -> Pair:
    """Return the larger of each."""
    return max(a[0], b[0]), max(a[1], b[1])
