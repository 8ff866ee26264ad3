"""Which part of each map a change of the picture reaches: regions of rows, and their way through the operators.

Regions are given as tensors are indexed, (y, x). All rows of a batch have regions of one size, so that they run as one
batch; where a row needs less, or is at a border, its region is moved inside and holds values that did not change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.incremental.recording.graph import Joined, Local, Node, Pair, Recording, Shifted, Window

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """Where rows differ from the clean map: within [low, high); [start, start + size) is held of it."""

    low: Ints  # (N, 2): y, x
    high: Ints  # (N, 2)
    start: Ints  # (N, 2)
    size: Pair

    @staticmethod
    def of(corners: Ints, size: Pair) -> "Region":
        """Return the region of rectangles (h, w) whose upper left values are at corners (N, 2)."""
        return Region(corners, corners + np.array(size), corners, size)

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

    @staticmethod
    def union(regions: Sequence["Region"], bounds: Pair) -> "Region":
        """Return the smallest region that holds all of them."""
        if len(regions) == 1:
            return regions[0]
        low = np.minimum.reduce([r.low for r in regions])
        return Region.around(low, np.maximum.reduce([r.high for r in regions]), bounds)

    def same(self, other: "Region") -> bool:
        """Whether both hold the same rectangles."""
        return self.size == other.size and np.array_equal(self.start, other.start)

    def through(self, window: Window, bounds: Pair) -> "Region":
        """Return the region of an output that a change here reaches; `bounds` is the output's size."""
        stride, reach, before = np.array(window.stride), np.array(window.reach), np.array(window.before)
        low = -((reach - 1 - before - self.low) // stride)  # ceil((low + before - reach + 1) / stride)
        high = (self.high - 1 + before) // stride + 1
        low = np.clip(low, 0, np.array(bounds) - 1)  # Where nothing is reached, the region is empty, at the border.
        return Region.around(low, np.clip(high, low, bounds), bounds)

    def shifted(self, by: Pair) -> "Region":
        """Return the region in a map with a border."""
        move = np.array(by)
        return Region(self.low + move, self.high + move, self.start + move, self.size)

    def read_by(self, window: Window) -> tuple[Ints, Pair]:
        """Return what an operator reads for this region of its output: where it begins, (N, 2), and its size."""
        start = self.start * np.array(window.stride) - np.array(window.before)
        h, w = ((n - 1) * s + r for n, s, r in zip(self.size, window.stride, window.reach, strict=True))
        return start, (h, w)


def reached(recording: Recording, switch: int, first: Region) -> list[Region | None]:
    """Return what a change of the picture reaches, by node; None where values are not maps.

    From the node `switch` on, and wherever all inputs are whole, maps are whole.
    """
    rows, nodes = len(first.low), recording.nodes
    found: list[Region | None] = [first]
    for node in nodes[1:]:
        given = [r for i in node.inputs if (r := found[i]) is not None]
        if not node.is_map:
            found.append(None)
        elif node.index >= switch or all(r.size == nodes[i].size for i, r in zip(node.inputs, given, strict=True)):
            found.append(Region.whole(rows, node.size))
        elif isinstance(node.rule, Window):
            found.append(given[0].through(node.rule, node.size))
        elif isinstance(node.rule, Shifted):
            found.append(given[0].shifted(node.rule.before))
        else:
            found.append(Region.union(given, node.size))
    return found


def covered(node: Node, regions: Sequence[Region | None]) -> float:
    """Return how much of a node's output its region covers, 0..1."""
    region = regions[node.index]
    return math.prod(region.size) / math.prod(node.size) if region is not None else 1.0


def growths(recording: Recording) -> list[tuple[int, ...]]:
    """Return a mark by node, such that nodes with one mark have equal regions whatever the change.

    It is the last node where the region did more than grow, and by how much it has grown to each side since.
    """
    nodes = recording.nodes
    marks: list[tuple[int, ...]] = [(0, 0, 0, 0, 0)]
    for node in nodes[1:]:
        own: tuple[int, ...] = (node.index, 0, 0, 0, 0)
        given = [marks[i] for i in node.inputs]
        rule = node.rule
        if isinstance(rule, Window):
            low, high = [r - 1 - b for r, b in zip(rule.reach, rule.before, strict=True)], rule.before
            grows = rule.stride == (1, 1) and node.size == nodes[node.inputs[0]].size
            if grows and min(*low, *high) >= 0:
                own = (given[0][0], *(a + b for a, b in zip(given[0][1:], (*low, *high), strict=True)))
        elif isinstance(rule, Local | Joined) and node.is_map and len({mark[0] for mark in given}) == 1:
            own = (given[0][0], *(max(a) for a in zip(*(mark[1:] for mark in given), strict=True)))
        marks.append(own)
    return marks
