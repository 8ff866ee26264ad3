"""Which attentions a network has, over which tokens, and which of these its outputs are read from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from service.contract import Attention, LayerInfo, Layout
from service.engine.network.attention import ADDRESS, Attentions
from service.engine.network.places.upstream import upstream


@dataclass
class Seen:
    """What a watched forward showed of attention."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # (heads, T, T) by address, in order
    apart: set[str] = field(default_factory=set)  # the addresses of those that no path leads to from the one before
    others: Sequence[str] = ()

    def watching(self, rows: int) -> Attentions:
        """Return what watches a forward of so many rows."""

        before: Any = None

        def meet(address: str, weights: Tensor) -> Tensor:
            nonlocal before
            self.shapes[address] = tuple(weights.shape[1:])
            made = weights.grad_fn
            if before is not None and made is not None and before not in upstream(made):
                self.apart.add(address)
            before = made
            return weights

        watch = Attentions(rows, meet)
        self.others = watch.others
        return watch


def find_attentions(
    seen: Seen, infos: Mapping[str, LayerInfo], gradients: Sequence[Tensor | None]
) -> tuple[dict[str, LayerInfo], str | None]:
    """Return the addresses of attention over all tokens, or why there is none.

    Args:
        seen: what attends.
        infos: the network's layers, in order.
        gradients: of the score, at each of them.
    """
    if not seen.shapes:
        if seen.others:
            return {}, f"no attention of it spans all tokens: {seen.others[0]}"
        return {}, "it has no attention"
    if clash := next((path for path in infos if path.startswith(ADDRESS)), None):
        return {}, f"a layer of it has the address of an attention: {clash!r}"
    lengths = {shape[-1] for shape in seen.shapes.values()}
    if seen.others or len(lengths) > 1:
        sizes = (
            seen.others[0] if seen.others else f"some of it attends to {min(lengths)} tokens, some to {max(lengths)}"
        )
        return {}, f"not all of its attention spans the same tokens: {sizes}"
    (tokens,) = lengths
    layout, read = _read(tokens, infos, gradients)
    if layout is None:
        return {}, f"where its {tokens} tokens are in the picture was not found"
    if layout.prefix + layout.suffix and all(gradient is None for gradient in gradients):
        return (
            {},
            "which of its tokens its outputs are read from is not known: no gradient of them gets to any layer",
        )
    return {
        address: LayerInfo(
            address, "attention", shape, spatial=False, attention=Attention(layout, read, address not in seen.apart)
        )
        for address, shape in seen.shapes.items()
    }, None


def _read(
    tokens: int, infos: Mapping[str, LayerInfo], gradients: Sequence[Tensor | None]
) -> tuple[Layout | None, tuple[int, ...]]:
    """Return where tokens are, and which of the last layer's the score depends on.

    Where it depends on tokens without a place, such as a class token, these are the ones; else on all that have one.
    """
    layout: Layout | None = None
    read: tuple[int, ...] = ()
    for info, gradient in zip(infos.values(), gradients, strict=False):
        own = info.layout
        if own is None or own.axes != "tokens" or own.prefix + own.grid[0] * own.grid[1] + own.suffix != tokens:
            continue
        if gradient is None and layout is not None:
            continue  # nothing is read from this one
        places = range(own.prefix, tokens - own.suffix)
        layout, read = own, tuple(places)
        if gradient is not None and gradient.ndim == 3 and gradient.shape[1] == tokens:
            some = gradient.abs().amax((0, 2)) > 0
            read = tuple(i for i in range(tokens) if i not in places and some[i]) or read
    return layout, read
