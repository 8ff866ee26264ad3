"""A batch's way through the operators: on rectangles as far as they go, and on whole maps from the plan's switch on."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor

from service.engine.incremental.clean import Clean
from service.engine.incremental.recording.graph import Joined, Node, Pair, Pooled, Recording, Shifted, Window
from service.engine.incremental.rectangles import CleanMap, channels_last, cut, lines, paste, places
from service.engine.incremental.regions import Ints, Region

T = TypeVar("T")


@dataclass
class Layout:
    """Where the rectangles of a batch lie, by node, and how they are addressed: the same wherever corners are equal.

    It is filled while its first batch runs, by the device thread.
    """

    regions: Sequence[Region | None]
    nbytes: int = 0  # of what is known so far
    _known: dict[Hashable, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Count the regions."""
        held = (region for region in self.regions if region is not None)
        self.nbytes += sum(at.nbytes for region in held for at in (region.low, region.high, region.start))

    def remember(self, key: Hashable, find: Callable[[], T]) -> T:
        """Return what was found before under a key."""
        if key not in self._known:
            self._known[key] = found = find()
            parts = found if isinstance(found, tuple) else (found,)
            self.nbytes += sum(part.nbytes for part in parts if isinstance(part, Tensor))
        return cast(T, self._known[key])


class Batch:
    """One batch of rows on its way through the network."""

    def __init__(self, recording: Recording, layout: Layout, cleans: Sequence[Clean], lengths: Sequence[int]) -> None:
        """Take the operators, where rows differ, and the pictures with their numbers of rows."""
        self.nodes, self.done_with = recording.nodes, recording.done_with
        self.layout, self.regions = layout, list(layout.regions)
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
            for i in self.done_with.get(node.index, ()):
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
        if region is None:
            raise ValueError(f"node {i} is not reached")
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
        start, size = region.read_by(rule)
        offset = held.start - start
        if size == held.size and not offset.any():
            return self.values[source]
        out = self._cut([clean.map(source, rule.fill) for clean in self.cleans], start, size, ("read", node.index))
        self._paste(out, self.values[source], offset, ("read", node.index))
        return self._as(out, source)

    def _cut(self, maps: Sequence[CleanMap], start: Ints, size: Pair, key: Hashable) -> Tensor:
        where = self.layout.remember(("cut", key), lambda: lines(maps[0], start, size))
        return cut(maps, self.lengths, where, size)

    def _paste(self, into: Tensor, value: Tensor, offset: Ints, key: Hashable) -> None:
        patch = channels_last(value)
        bounds, size = (into.shape[1], into.shape[2]), (patch.shape[1], patch.shape[2])
        paste(into, patch, self.layout.remember(("paste", key), lambda: places(offset, bounds, size, into.device)))

    def _aligned(self, i: int, region: Region, reader: Hashable) -> Tensor:
        """Return a node's values in another region that holds its own."""
        held = self._region(i)
        if held.same(region):
            return self.values[i]
        out = self._cut([clean.within(i) for clean in self.cleans], region.start, region.size, (reader, i))
        self._paste(out, self.values[i], held.start - region.start, (reader, i))
        return self._as(out, i)

    def _joined(self, node: Node, region: Region) -> Tensor:
        """Return channels of several regions side by side, each pasted into the clean map of all of them."""
        out = self._cut([clean.within(node.index) for clean in self.cleans], region.start, region.size, node.index)
        channel = 0
        for ref in node.args[0]:  # Inputs do not serve here: a tensor may be joined to itself.
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
        before = self._cut([clean.within(source) for clean in self.cleans], held.start, held.size, node.index)
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
