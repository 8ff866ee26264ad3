"""Which layers look at other places of the picture than their own, also where they look at too much for it to be seen.

A late layer whose cells look at nearly all of the picture shows nothing by itself. It looks where the layers look that
it is made of: elsewhere, if all of them do.

Squares and margins are coarse. Where the score depends on none of a margin, be it a few pixels, it was cut off or it is
blanked where it stands: the gradients of two cells of an early layer tell which.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from service.contract import Layout
from service.engine.network.places.upstream import upstream
from service.engine.network.places.windows import in_place, pair, spans, unread
from service.engine.network.proofs.watch import Call, Watched

_BACKWARDS = 5  # of a network, behind which no more are run for this
_TRIED = 2  # layers
_CELLS = 4  # on an axis, of which two are looked at that lie in between
_MARGIN = 16  # parts of a side, one of which may be left unread at its end


def moved(
    calls: Sequence[Call], watched: Watched | None, gradients: Sequence[Tensor | None] | None = None
) -> frozenset[int]:
    """Return the numbers of the calls whose cells look elsewhere.

    Args:
        calls: what changed pictures showed of them.
        watched: the same calls with gradients, whose graph tells what is made of what; where there is none, their
            order has to.
        gradients: of the score at each of these calls.
    """
    seen: list[Any] = [call.own if call.own is not None or call.turned is None else call.turned.own for call in calls]
    at, exact = _exactly(calls, watched, gradients, suspect="unread" in seen)
    seen = [own if own != "unread" else None if exact else False for own in seen]
    if exact is not None and at is not None:
        seen[at] = exact
    found = {i for i, own in enumerate(seen) if own is False}
    if not found:
        return frozenset()
    leaves: Sequence[Tensor | None] = watched.leaves if watched is not None else [None] * len(calls)
    ends: dict[Any, bool] = {}  # by the function that made an answer, whether its cells look at their own places
    for own, leaf in zip(seen, leaves, strict=True):
        if own is not None and leaf is not None and leaf.grad_fn is not None:
            ends.setdefault(leaf.grad_fn, own)
    before: set[bool] = set()
    for i, (own, leaf) in enumerate(zip(seen, leaves, strict=True)):
        if own is not None:
            before.add(own)
        elif leaf is not None and leaf.grad_fn is not None and watched is not None:
            if _all_moved(leaf.grad_fn, ends, watched.x):
                found.add(i)
                ends.setdefault(leaf.grad_fn, False)
        elif before == {False}:
            found.add(i)
    return frozenset(found)


def _all_moved(made_by: Any, ends: Mapping[Any, bool], x: Tensor) -> bool:
    """Whether every way from what a function made to the input x leads over a layer that looks elsewhere."""
    some = False
    for node in upstream(made_by, ends):
        if node in ends:
            if ends[node]:
                return False
            some = True
        elif getattr(node, "variable", None) is x:
            return False
    return some


def _exactly(
    calls: Sequence[Call], watched: Watched | None, gradients: Sequence[Tensor | None] | None, *, suspect: bool
) -> tuple[int | None, bool | None]:
    """Return the number of a call, and whether its cells look at their own places, to the pixel.

    It is the first one all of whose cells the score depends on: nothing is cut off behind it. It is asked where nothing
    of the score depends on a margin of the picture, and (None, None) is returned elsewhere.
    """
    if watched is None or not gradients or watched.at_input is None or watched.backwards > _BACKWARDS:
        return None, None
    size = watched.x.shape[2:]
    if not (suspect or _cut(watched.at_input, max(size) // _MARGIN)):
        return None, None
    tried = 0
    for i, (call, leaf, gradient) in enumerate(zip(calls, watched.leaves, gradients, strict=False)):
        layout = call.layout or (Layout("chw", (call.shape[1], call.shape[2])) if len(call.shape) == 3 else None)
        if layout is None or not call.aligned or gradient is None or leaf.grad_fn is None or min(layout.grid) < _CELLS:
            continue
        if _cut(layout.maps(gradient), 1):
            continue
        tried += 1
        with suppress(Exception, SystemExit):  # of a backward of the network's own
            if (found := _looks(layout.maps(leaf), watched)) is not None:
                return i, found
        if tried == _TRIED:
            break
    return None, None


def _cut(gradient: Tensor, rest: int) -> bool:
    """Whether a score whose gradient is (1, C, h, w) depends on none of a margin, wider than a rest below and right."""
    margins = unread(gradient)
    return margins is not None and bool(margins[0] or margins[2] or max(margins[1], margins[3]) > rest)


def _looks(maps: Tensor, watched: Watched) -> bool | None:
    """Whether the cells of maps (1, C, h, w) of the picture look at their own places; None: it cannot be told."""
    cells, size = maps.shape[2:], watched.x.shape[2:]
    windows = []
    for at in zip(pair(cells[0]), pair(cells[1]), strict=True):
        watched.backwards += 1
        (gradient,) = torch.autograd.grad(maps[0, :, at[0], at[1]].sum(), watched.x, retain_graph=True)
        windows.append(spans(gradient, at))
    one, other = windows
    if one is None or other is None:
        return None
    found = {in_place(one[axis], other[axis], cells[axis], size[axis]) for axis in (0, 1)}
    return False if False in found else None if None in found else True
