"""The two questions a method may ask a network, and the values they are asked and answered in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from service.contract.explanation import Box, Explanation
from service.contract.facts import Facts
from service.contract.meaning import Readout
from service.contract.rules import Rules


@dataclass(frozen=True)
class Rows:
    """Inputs that do not exist yet: made slice by slice on the device, no more at a time than a batch."""

    count: int
    build: Callable[[int, int], Tensor]  # (i, j) -> rows i to j, (j - i, 3, H, W)
    # All that determines the rows, the picture's `fingerprint` included: requests that agree in it share one
    # computation of scores, and later ones are answered from memory. None: they are computed.
    key: Hashable = None

    @staticmethod
    def of(x: Tensor, key: Hashable = None) -> Rows:
        """Return inputs that are there, (N, 3, H, W)."""
        return Rows(len(x), lambda i, j: x[i:j], key)


@dataclass(frozen=True)
class Boxes(Rows):
    """A picture (row 0), and it with one box each showing the filling: the engine may compute only what changes."""

    image: Tensor = field(default_factory=lambda: torch.empty(0))  # (1, 3, H, W)
    filling: Tensor = field(default_factory=lambda: torch.empty(0))  # (3, H, W)
    boxes: tuple[Box, ...] = ()

    @staticmethod
    def on(image: Tensor, filling: Tensor, boxes: Sequence[Box], key: Hashable = None) -> Boxes:
        """Return the rows of a picture (1, 3, H, W), a filling (3, H, W) and boxes inside of it."""
        kept = tuple(boxes)

        def build(i: int, j: int) -> Tensor:
            built = image.repeat(j - i, 1, 1, 1)
            for row in range(max(i, 1), j):
                x0, y0, x1, y1 = kept[row - 1]
                built[row - i, :, y0:y1, x0:x1] = filling[:, y0:y1, x0:x1]
            return built

        return Boxes(1 + len(kept), build, key, image, filling, kept)


@dataclass(frozen=True)
class Pairs(Rows):
    """Inputs, each beside another one that it is compared with, as `Rescale` does; one without a reference is none."""

    references: Callable[[int, int], Tensor] = field(default=lambda i, j: torch.empty(0))  # those of rows i to j

    @staticmethod
    def beside(x: Tensor, references: Tensor) -> Pairs:
        """Return inputs that are there with their references, (N, 3, H, W) each."""
        return Pairs(len(x), lambda i, j: x[i:j], None, lambda i, j: references[i:j])


@dataclass(frozen=True)
class At(Rows):
    """Maps (C, h, w) that a layer answers instead of those it has for a picture: rows that start at the layer.

    What the layer has beside its maps, such as a class token, and what goes around it is the picture's.
    """

    image: Tensor = field(default_factory=lambda: torch.empty(0))  # (1, 3, H, W)
    layer: str = ""  # with maps


def fingerprint(image: Tensor) -> bytes:
    """Return a digest of a picture's values, for the key of rows made of it."""
    return hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).digest()


@dataclass(frozen=True)
class Tracing:
    """What to keep of a forward, and what to differentiate.

    Args:
        layers: paths whose outputs to keep.
        wrt: paths, or `INPUT`, to differentiate with respect to. The backward stops at the earliest.
        rule: what the backward does at some operators instead of their derivative.
        partial: stop the forward once every layer has answered; there are no outputs then.
        whole: leave what layers answer, and gradients there, as they lie in the network, instead of as maps: with
            tokens that have no place in the picture.
    """

    layers: tuple[str, ...] = ()
    wrt: tuple[str, ...] = ()
    rule: Rules | None = None
    partial: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Trace:
    """Forwards of N rows and their backwards, detached. An objective meets it before the backwards."""

    outputs: Tensor  # (N, K); (N, 0) where the pass was stopped early
    activations: Mapping[str, Tensor] = field(default_factory=dict)  # path -> (N, C, h, w)
    objective: Tensor = field(default_factory=lambda: torch.empty(0, 0))  # (N, T)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)  # path or INPUT -> (T, N, ...), by column
    first: int = 0  # which row of all the first one of these is: long traces are cut
    references: Tensor = field(default_factory=lambda: torch.empty(0, 0))  # (N, K), what they answer, of `Pairs`
    totals: tuple[Tensor, ...] = ()  # where a total was asked for

    @staticmethod
    def joined(parts: Sequence[Trace]) -> Trace:
        """Return the trace of all rows, given those of its pieces, in order."""
        if len(parts) == 1:
            return parts[0]
        one = parts[0]
        return replace(
            one,
            outputs=torch.cat([part.outputs for part in parts]),
            activations={name: torch.cat([part.activations[name] for part in parts]) for name in one.activations},
            objective=torch.cat([part.objective for part in parts]),
            gradients={name: torch.cat([part.gradients[name] for part in parts], 1) for name in one.gradients},
            references=torch.cat([part.references for part in parts]),
            totals=tuple(sum(rest, first) for first, *rest in zip(*(part.totals for part in parts), strict=True)),
        )

    def totalled(self, total: Total | None) -> Trace:
        """Return what is left of a piece once its totals are taken: outputs and objective."""
        if total is None:
            return self
        return replace(self, activations={}, gradients={}, totals=tuple(total(self)))


Objective = Callable[[Trace], Tensor]
"""(a piece's outputs and activations) -> (n, T): what the backwards differentiate, one after the other."""

Total = Callable[[Trace], Sequence[Tensor]]
"""(a piece) -> tensors to add up over all pieces, on the device; activations and gradients are dropped then."""

Sketch = Callable[[Tensor], "Explanation"]
"""(outputs of the first n rows) -> a rough explanation from them, for callers who watch."""


@dataclass(frozen=True)
class Part:
    """Some rows of one request's trace: a forward takes the parts of several requests together."""

    x: Tensor  # (n, 3, H, W)
    objective: Objective | None = None
    total: Total | None = None
    first: int = 0  # which row of its request the first one is
    readout: Readout | None = None  # makes a table of the network's answers; None: they are one
    references: Tensor | None = None  # (n, 3, H, W), of `Pairs`


class Probe(Protocol):
    """The two questions a method may ask a network, and what is known of it.

    Both answer in tables (N, K): where a network answers otherwise, the probe holds the readout of its request.
    No number in an answer is infinite or none.

    Raises:
        ModelOutput: the network answers a row with what is no finite number.
        NotApplicable: a gradient is asked for that does not exist.
    """

    facts: Facts
    device: torch.device

    def scores(self, rows: Rows, *, sketch: Sketch | None = None) -> Tensor:
        """Black box: the outputs (count, K) of inputs. They may be shared with others and must not be changed."""
        ...

    def trace(
        self,
        rows: Rows,
        tracing: Tracing,
        objective: Objective | None = None,
        *,
        total: Total | None = None,
    ) -> Trace:
        """White box: a forward of each row, and a backward per column of the objective.

        Args:
            rows: model inputs; they do not influence each other, and are cut into pieces that fit a batch.
            tracing: what to keep, and what to differentiate with respect to.
            objective: what to differentiate, of one piece; called on the device thread.
            total: where given, only the sums of what it makes of each piece are kept.
        """
        ...

    def weight(self, layer: str) -> Tensor:
        """Return the weight of a convolution, (out, in, kh, kw)."""
        ...

    def offset(self, layer: str) -> Tensor | None:
        """Return what a convolution, linear layer or batch norm adds to each channel (C,); None where nothing is."""
        ...
