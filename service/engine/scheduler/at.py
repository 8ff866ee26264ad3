"""Rows that start at a layer as work for the device: those of all requests on one network and layer share a batch."""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from service.contract import At, Readout
from service.engine.scheduler.work import Network, RowsWork


class Tails(Protocol):
    """What the scheduler has to know of a network that is run from a layer on."""

    def prefix(self, layer: str, image: Tensor) -> Any:
        """Run a picture (1, C, H, W) up to a layer; return what the rest needs of it."""
        ...

    def outputs(self, layer: str, pieces: Sequence[tuple[Any, Tensor]]) -> Tensor:
        """Return answers (N, ...) to maps (n, C, h, w), each piece of them with its picture's prefix."""
        ...


class AtWork(RowsWork):
    """The outputs (count, K) of maps in a layer's place.

    It holds what is needed of the picture from its first row to its last. `shared` is equal for works whose rows may
    share a batch, given that layer.
    """

    def __init__(
        self,
        network: Network,
        tails: Tails,
        rows: At,
        shared: Hashable,
        *,
        cache_key: Hashable = None,
        readout: Readout | None = None,
    ) -> None:
        super().__init__(network, tuple(rows.image.shape[1:]), rows, cache_key=cache_key, readout=readout)
        self.key = ("at", id(network), rows.layer, shared)
        self.tails, self.image, self.layer, self.shared = tails, rows.image, rows.layer, shared
        self.prefix: Any = None

    def build(self, i: int, j: int) -> tuple[Any, Tensor]:
        """Return maps i to j; the first time, run the picture up to the layer."""
        if self.prefix is None:
            self.prefix = self.tails.prefix(self.layer, self.image)
        return self.prefix, self.rows_of.build(i, j)

    def together(self, pieces: Sequence[tuple[Any, Tensor]]) -> Sequence[Tensor]:
        """Return the outputs of each piece."""
        return torch.split(self.tails.outputs(self.layer, pieces), [len(maps) for _, maps in pieces])

    def release(self) -> None:
        """Free what is held of the picture."""
        self.prefix = None
