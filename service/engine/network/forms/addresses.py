"""How what a layer answers lies: where its maps are, and which part of it is which picture's."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from service.contract import Layout

_ALIKE = 1e-3  # largest difference of two sums of one answer, relative to the largest


@dataclass(frozen=True)
class Fold:
    """How pictures lie in what a layer answers to a batch, where its first axis is not theirs, one row each."""

    axis: int = 0  # on which they follow each other
    parts: int = 1  # of each picture, one after the other

    def rows(self, output: Tensor) -> Tensor:
        """Return an output with one row a picture: (N, ...), or (N, parts, ...) where there are several."""
        output = output.movedim(self.axis, 0)
        return output.reshape(-1, self.parts, *output.shape[1:]) if self.parts > 1 else output

    def back(self, rows: Tensor) -> Tensor:
        """Return rows (N, ...), one a picture, as the layer answers with them, where there is one part of each."""
        return rows.movedim(0, self.axis)

    def count(self, output: Tensor) -> int:
        """Return how many pictures lie in an output; -1 where parts are left over."""
        length = output.shape[self.axis] if self.axis < output.ndim else -1
        return -1 if length % self.parts else length // self.parts


@dataclass(frozen=True)
class Addresses:
    """What has to be known of a network's layers to keep what they answer."""

    repeated: Collection[str] = ()  # modules that are called more than once in a forward
    layouts: Mapping[str, Layout] = field(default_factory=dict)  # of layers whose maps do not lie as (N, C, h, w)
    folds: Mapping[str, Fold] = field(default_factory=dict)  # of layers whose rows are not the pictures
    answer: tuple[int, ...] | None = None  # shape of one row's answer; None: whatever it is

    def maps(self, address: str, output: Tensor) -> Tensor:
        """Return a layer's output, as methods see it: in float32, and (N, C, h, w) where it has maps."""
        output, layout = single(self.rows(address, output)), self.layout(address)
        return output if layout is None else layout.maps(output)

    def rows(self, address: str, output: Tensor) -> Tensor:
        """Return a layer's output, or the gradient there, with one row a picture."""
        return self.folds[address].rows(output) if address in self.folds else output

    def back(self, address: str, rows: Tensor) -> Tensor:
        """Return rows of pictures as a layer answers with them."""
        return self.folds[address].back(rows) if address in self.folds else rows

    def layout(self, address: str) -> Layout | None:
        """Return how an output lies; None where methods see it as it is."""
        return self.layouts.get(address) or self.layouts.get(address.partition("+")[0])


def single(output: Tensor) -> Tensor:
    """Return numbers of whatever precision a part of a network computes in as float32; other kinds as they are."""
    return output.float() if output.is_floating_point() else output


def fold_of(alone: Tensor, many: tuple[int, ...], rows: int, first: Tensor | None) -> Fold | None:
    """Find out how pictures lie in what a layer answers; None where that is not known.

    Args:
        alone: what it answered to one picture.
        many: the shape of what it answered to several.
        rows: how many.
        first: `sums` of the part that is the first one's, the same picture, where they follow each other.
    """
    one = tuple(alone.shape)
    if one[:1] == (1,) and many == (rows, *one[1:]):
        return Fold()
    if one and many == (rows * one[0], *one[1:]):
        # Parts of a picture may lie side by side, or those of one place of all pictures: numbers tell.
        expected = sums(alone)
        known = rows == 1 or (first is not None and (first - expected).abs().max() <= _ALIKE * expected.abs().max())
        return Fold(0, one[0]) if known else None
    axes = [i for i in range(1, len(one)) if (*one[:i], one[i] * rows, *one[i + 1 :]) == many]
    return Fold(axes[0]) if len(axes) == 1 and one[axes[0]] == 1 else None


def sums(output: Tensor) -> Tensor:
    """Return a mean and a mean size of each of an output's rows (2, N), by which it is known again."""
    flat = output.detach().flatten(1).float() if output.ndim > 1 else output.detach()[:, None].float()
    return torch.stack([flat.mean(1), flat.abs().mean(1)])
