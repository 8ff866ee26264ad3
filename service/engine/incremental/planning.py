"""Exact forwards of pictures with one changed rectangle: only what the rectangle can reach is computed again.

Nakandala et al. 2019, "Incremental and approximate inference for faster occlusion-based deep CNN explanations"
(Krypton), for any network whose operators can be written down (`incremental_graph`). Of the clean picture every map
that some operator needs as surroundings is kept. A row carries the changed rectangle of each map: surroundings are cut
out of the clean map, the rectangle is pasted in, and the operator runs without padding (`incremental_regions`). From
where rectangles cover most of the maps on, the network runs on whole ones.
"""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from service.engine.incremental.graph import Joined, Local, Node, NotIncremental, Pair, Pooled, Shifted, Window, record
from service.engine.incremental.regions import (
    Batch,
    Clean,
    Ints,
    Key,
    Layout,
    Map,
    Region,
    cut,
    larger,
    lines,
    reading,
)
from service.engine.network.variants import EXACT

__all__ = ["Clean", "Incremental", "NotIncremental", "Plan"]

LEAST_LOCAL = 1 / 3  # of the multiplications have to lie before the first operator that reads whole maps
_ROWS = 4  # of a calibrating batch
_ROUNDS = 8  # at most; what others do on the machine only adds time, so that the least counts
_CALIBRATING_S = 1.0  # after which no round begins
_LAYOUTS = 32  # of batches, kept for the next picture on the same grid
_USUAL = 24  # rows of a batch: with more, those at borders wait for those in the middle
_LARGEST = 24 * 2**20  # bytes of a tensor: what malloc gets from the system anew each time costs more than its use


@dataclass(frozen=True)
class Plan:
    """How rectangles of one size are worked off."""

    window: Pair
    step: int  # corners are multiples of it; 1: anywhere
    switch: int  # the operator from which on maps are whole
    share: float  # of a plain row's multiplications that a row needs
    gain: float  # plain rows' expected time over ours
    rows: int  # of a batch: a good number
    row_bytes: int  # that a row needs at the most crowded moment


class Incremental:
    """A network as a list of operators, whose outputs for changed rectangles are computed from a clean picture's maps.

    Use it from one thread at a time. The network's parameters are shared, but for convolutions' weights that do not
    lie channels last: of these there are copies.
    """

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        self.nodes = record(module, example)
        self.size: Pair = (example.shape[2], example.shape[3])
        self.furthest, reason = self._furthest()
        self.macs = sum(node.macs for node in self.nodes)
        local = sum(node.macs for node in self.nodes[: self.furthest])
        if not self.macs or local < LEAST_LOCAL * self.macs:
            share = local / max(self.macs, 1)
            raise NotIncremental(f"{reason}; {share:.0%} of the multiplications come before it")
        self.seconds = [0.0] * len(self.nodes)  # of a row, by node
        self.copying = 0.0  # seconds a byte of a rectangle
        self._plans: dict[tuple[Pair, int], Plan] = {}
        self._layouts: dict[Hashable, Layout] = {}
        self._needs: dict[int, dict[Key, tuple[Pair, Pair]]] = {}  # by switch
        self._last: dict[int, list[int]] = {}  # nodes that nobody reads after a node
        readers = {i: node.index for node in self.nodes for i in node.inputs}
        for read, reader in readers.items():
            self._last.setdefault(reader, []).append(read)

    @classmethod
    def of(
        cls, module: nn.Module, example: Tensor, measuring: Callable[[Callable[[], None]], None] | None = None
    ) -> "Incremental":
        """Write down a network in evaluation mode, in float32, and prove on seeded changes that outputs stay the same.

        Args:
            module: maps (N, 3, H, W) to (N, K).
            example: (N, 3, H, W), of the only size that is supported from then on.
            measuring: runs a function in the thread that will do the work; default: this one.

        Raises:
            NotIncremental: operators read whole maps, depend on values, or the proof fails.
        """
        with torch.inference_mode():
            try:
                built = cls(module, example)
                built._calibrate(example, measuring or (lambda call: call()))
                error = built._probe(module, example)
            except (RuntimeError, TypeError, LookupError) as failure:
                raise NotIncremental(f"an operator cannot be repeated: {failure}") from failure
        if not error <= EXACT:
            raise NotIncremental(f"outputs differ by {error:.1e} of the largest one")
        return built

    # What callers do

    def plan(self, window: Pair, step: int = 1) -> Plan:
        """Return how to work off rectangles (h, w) whose corners are multiples of `step`; kept for the next caller."""
        key = (window, step)
        if key not in self._plans:
            self._plans[key] = self._best(window, step)
        return self._plans[key]

    def clean(self, image: Tensor, plan: Plan) -> Clean:
        """Run one forward of a picture (1, 3, H, W); keep what rows of the plan need of it."""
        with torch.inference_mode():
            return self._clean(image, plan.switch)

    def outputs(self, plan: Plan, cleans: Sequence[Clean], of: Tensor, corners: Tensor, patches: Tensor) -> Tensor:
        """Return the outputs (N, K) of pictures with one rectangle replaced.

        Args:
            plan: of the patches' size.
            cleans: pictures, kept for this plan.
            of: (N,) which of the pictures a row changes.
            corners: (N, 2) y, x of the rectangle's upper left pixel.
            patches: (N, 3, h, w) what the rectangle shows, inside the picture.
        """
        n, (h, w) = len(patches), patches.shape[2:]
        owner, at = of.cpu().numpy(), corners.cpu().numpy().astype(np.int64)
        if any(clean.switch != plan.switch for clean in cleans):
            raise ValueError("these maps were kept for another plan")
        if not n or at.shape != (n, 2) or (at < 0).any() or (at + np.array([h, w]) > self.size).any():
            raise ValueError(f"each of the {n} rectangles has to lie inside the picture")
        order = np.argsort(owner, kind="stable")
        used, lengths = np.unique(owner, return_counts=True)
        with torch.inference_mode():
            if not (order[1:] > order[:-1]).all():
                patches = patches[torch.from_numpy(order).to(patches.device)]
            pictures = [cleans[i] for i in used.tolist()]
            region = Region(at[order], at[order] + np.array([h, w]), at[order], (h, w))
            found = self._batch(pictures, lengths.tolist(), region).run(patches)
            result = torch.empty_like(found)
            result[torch.from_numpy(order).to(found.device)] = found
        return result

    def _batch(self, cleans: Sequence[Clean], lengths: Sequence[int], first: Region) -> Batch:
        return Batch(self.nodes, self._last, self._layout(cleans[0].switch, first), cleans, lengths)

    def _layout(self, switch: int, first: Region) -> Layout:
        key = switch, first.size, first.start.tobytes()
        layout = self._layouts.pop(key, None) or Layout(self.regions(switch, first))
        self._layouts[key] = layout  # as the last one used
        if len(self._layouts) > _LAYOUTS:
            del self._layouts[next(iter(self._layouts))]
        return layout

    # Planning

    def _furthest(self) -> tuple[int, str]:
        """Return the first node that needs whole maps, and why."""
        for node in self.nodes[1:]:
            if node.rule is None:
                kinds = {self.nodes[i].map for i in node.inputs}
                why = "combines maps with values of whole maps" if len(kinds) > 1 else "reads whole maps"
                return node.index, f"operator {node.index} of {len(self.nodes) - 1}, {node.name}, {why}"
        return len(self.nodes), "no operator reads whole maps"

    def _best(self, window: Pair, step: int) -> Plan:
        sides = min(window[0], self.size[0]), min(window[1], self.size[1])
        ys, xs = (_spread(0, s - k, step, 12) for s, k in zip(self.size, sides, strict=True))
        corners = np.stack(np.meshgrid(ys, xs, indexing="ij"), 2).reshape(-1, 2)
        batches = [
            self.regions(self.furthest, Region(at, at + sides, at, sides))
            for at in (corners[part] for part in _alike(corners, sides, self.size, _USUAL))
        ]
        regional = np.zeros(len(self.nodes))
        for node in self.nodes[1 : self.furthest]:
            for regions in batches:
                part = self.part(node, regions)
                regional[node.index] += self.seconds[node.index] * part + self.copied(node, regions) * self.copying
        regional /= len(batches)
        whole = np.array(self.seconds)
        costs = [
            regional[:t].sum() + whole[t:].sum() + self._bytes_of(self.crossing(t)) * self.copying
            for t in range(1, self.furthest + 1)
        ]
        switch = int(np.argmin(costs)) + 1
        sizes = [self._bytes(switch, regions) for regions in batches]
        largest, peak = max(size for size, _ in sizes), max(size for _, size in sizes)
        return Plan(
            window=window,
            step=step,
            switch=switch,
            share=sum(self._macs(switch, regions) for regions in batches) / len(batches) / self.macs,
            gain=float(whole.sum() / costs[switch - 1]),
            rows=int(min(_USUAL, max(1, _LARGEST // largest))),
            row_bytes=peak,
        )

    def share(self, plan: Plan, corners: Tensor, rows: int | None = None) -> float:
        """Return the share of plain rows' multiplications that rectangles at these corners (N, 2) need.

        They run in `batches` of at most so many rows. With a single one each, and a plan of `furthest`, this is the
        least that any way of working can reach.
        """
        at, sides = corners.numpy().astype(np.int64), plan.window
        parts = _alike(at, sides, self.size, rows or plan.rows)
        macs = 0.0
        for i in parts:
            regions = self.regions(plan.switch, Region(at[i], at[i] + sides, at[i], sides))
            macs += len(i) * self._macs(plan.switch, regions)
        return macs / (len(at) * self.macs)

    def batches(self, plan: Plan, corners: Tensor) -> list[Tensor]:
        """Return indices of rectangles at these corners (N, 2), dealt out into batches of alike ones.

        Rows of a batch have regions of one size, and near a border of the picture there is less to compute.
        """
        at = corners.cpu().numpy()
        return [torch.from_numpy(part) for part in _alike(at, plan.window, self.size, plan.rows)]

    @staticmethod
    def part(node: Node, regions: Sequence[Region | None]) -> float:
        """Return the share of a node's outputs that is computed."""
        region = regions[node.index]
        return math.prod(region.size) / math.prod(node.size) if region is not None else 1.0

    def _macs(self, switch: int, regions: Sequence[Region | None]) -> float:
        before = sum(node.macs * self.part(node, regions) for node in self.nodes[:switch])
        return before + sum(node.macs for node in self.nodes[switch:])

    def _bytes_of(self, nodes: Sequence[int]) -> int:
        return sum(4 * math.prod(self.nodes[i].shape) for i in nodes if self.nodes[i].map)

    def _bytes(self, switch: int, regions: Sequence[Region | None]) -> tuple[int, int]:
        """Return the bytes of a row's largest rectangle, and of all that are alive at the most crowded moment."""
        largest = peak = alive = 0
        held: dict[int, int] = {}
        for node in self.nodes:
            whole, region = 4 * math.prod(node.shape), regions[node.index]
            inside = region is not None and node.index < switch
            own = round(whole * self.part(node, regions)) if inside else whole
            window = self.copied(node, regions) if inside and node.index else 0
            if node.index == switch:
                window = self._bytes_of(self.crossing(switch))
            largest = max(largest, own, window)
            held[node.index] = own
            alive += own
            peak = max(peak, alive + window)
            for i in self._last.get(node.index, ()):
                alive -= held.pop(i)
        return largest, peak

    def crossing(self, switch: int) -> list[int]:
        """Return the nodes before the switch that are read from there on."""
        return sorted({i for node in self.nodes[switch:] for i in node.inputs if i < switch})

    def copied(self, node: Node, regions: Sequence[Region | None]) -> int:
        """Return the bytes of the surroundings that a row's operator needs."""
        region = regions[node.index]
        if isinstance(node.rule, Window) and region is not None and not node.rule.pointwise:
            size = reading(node.rule, region)[1]
            return 4 * math.prod(self.nodes[node.inputs[0]].shape[:-2]) * math.prod(size)
        if region is not None and len(node.inputs) > 1:
            moved = [r for i in node.inputs if (r := regions[i]) is not None and not r.same(region)]
            return 4 * math.prod(node.shape[:-2]) * math.prod(region.size) * min(len(moved), 1)
        return 0

    def regions(self, switch: int, first: Region) -> list[Region | None]:
        """Return what a change of the picture reaches, by node; None where values are not maps."""
        rows = len(first.low)
        found: list[Region | None] = [first]
        for node in self.nodes[1:]:
            given = [r for i in node.inputs if (r := found[i]) is not None]
            if not node.map:
                found.append(None)
            elif node.index >= switch or all(
                r.size == self.nodes[i].size for i, r in zip(node.inputs, given, strict=True)
            ):
                found.append(Region.whole(rows, node.size))
            elif isinstance(node.rule, Window):
                found.append(given[0].through(node.rule, node.size))
            elif isinstance(node.rule, Shifted):
                found.append(given[0].shifted(node.rule.before))
            else:
                found.append(Region.union(given, node.size))
        return found

    # What is kept of a picture

    def needs(self, switch: int) -> dict[Key, tuple[Pair, Pair]]:
        """Return the maps that rows need, with the borders before and after them."""
        if switch not in self._needs:
            self._needs[switch] = self._needed(switch)
        return self._needs[switch]

    def _needed(self, switch: int) -> dict[Key, tuple[Pair, Pair]]:
        found: dict[Key, tuple[Pair, Pair]] = {}
        plain = {i for i in self.crossing(switch) if self.nodes[i].map}
        growths = self._growths()
        for node in self.nodes[1:switch]:
            rule = node.rule
            if isinstance(rule, Window) and not rule.pointwise:
                source = self.nodes[node.inputs[0]]
                before = (max(rule.before[0], 0), max(rule.before[1], 0))
                last = [
                    (n - 1) * s + r - b
                    for n, s, r, b in zip(node.size, rule.stride, rule.reach, rule.before, strict=True)
                ]
                after = (max(last[0] - source.size[0], 0), max(last[1] - source.size[1], 0))
                key = source.index, rule.fill if any(before + after) else 0.0
                known = found.get(key, ((0, 0), (0, 0)))
                found[key] = larger(known[0], before), larger(known[1], after)
            elif isinstance(rule, Pooled):
                plain.add(node.inputs[0])
            elif node.map and any(growths[i] != growths[node.index] for i in node.inputs):
                if isinstance(rule, Joined):
                    plain.add(node.index)
                elif isinstance(rule, Local):
                    plain |= {i for i in node.inputs if growths[i] != growths[node.index]}
        kept = {i for i, _ in found}
        return found | {(i, 0.0): ((0, 0), (0, 0)) for i in plain - kept}

    def _growths(self) -> list[tuple[int, ...]]:
        """Return a mark by node, such that nodes with one mark have equal regions whatever the change.

        It is the last node where the region did more than grow, and by how much it has grown to each side since.
        """
        marks: list[tuple[int, ...]] = [(0, 0, 0, 0, 0)]
        for node in self.nodes[1:]:
            own: tuple[int, ...] = (node.index, 0, 0, 0, 0)
            given = [marks[i] for i in node.inputs]
            rule = node.rule
            if isinstance(rule, Window):
                low, high = [r - 1 - b for r, b in zip(rule.reach, rule.before, strict=True)], rule.before
                grows = rule.stride == (1, 1) and node.size == self.nodes[node.inputs[0]].size
                if grows and min(*low, *high) >= 0:
                    own = (given[0][0], *(a + b for a, b in zip(given[0][1:], (*low, *high), strict=True)))
            elif isinstance(rule, Local | Joined) and node.map and len({mark[0] for mark in given}) == 1:
                own = (given[0][0], *(max(a) for a in zip(*(mark[1:] for mark in given), strict=True)))
            marks.append(own)
        return marks

    def _clean(self, image: Tensor, switch: int) -> Clean:
        needs = self.needs(switch)
        maps: dict[Key, Map] = {}
        means: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        for node in self.nodes:
            if node.index:
                value = node.call([values[i] for i in node.inputs], 1)
            else:
                value = image.contiguous(memory_format=torch.channels_last)
            values[node.index] = value
            for fill in (0.0, -math.inf):
                if (node.index, fill) in needs:
                    maps[node.index, fill] = Map.of(value, fill, *needs[node.index, fill])
            if isinstance(node.rule, Pooled) and node.index < switch:
                means[node.index] = value.clone()
            for i in self._last.get(node.index, ()):
                del values[i]
        return Clean(values[len(self.nodes) - 1], switch, maps, means)

    # Measuring and proving

    def _calibrate(self, example: Tensor, measuring: Callable[[Callable[[], None]], None]) -> None:
        """Measure each operator on whole maps, and the cutting of rectangles, one short step at a time."""
        rows = example[:1].expand(_ROWS, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        self.seconds = [math.inf] * len(self.nodes)
        self.seconds[0] = 0.0
        began = _now(rows)
        for i in range(_ROUNDS):
            if i > 1 and _now(rows) - began > _CALIBRATING_S:
                break
            measuring(partial(self._time_nodes, rows))
        measuring(partial(self._time_cutting, rows))

    @torch.inference_mode()
    def _time_nodes(self, rows: Tensor) -> None:
        values = {0: rows}
        for node in self.nodes[1:]:
            started = _now(rows)
            values[node.index] = node.call([values[i] for i in node.inputs], _ROWS, overwrite=True)
            self.seconds[node.index] = min(self.seconds[node.index], (_now(rows) - started) / _ROWS)
            for i in self._last.get(node.index, ()):
                del values[i]

    @torch.inference_mode()
    def _time_cutting(self, rows: Tensor) -> None:
        clean = Map(rows.new_zeros(64, 64, 64), (0, 0))
        start = np.arange(64)[:, None].repeat(2, 1) % 48
        times = []
        for _ in range(_ROUNDS):
            started = _now(rows)
            copied = cut([clean], [64], lines(clean, start, (16, 16)), (16, 16))
            times.append((_now(rows) - started) / (4 * copied.numel()))
        self.copying = min(times)

    def _probe(self, module: nn.Module, example: Tensor) -> float:
        """Return the largest error over seeded changes, relative to the largest output."""
        generator = torch.Generator().manual_seed(0)
        (height, width), worst = self.size, 0.0
        for side in (max(height // 8, 1), max(height // 3, 1)):
            h, w = min(side, height), min(side, width)
            ys, xs = height - h, width - w
            corners = torch.tensor([[0, 0], [ys, xs], [ys // 2, xs // 3], [ys // 3, xs]])
            patches = torch.randn(4, 3, h, w, generator=generator).to(example)
            images = [example[:1], example[-1:].flip(3)]
            rows = torch.cat([images[0], images[0], images[1], images[1]])
            for row, (y, x) in enumerate(corners.tolist()):
                rows[row, :, y : y + h, x : x + w] = patches[row]
            expected = module(rows)
            at = corners.numpy()
            region = Region(at, at + np.array([h, w]), at, (h, w))
            for switch in {self.plan((h, w)).switch, self.furthest}:
                cleans = [self._clean(image, switch) for image in images]
                found = self._batch(cleans, [2, 2], region).run(patches)
                error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
                worst = max(worst, float(error.nan_to_num(nan=math.inf)))
        return worst


def _spread(first: int, last: int, step: int, most: int) -> Ints:
    """Return at most so many multiples of the step between two numbers, evenly spread."""
    every = np.arange(first, last + 1, step, dtype=np.int64)
    return every if len(every) <= most else every[np.linspace(0, len(every) - 1, most).astype(np.int64)]


def _alike(corners: Ints, window: Pair, size: Pair, rows: int) -> list[Ints]:
    """Return indices of corners (N, 2) in batches of rectangles that are about as far from the picture's middle."""
    away = np.abs(corners + (np.array(window) - np.array(size)) / 2)
    bands = np.array_split(np.lexsort((away[:, 1], away[:, 0])), max(1, round(math.sqrt(len(corners) / rows))))
    order = [band[np.argsort(away[band, 1], kind="stable")][:: (-1) ** i] for i, band in enumerate(bands)]
    return np.array_split(np.concatenate(order), -(-len(corners) // rows))


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()
