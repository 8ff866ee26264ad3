"""How rectangles of one size are best worked off: from arithmetic, and from what operators and copying cost.

Everything in here reads a recording and costs, and may be called from any thread.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.incremental.costs import Costs
from service.engine.incremental.recording.graph import FLOAT, Node, NotIncremental, Pair, Pooled, Recording, Window
from service.engine.incremental.regions import Ints, Region, covered, reached

LEAST_LOCAL = 1 / 3  # of the multiplications have to lie before the first operator that reads whole maps
_USUAL = 24  # Rows of a batch: with more, those at borders would wait for those in the middle.
_LARGEST = 24 * 2**20  # Bytes of a tensor: malloc takes larger ones anew from the system, which costs more than use.
_TRIED = 12  # places on each axis that a plan is tried at
Reached = Sequence[Region | None]
"""What a change of the picture reaches, by node; None where values are not maps."""


@dataclass(frozen=True)
class Plan:
    """How rectangles of one size are worked off."""

    window: Pair  # height, width
    step: int  # corners are multiples of it; 1: anywhere
    switch: int  # the node from which on maps are whole
    arithmetic: float  # a row's multiplications over a plain row's
    gain: float  # plain rows' expected time over that of rows so worked off
    rows: int  # a good number for a batch
    row_bytes: int  # that a row needs at the most crowded moment


def require_local(recording: Recording) -> None:
    """Raise `NotIncremental` where too little of the work lies before the first operator that reads whole maps."""
    macs = recording.macs
    local = sum(node.macs for node in recording.nodes[: recording.furthest])
    if not macs or local < LEAST_LOCAL * macs:
        fraction = local / max(macs, 1)
        raise NotIncremental(f"{recording.reason}; {fraction:.0%} of the multiplications come before it")


def best(recording: Recording, costs: Costs, window: Pair, step: int) -> Plan:
    """Return the plan of the least expected time, for rectangles (h, w) whose corners are multiples of `step`.

    Rectangles are tried all over the picture, in batches as they will run. Before the switch an operator costs its time
    on whole maps times what it computes of its output, and the copying of what lies around; from there on, all of it.
    """
    nodes, furthest = recording.nodes, recording.furthest
    batches = _tried(recording, window, step)
    regional = np.zeros(len(nodes))
    for regions in batches:
        for node in nodes[1:furthest]:
            computing = costs.operators[node.index] * covered(node, regions)
            regional[node.index] += computing + copied(recording, node, regions) * costs.copying
    regional /= len(batches)
    whole = np.array(costs.operators)
    by_switch = [
        regional[:t].sum() + whole[t:].sum() + _bytes_of(recording, recording.crossing(t)) * costs.copying
        for t in range(1, furthest + 1)
    ]
    switch = int(np.argmin(by_switch)) + 1
    sizes = [_row_bytes(recording, switch, regions) for regions in batches]
    largest, peak = max(size for size, _ in sizes), max(size for _, size in sizes)
    return Plan(
        window=window,
        step=step,
        switch=switch,
        arithmetic=sum(_macs(recording, switch, regions) for regions in batches) / len(batches) / recording.macs,
        gain=float(whole.sum() / by_switch[switch - 1]),
        rows=int(min(_USUAL, max(1, _LARGEST // largest))),
        row_bytes=peak,
    )


def arithmetic(recording: Recording, plan: Plan, corners: Ints, rows: int) -> float:
    """Return the multiplications of rectangles at corners (N, 2) over those of plain rows, in batches of `rows`."""
    macs = 0.0
    for i in dealt(corners, plan.window, recording.size, rows):
        macs += len(i) * _macs(
            recording, plan.switch, reached(recording, plan.switch, Region.of(corners[i], plan.window))
        )
    return macs / (len(corners) * recording.macs)


def dealt(corners: Ints, window: Pair, size: Pair, rows: int) -> list[Ints]:
    """Return indices of corners (N, 2) in batches of rectangles that are about as far from the picture's middle.

    Rows of a batch have regions of one size, and near a border of the picture there is less to compute.
    """
    away = np.abs(corners + (np.array(window) - np.array(size)) / 2)
    bands = np.array_split(np.lexsort((away[:, 1], away[:, 0])), max(1, round(math.sqrt(len(corners) / rows))))
    order = [band[np.argsort(away[band, 1], kind="stable")][:: (-1) ** i] for i, band in enumerate(bands)]
    return np.array_split(np.concatenate(order), -(-len(corners) // rows))


def copied(recording: Recording, node: Node, regions: Reached) -> int:
    """Return the bytes that a row's operator takes from the clean picture's maps: surroundings, or what it replaces."""
    region = regions[node.index]
    if isinstance(node.rule, Pooled) and (replaced := regions[node.inputs[0]]) is not None:
        return FLOAT * math.prod(recording.nodes[node.inputs[0]].shape[:-2]) * math.prod(replaced.size)
    if isinstance(node.rule, Window) and region is not None and not node.rule.pointwise:
        _, size = region.read_by(node.rule)
        return FLOAT * math.prod(recording.nodes[node.inputs[0]].shape[:-2]) * math.prod(size)
    if region is not None and len(node.inputs) > 1:
        moved = [r for i in node.inputs if (r := regions[i]) is not None and not r.same(region)]
        return FLOAT * math.prod(node.shape[:-2]) * math.prod(region.size) * min(len(moved), 1)
    return 0


def _tried(recording: Recording, window: Pair, step: int) -> list[Reached]:
    """Return what rectangles all over the picture reach, batch by batch."""
    sides = min(window[0], recording.size[0]), min(window[1], recording.size[1])
    ys, xs = (_spread(0, s - k, step, _TRIED) for s, k in zip(recording.size, sides, strict=True))
    corners = np.stack(np.meshgrid(ys, xs, indexing="ij"), 2).reshape(-1, 2)
    return [
        reached(recording, recording.furthest, Region.of(corners[i], sides))
        for i in dealt(corners, sides, recording.size, _USUAL)
    ]


def _spread(first: int, last: int, step: int, most: int) -> Ints:
    """Return at most so many multiples of the step between two numbers, evenly spread."""
    every = np.arange(first, last + 1, step, dtype=np.int64)
    return every if len(every) <= most else every[np.linspace(0, len(every) - 1, most).astype(np.int64)]


def _macs(recording: Recording, switch: int, regions: Reached) -> float:
    before = sum(node.macs * covered(node, regions) for node in recording.nodes[:switch])
    return before + sum(node.macs for node in recording.nodes[switch:])


def _bytes_of(recording: Recording, nodes: Sequence[int]) -> int:
    return sum(FLOAT * math.prod(recording.nodes[i].shape) for i in nodes if recording.nodes[i].is_map)


def _row_bytes(recording: Recording, switch: int, regions: Reached) -> tuple[int, int]:
    """Return the bytes of a row's largest rectangle, and of all that are alive at the most crowded moment.

    The patch is there twice: as the caller made it, and channels last.
    """
    first = regions[0]
    if first is None:
        raise ValueError("no box reaches the input")
    largest = peak = 0
    alive = FLOAT * math.prod(recording.nodes[0].shape[:-2]) * math.prod(first.size)
    held: dict[int, int] = {}
    for node in recording.nodes:
        whole, region = FLOAT * math.prod(node.shape), regions[node.index]
        inside = region is not None and node.index < switch
        own = round(whole * covered(node, regions)) if inside else whole
        around = copied(recording, node, regions) if 0 < node.index < switch else 0
        if node.index == switch:
            around = _bytes_of(recording, recording.crossing(switch))
        largest = max(largest, own, around)
        held[node.index] = own
        alive += own
        peak = max(peak, alive + around)
        for i in recording.done_with.get(node.index, ()):
            alive -= held.pop(i)
    return largest, peak
