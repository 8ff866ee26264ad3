"""What is kept of a clean picture: the maps that rows need as surroundings, with borders where operators read them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from service.engine.incremental.recording.graph import FLOAT, Joined, Local, Node, Pair, Pooled, Recording, Window
from service.engine.incremental.rectangles import CleanMap
from service.engine.incremental.regions import growths

Key = tuple[int, float]
"""Of a kept map: its node, and what its border is filled with."""

Needs = Mapping[Key, tuple[Pair, Pair]]
"""The maps to keep, with the sizes of the borders before and after them."""


@dataclass(frozen=True)
class Clean:
    """What is kept of a picture, for the switch of one plan."""

    outputs: Tensor  # (1, K)
    switch: int
    maps: Mapping[Key, CleanMap]
    means: Mapping[int, Tensor]  # by pooling node, (1, C, ...)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        rest = [self.outputs, *self.means.values()]
        return sum(m.nbytes for m in self.maps.values()) + sum(t.numel() * t.element_size() for t in rest)

    def map(self, node: int, fill: float = 0.0) -> CleanMap:
        """Return a node's map, with a border of `fill` where one is needed."""
        return self.maps[node, fill] if (node, fill) in self.maps else self.maps[node, 0.0]

    def within(self, node: int) -> CleanMap:
        """Return a node's map for who reads inside of it only, whatever its border."""
        return self.maps[node, 0.0] if (node, 0.0) in self.maps else self.maps[node, -math.inf]


def needs(recording: Recording, switch: int) -> Needs:
    """Return the maps that rows need which run on regions before the node `switch`, and on whole maps from there on."""
    nodes = recording.nodes
    found: dict[Key, tuple[Pair, Pair]] = {}
    borderless = {i for i in recording.crossing(switch) if nodes[i].is_map}
    marks = growths(recording)
    for node in nodes[1:switch]:
        rule = node.rule
        if isinstance(rule, Window) and not rule.pointwise:
            source = nodes[node.inputs[0]]
            before, after = _borders(node, rule, source)
            key = source.index, rule.fill if any(before + after) else 0.0
            known = found.get(key, ((0, 0), (0, 0)))
            found[key] = _larger(known[0], before), _larger(known[1], after)
        elif isinstance(rule, Pooled):
            borderless.add(node.inputs[0])
        elif node.is_map:
            grown = {i for i in node.inputs if marks[i] != marks[node.index]}
            if isinstance(rule, Joined) and grown:
                borderless.add(node.index)
            elif isinstance(rule, Local):
                borderless |= grown
    kept = {i for i, _ in found}
    return found | {(i, 0.0): ((0, 0), (0, 0)) for i in borderless - kept}


def _borders(node: Node, rule: Window, source: Node) -> tuple[Pair, Pair]:
    """Return how far an operator reads beyond the map, before and after it."""
    before = max(rule.before[0], 0), max(rule.before[1], 0)
    ends = [(n - 1) * s + r - b for n, s, r, b in zip(node.size, rule.stride, rule.reach, rule.before, strict=True)]
    return before, (max(ends[0] - source.size[0], 0), max(ends[1] - source.size[1], 0))


def _larger(a: Pair, b: Pair) -> Pair:
    return max(a[0], b[0]), max(a[1], b[1])


def nbytes(recording: Recording, needed: Needs, switch: int) -> int:
    """Return the bytes of a `Clean`, before there is one."""
    values = math.prod(recording.nodes[-1].shape)
    for (node, _), (before, after) in needed.items():
        *channels, height, width = recording.nodes[node].shape
        values += math.prod(channels) * (before[0] + height + after[0]) * (before[1] + width + after[1])
    pooled = [node for node in recording.nodes[:switch] if isinstance(node.rule, Pooled)]
    return FLOAT * (values + sum(math.prod(node.shape) for node in pooled))


def keep(recording: Recording, needed: Needs, switch: int, image: Tensor) -> Clean:
    """Run one forward of a picture (1, 3, H, W), and keep what is needed of it."""
    maps: dict[Key, CleanMap] = {}
    means: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    for node in recording.nodes:
        if node.index:
            value = node.call([values[i] for i in node.inputs], 1)
        else:
            value = image.contiguous(memory_format=torch.channels_last)
        values[node.index] = value
        for fill in (0.0, -math.inf):
            if (node.index, fill) in needed:
                maps[node.index, fill] = CleanMap.of(value, fill, *needed[node.index, fill])
        if isinstance(node.rule, Pooled) and node.index < switch:
            means[node.index] = value.clone()
        for i in recording.done_with.get(node.index, ()):
            del values[i]
    return Clean(values[len(recording.nodes) - 1], switch, maps, means)
