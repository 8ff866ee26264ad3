"""Rows that start at a layer: the network from there on, as far as numbers show that it can be run alone.

What the network's own code raises on them is told as its failure, as where rows are pictures.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.contract import Layout
from service.engine.network.capture import ActivatedCapture, Done, recording
from service.engine.network.forms.adapted import joined
from service.engine.network.forms.addresses import Addresses
from service.engine.network.forms.failures import NoAnswer, answered, checked
from service.engine.network.forms.sizes import Kind, Sizes, maps_of
from service.engine.network.tails.replay import Noting, Prefix, Replaying, Start
from service.engine.network.variants import EXACT
from service.process import out_of_memory

_ROWS = 3  # that a way is tried with


@dataclass(frozen=True)
class Way:
    """How rows that start at a layer are run."""

    replays: bool  # what comes before the layer is not run again: one picture's is handed on
    expands: bool = False  # what goes around the layer is handed on once for each row, as not all of it broadcasts
    alone: bool = False  # nothing goes around the layer: rows of several pictures may share a batch


class Tails:
    """A network's tails. All but what is `known` runs on the device thread.

    Whatever runs the network raises `ModelFailed` where its own code fails.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        addresses: Addresses,
        pictures: Callable[[], Tensor],
        quiet: Callable[[], AbstractContextManager[None]],
        sizes: Sizes,
        table: Callable[[Tensor], Tensor] | None,
    ) -> None:
        """Prepare.

        Args:
            name: the model's.
            module: the network, with recording hooks.
            addresses: of its layers.
            pictures: makes two of them, (2, C, H, W), to try ways with.
            quiet: records nothing for gradients.
            sizes: how many rows it takes at once.
            table: what answers are compared in; None: as they are.
        """
        self.name, self.module, self.addresses = name, module, addresses
        self._pictures, self._quiet = pictures, quiet
        self._sizes, self._table = sizes, table
        self._ways: dict[str, Way] = {}

    def way(self, layer: str) -> Way:
        """Return how rows that start at a layer are run; the first time, it is found out."""
        if layer not in self._ways:
            self._ways[layer] = (
                Way(False) if self._sizes.most == 1 else answered(self.name, self.module, lambda: self._found(layer))
            )
        return self._ways[layer]

    def known(self, layer: str) -> Way | None:
        """Return how rows that start at a layer are run, where that is known already; any thread may ask."""
        return self._ways.get(layer)

    def prefix(self, layer: str, image: Tensor) -> Prefix:
        """Run a picture (1, C, H, W) up to a layer."""
        noting = Noting() if self.way(layer).replays else None
        return answered(self.name, self.module, lambda: self._prefix(layer, image, noting))

    def outputs(self, layer: str, pieces: Sequence[tuple[Prefix, Tensor]]) -> Tensor:
        """Return answers (N, ...) float32 to rows that start at a layer, one after the other.

        Args:
            layer: where they start.
            pieces: each a picture's prefix, and maps (n, C, h, w). Where the way `replays`, but not `alone`, they are
                all of one picture.
        """
        way = self.way(layer)

        def run(pieces: Sequence[tuple[Prefix, Tensor]]) -> list[Tensor]:
            found = answered(self.name, self.module, lambda: self._outputs(layer, way, pieces))
            return list(torch.split(found, [len(maps) for _, maps in pieces]))

        kind: Kind[tuple[Prefix, Tensor], Tensor] = maps_of(layer, self._table)
        found = self._sizes.run(kind, pieces, run)
        return found[0] if len(found) == 1 else joined(found)

    def _outputs(self, layer: str, way: Way, pieces: Sequence[tuple[Prefix, Tensor]]) -> Tensor:
        one = pieces[0][0]
        filled = [self._filled(layer, prefix.output, maps) for prefix, maps in pieces]
        rows = filled[0] if len(filled) == 1 else torch.cat(filled)
        if way.replays:
            try:
                return self._replayed(layer, one, rows, expands=way.expands)
            except (
                Exception,
                SystemExit,
            ) as error:  # what it calls depends on more than the picture, or it fails by itself
                if out_of_memory(error):
                    raise
        images = torch.cat([prefix.image.expand(len(maps), *prefix.image.shape[1:]) for prefix, maps in pieces])
        return self._whole(layer, images, rows)

    def _prefix(self, layer: str, image: Tensor, noting: Noting | None) -> Prefix:
        met: list[Prefix] = []

        def reached(output: Tensor) -> Tensor:
            met.append(Prefix(image, noting.settled() if noting is not None else [], output.clone()))
            raise Done

        modes, given = [noting] if noting is not None else [], image.clone()
        with self._quiet(), self._started(layer, reached, *modes), suppress(Done):
            self.module(given)
        if not met:
            raise NoAnswer(f"its forward does not come by layer {layer!r}, as it did when it was loaded")
        return met[0]

    def _filled(self, layer: str, output: Tensor, maps: Tensor) -> Tensor:
        """Return maps (n, C, h, w) as the layer answers with them, but for the axis of pictures: it is the first."""
        layout = self.addresses.layout(layer) or Layout("chw", (maps.shape[2], maps.shape[3]))
        return layout.filled(self.addresses.rows(layer, output), maps.to(output))

    def _given(self, layer: str, rows: Tensor) -> Tensor:
        """Return rows as the layer answers with them, in a copy, which the network may write to."""
        return self.addresses.back(layer, rows).clone()

    def _replayed(self, layer: str, prefix: Prefix, rows: Tensor, *, expands: bool) -> Tensor:
        """Run what is behind the layer."""
        replaying = Replaying(prefix, len(rows), expands=expands)

        def reached(_: Tensor) -> Tensor:
            replaying.over = True
            return self._given(layer, rows)

        with self._quiet(), self._started(layer, reached, replaying):
            outputs = self.module(prefix.image)  # of which nothing is computed
        return checked(outputs, len(rows), self.addresses.answer).float()

    def _whole(self, layer: str, images: Tensor, rows: Tensor) -> Tensor:
        """Run all of the network on a picture for each row."""
        given = images.clone()
        with self._quiet(), self._started(layer, lambda _: self._given(layer, rows)):
            outputs = self.module(given)
        return checked(outputs, len(rows), self.addresses.answer).float()

    @contextmanager
    def _started(
        self,
        layer: str,
        reached: Callable[[Tensor], Tensor],
        *modes: AbstractContextManager[object],
    ) -> Iterator[None]:
        tape = Start(layer, frozenset(self.addresses.repeated), reached)
        with ExitStack() as stack:
            stack.enter_context(recording(tape))
            for mode in modes:
                stack.enter_context(mode)
            if tape.activated:
                stack.enter_context(ActivatedCapture(tape))
            yield

    def _found(self, layer: str) -> Way:
        """Find the least that has to be run, by holding each way against all of the network for each row."""
        pictures = self._pictures()
        picture, other = pictures[:1], pictures[1:]
        try:
            mine, theirs = self._prefix(layer, picture, Noting()), self._prefix(layer, other, Noting())
        except (Exception, SystemExit):  # it does not run under a mode
            return Way(False)
        maps = self.addresses.maps(layer, mine.output)
        generator = torch.Generator().manual_seed(0)
        shares = torch.rand(_ROWS, 1, *maps.shape[2:], generator=generator).to(maps)
        rows = self._filled(layer, mine.output, maps * shares)
        expected = self._whole(layer, picture.expand(_ROWS, *picture.shape[1:]), rows)

        def agrees(prefix: Prefix, *, expands: bool) -> bool:
            try:
                found = self._replayed(layer, prefix, rows, expands=expands)
            except (Exception, SystemExit):
                return False
            off = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
            return off <= EXACT * float(expected.abs().max())

        for expands in (False, True):
            if agrees(mine, expands=expands):
                return Way(True, expands, alone=agrees(theirs, expands=expands))
        return Way(False)
