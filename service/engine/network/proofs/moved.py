"""Which layers look at other places of the picture than their own, also where they look at too much for it to be seen.

A late layer whose cells look at nearly all of the picture shows nothing by itself. It looks where the layers look that
it is made of: elsewhere, if all of them do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from service.engine.network.proofs.watch import Call, Watched


def moved(calls: Sequence[Call], watched: Watched | None) -> frozenset[int]:
    """Return the numbers of the calls whose cells look elsewhere.

    Args:
        calls: what changed pictures showed of them.
        watched: the same calls with gradients, whose graph tells what is made of what; where there is none, their
            order has to.
    """
    seen = [call.own if call.own is not None or call.turned is None else call.turned.own for call in calls]
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
    todo, met, some = [made_by], {made_by}, False
    while todo:
        node = todo.pop()
        if node in ends:
            if ends[node]:
                return False
            some = True
            continue
        if getattr(node, "variable", None) is x:
            return False
        follow = {follower for follower, _ in node.next_functions if follower is not None} - met
        met |= follow
        todo += follow
    return some
