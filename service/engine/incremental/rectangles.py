"""Copying rectangles: out of the maps that are kept of a picture, and changed ones into them.

Maps lie channels last, so that each line of a rectangle is one run of memory. Places are (y, x), as in `regions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.engine.incremental.recording.graph import Pair
from service.engine.incremental.regions import Ints


@dataclass(frozen=True)
class CleanMap:
    """A map of the clean picture with a border: (H, W, C) contiguous, its own values from `before` (y, x) on."""

    values: Tensor
    before: Pair

    @staticmethod
    def of(x: Tensor, fill: float, before: Pair, after: Pair) -> "CleanMap":
        """Return the map of a value (1, ..., H, W) with a border of `fill`."""
        h, w = x.shape[-2:]
        channels_last = x.reshape(1, -1, h, w)[0].permute(1, 2, 0)
        values = x.new_full((before[0] + h + after[0], before[1] + w + after[1], channels_last.shape[2]), fill)
        values[before[0] : before[0] + h, before[1] : before[1] + w] = channels_last
        return CleanMap(values, before)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.numel() * self.values.element_size()


Lines = tuple[int, int] | Tensor
"""Where rectangles begin in a map: the corner that all of them have, or the number of each line's first value."""


def lines(clean: CleanMap, start: Ints, size: Pair) -> Lines:
    """Return where the rectangles from `start` (N, 2) on lie in a map with a border."""
    at = start + np.array(clean.before)
    if (at == at[0]).all():
        return int(at[0, 0]), int(at[0, 1])
    begin = (at[:, :1] + np.arange(size[0])) * clean.values.shape[1] + at[:, 1:]
    return torch.from_numpy(begin.reshape(-1)).to(clean.values.device)


def cut(maps: Sequence[CleanMap], lengths: Sequence[int], where: Lines, size: Pair) -> Tensor:
    """Return rectangles (N, h, w, C): the first `lengths[0]` rows from the first map, the next from the second, ..."""
    (h, w), c = size, maps[0].values.shape[2]
    out = maps[0].values.new_empty(sum(lengths), h, w, c)
    row = 0
    for clean, length in zip(maps, lengths, strict=True):
        rows, values = out[row : row + length], clean.values
        if isinstance(where, Tensor):
            # Neighbouring values of a line lie together: each line of a rectangle is one run, wherever it begins.
            runs = values.as_strided((values.shape[0] * values.shape[1] - w + 1, w * c), (c, 1))
            torch.index_select(runs, 0, where[row * h : (row + length) * h], out=rows.view(-1, w * c))
        else:
            y, x = where
            rows.copy_(values[y : y + h, x : x + w].expand_as(rows))
        row += length
    return out


Places = tuple[int, int] | tuple[Tensor, Tensor | None]
"""Where patches go: at the offset that all of them have, or value by value: to where, and which (None: all)."""


def places(offset: Ints, bounds: Pair, size: Pair, device: torch.device) -> Places:
    """Return where patches of a size go in rectangles of `bounds`, at `offset` (N, 2); what lies outside is dropped."""
    if (offset == offset[0]).all():
        return int(offset[0, 0]), int(offset[0, 1])
    (height, width), (h, w) = bounds, size
    ys, xs = offset[:, :1] + np.arange(h), offset[:, 1:] + np.arange(w)  # (N, h), (N, w)
    index = ((np.arange(len(offset))[:, None] * height + ys)[:, :, None] * width + xs[:, None, :]).reshape(-1)
    inside = (((ys >= 0) & (ys < height))[:, :, None] & ((xs >= 0) & (xs < width))[:, None, :]).reshape(-1)
    which = None if inside.all() else torch.from_numpy(inside.nonzero()[0]).to(device)
    return torch.from_numpy(index[inside]).to(device), which


def paste(into: Tensor, patch: Tensor, where: Places) -> None:
    """Write patches (N, h, w, C) into rectangles (N, H, W, C)."""
    (n, height, width), (h, w) = into.shape[:3], patch.shape[1:3]
    to, which = where
    if isinstance(to, int):
        if not isinstance(which, int):
            raise TypeError("a corner of one picture is two numbers")
        y, x, y0, x0 = to, which, max(-to, 0), max(-which, 0)
        y1, x1 = min(h, height - y), min(w, width - x)
        if y1 > y0 and x1 > x0:
            into[:, y + y0 : y + y1, x + x0 : x + x1] = patch[:, y0:y1, x0:x1]
        return
    source = patch.reshape(n * h * w, -1)
    into.view(n * height * width, -1).index_copy_(0, to, source if which is None else source[which])


def channels_last(x: Tensor) -> Tensor:
    """Return a value (N, ..., h, w) as (N, h, w, C)."""
    return x.reshape(len(x), -1, *x.shape[-2:]).permute(0, 2, 3, 1)
