"""Forwards on CUDA recorded once for each of a few batch sizes, and replayed.

Nothing in this file has run on a GPU yet: only its logic is tested, with a recorder that stands in for CUDA's.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def bucket(rows: int) -> int:
    """Return the least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that so many rows fit in."""
    power = 1 << (rows - 1).bit_length()
    return power * 3 // 4 if power > 2 and rows <= power * 3 // 4 else power


def buckets(most: int) -> list[int]:
    """Return all sizes that batches of up to so many rows are filled up to."""
    return sorted({bucket(rows) for rows in range(1, most + 1)})


class Recorded:
    """A network whose forward is recorded once for each size of a batch and then replayed.

    On CUDA that takes the launching of hundreds of small kernels off the processor. One thread at a time.
    """

    def __init__(self, module: nn.Module, record: "Record | None" = None) -> None:
        self._module, self._record = module, record or CUDAGraphs()
        self._recordings: dict[tuple[int, ...], tuple[Tensor, Tensor, Callable[[], object]]] = {}

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the outputs of rows (N, 3, H, W)."""
        shape = tuple(rows.shape)
        if shape not in self._recordings:
            given = rows.clone()  # replays read from here
            self._recordings[shape] = given, *self._record(partial(self._module, given))
        given, found, replay = self._recordings[shape]
        given.copy_(rows)
        replay()
        return found.clone()  # the next replay overwrites it


Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], object]]]
"""Records a call; returns the tensor its result lies in, and what repeats it."""


class CUDAGraphs:
    """Records calls as CUDA graphs. They share one pool of memory: none runs beside another, and results are copied."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        """Record a call."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their algorithms and take their workspaces before
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads upload pictures meanwhile, which a recording that watches all of them would not survive.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            found = call()
        return found, graph.replay
