"""What working takes: the seconds that plans are made from."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from service.engine.incremental.recording.graph import FLOAT, RESHAPING, Node, Recording
from service.engine.incremental.rectangles import CleanMap, cut, lines
from service.machine.accelerators import synchronise

T = TypeVar("T")
_ROWS = 4  # of a calibrating batch
# Other work on the machine only adds time, so that of several rounds the least time counts.
_ROUNDS = 8
_CALL_S = 3e-6  # of an operator that has nothing to do, a row
_CALIBRATING_S = 1.0  # No round begins after so long, but for the second one.


@dataclass(frozen=True)
class Rates:
    """What one core does in a second, with one kind of instructions."""

    dense: float  # multiplications, of convolutions and matrices
    depthwise: float  # multiplications, of convolutions with a filter for each channel
    # Bytes that are read and written:
    convolved: float  # by convolutions
    rectified: float  # by functions of single values, in place
    moved: float  # by all else
    weights: float  # of a matrix, which is read once a batch
    copying: float  # of rectangles that are cut out


# By what PyTorch calls the processor's instructions: measured on efficientnet-lite0 and ResNet-18 at 224 pixels, in
# batches of four rows on one core; the AVX2 multiplications on Zen 3, all else on Sapphire Rapids.
SHIPPED = {
    "AVX512": Rates(75e9, 40e9, 8e9, 30e9, 10e9, 20e9, 12e9),
    "AVX2": Rates(38e9, 25e9, 7e9, 25e9, 8e9, 15e9, 9e9),
}


class OnDevice(Protocol):
    """Runs a short step, no longer than a batch, on the thread that owns the device, and returns its result."""

    def __call__(self, step: Callable[[], T], /) -> T:
        """Run a step."""
        ...


def here(step: Callable[[], T], /) -> T:
    """Run a step on the calling thread."""
    return step()


@dataclass(frozen=True)
class Costs:
    """Seconds that a network's operators and the copying between them take.

    Only their ratios decide which plan is best. A plan's gain is a ratio of them, too; `row` is compared with a batch's
    bound in seconds.
    """

    operators: tuple[float, ...]  # seconds of one row, by node, on whole maps
    copying: float  # seconds a byte of a rectangle that is cut out of a kept map

    @property
    def row(self) -> float:
        """Seconds of one row, all on whole maps."""
        return sum(self.operators)

    @staticmethod
    def estimated(recording: Recording) -> "Costs":
        """Return what operators should take on this processor, by arithmetic and the shipped rates of its instructions.

        One whose rates are not known is taken for the slower of the known ones: ratios differ by less than speeds.
        """
        rates = SHIPPED.get(torch.backends.cpu.get_cpu_capability(), SHIPPED["AVX2"])
        return Costs(tuple(_estimated(recording, node, rates) for node in recording.nodes), 1 / rates.copying)

    @staticmethod
    def measured(recording: Recording, example: Tensor, on_device: OnDevice = here) -> "Costs":
        """Return what operators on whole maps, and cutting rectangles, take on this machine.

        Each round is a step of its own, so that a device that serves meanwhile is held up for a few rows' time only.

        Args:
            recording: the network written down.
            example: (N, C, H, W), of which the first row is taken.
            on_device: runs a step on the thread that will do the work.
        """
        rows = example[:1].expand(_ROWS, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        rounds: list[list[float]] = []
        began = time.perf_counter()
        while len(rounds) < 2 or (len(rounds) < _ROUNDS and time.perf_counter() - began < _CALIBRATING_S):
            rounds.append(on_device(partial(_operators, recording, rows)))
        return Costs(
            operators=tuple(min(times) for times in zip(*rounds, strict=True)),
            copying=on_device(partial(_copying, rows)),
        )


def _estimated(recording: Recording, node: Node, rates: Rates) -> float:
    """Return the seconds of one row of an operator on whole maps."""
    if not node.index or node.name in RESHAPING:
        return 0.0
    moved = FLOAT * (math.prod(node.shape) + sum(math.prod(recording.nodes[i].shape) for i in node.inputs))
    if not node.macs:
        return _CALL_S + moved / (rates.rectified if node.inplace is not None else rates.moved)
    if not node.is_map:
        return _CALL_S + node.macs / rates.dense + FLOAT * node.macs / rates.weights / _ROWS
    alone = node.macs == math.prod(node.shape) * math.prod(node.argument("weight").shape[2:])
    return _CALL_S + node.macs / (rates.depthwise if alone else rates.dense) + moved / rates.convolved


@torch.inference_mode()
def _operators(recording: Recording, rows: Tensor) -> list[float]:
    """Return the seconds a row of each operator, in one forward."""
    values, times = {0: rows}, [0.0]
    for node in recording.nodes[1:]:
        started = _now(rows)
        values[node.index] = node.call([values[i] for i in node.inputs], len(rows), overwrite=True)
        times.append((_now(rows) - started) / len(rows))
        for i in recording.done_with.get(node.index, ()):
            del values[i]
    return times


@torch.inference_mode()
def _copying(like: Tensor) -> float:
    """Return the seconds a byte of cutting rectangles, each from a place of its own."""
    clean = CleanMap(like.new_zeros(64, 64, 64), (0, 0))
    start = np.arange(64)[:, None].repeat(2, 1) % 48
    times = []
    for _ in range(_ROUNDS):
        started = _now(like)
        copied = cut([clean], [64], lines(clean, start, (16, 16)), (16, 16))
        times.append((_now(like) - started) / (copied.element_size() * copied.numel()))
    return min(times)


def _now(x: Tensor) -> float:
    synchronise(x.device)
    return time.perf_counter()
