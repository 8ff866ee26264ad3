"""Which tensor of all that a network returns is its answer.

A network may return a tensor, or a dictionary, tuple or object that holds one; of shape (N, K), (N,), (N, K, 1, 1) or
(N, K, H, W); or a list of boxes, one dictionary a picture, as torchvision's detectors do; or queries, as DETR does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.masked import MaskedTensor

from service.engine.network.forms.batched import Batched
from service.engine.network.forms.listed import Listed
from service.engine.network.forms.queries import Queries
from service.errors import CatalogError, did_you_mean

_USUAL = ("logits", "out")  # names of the answer among others
_WANTED = (
    "a network has to return one tensor (N, K) of one row a picture, maps (N, K, H, W), a list of one dictionary of "
    "`boxes`, `labels` and `scores` a picture, or a dictionary, tuple or object that holds one of these"
)
# Which of the two they are, no number tells.
_THREE_AXES = (
    "if these are a detector's raw boxes, let it return what is left of them after decoding and suppression: a list of "
    "one dictionary of `boxes` (x0, y0, x1, y1 in pixels of the input), `labels` and `scores` a picture; if they are "
    "tokens, let it return one row a picture, as their mean or the class token"
)
Item = str | int


@dataclass(frozen=True)
class Outlet:
    """How to get from what a network returns to one tensor (N, ...)."""

    item: Item | None = None  # which item of what it returns; None: it returns the answer itself
    listed: Listed | None = None  # how to read boxes of one dictionary a picture
    axes: int = 2  # of the answer
    reading: Queries | Batched | None = None  # how to read boxes that are no list of dictionaries

    @property
    def boxes(self) -> bool:
        """Whether its answers are boxes."""
        return self.listed is not None or self.reading is not None

    def __call__(self, returned: Any, rows: int) -> Tensor:
        """Return the answer to so many rows: (N, K), (N, K, H, W), or (N, D, 6) of boxes."""
        if self.reading is not None:
            return _filled(self.reading(items(returned)))
        found = returned if self.item is None else picked(returned, self.item)
        if self.listed is not None:
            return _filled(self.listed(found))
        if not isinstance(found, Tensor):
            raise TypeError(f"a {type(found).__name__} where a tensor was")
        return shaped(found, rows, self.axes)

    @property
    def corners(self) -> bool:
        """Whether it returns boxes as they are taken, x0, y0, x1, y1 in pixels; those of queries are not."""
        return self.boxes and not isinstance(self.reading, Queries)

    @property
    def plain(self) -> bool:
        """Whether the network returns a tensor and nothing else."""
        return self.item is None and not self.boxes

    def __str__(self) -> str:
        if self.reading is not None:
            return str(self.reading)
        where = "what it returns" if self.item is None else f"item {self.item!r} of what it returns"
        named = "" if self.listed in (None, Listed()) else f" ({self.listed})"
        return f"{where}, boxes{named}" if self.boxes else where


def _filled(found: Tensor) -> Tensor:
    """Return detections (N, D, 6) with zeros for what fills up: of no score, and of a class below 0, as in exports."""
    return found.masked_fill((found[..., 4:5] <= 0) & (found[..., 5:] < 0), 0)


def items(returned: Any) -> dict[Item, Any]:
    """Return what a container holds, by name or number; empty where it is none."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return dict(zip(returned._fields, returned, strict=True)) | dict(enumerate(returned))
    if isinstance(returned, list | tuple):
        return dict(enumerate(returned))
    if isinstance(returned, Tensor):
        return {}
    if not hasattr(returned, "__dict__"):  # a dataclass may have slots
        return {one.name: getattr(returned, one.name) for one in fields(returned)} if is_dataclass(returned) else {}
    return {name: value for name, value in vars(returned).items() if not name.startswith("_")}


def picked(returned: Any, item: Item) -> Any:
    """Return an item of what a network returned, by its name or number; `a.b` is item `b` of item `a`.

    Raises:
        KeyError: there is none.
    """
    held = items(returned)
    if item in held:
        return held[item]
    if not isinstance(item, str):
        raise KeyError(item)
    if item.isdecimal():
        return held[int(item)]
    outer, dot, inner = item.partition(".")
    if not dot:
        raise KeyError(item)
    return picked(picked(returned, outer), inner)


def _within(held: Mapping[Item, Any], deep: int = 3) -> dict[Item, Any]:
    """Return what the items themselves hold, by the names that `picked` knows."""
    found: dict[Item, Any] = {}
    for key, value in held.items():
        inner = items(value) if isinstance(value, Mapping | list | tuple) else {}
        found |= {f"{key}.{name}": one for name, one in inner.items()}
    return found | _within(found, deep - 1) if found and deep else found


def find(
    returned: Any, rows: int, wanted: Item | None, name: str, size: tuple[int, int] = (1, 1), labels: int = 0
) -> Outlet:
    """Find the answer in what a network returned for so many rows.

    Args:
        returned: all of it.
        rows: how many inputs it was given.
        wanted: the item that the catalogue names, if any.
        name: the model's, for messages.
        size: (H, W) of the inputs, that boxes of queries are shares of.
        labels: how many classes have a name; 0 where it is not known.

    Raises:
        CatalogError: there is none, or there are several.
    """
    if wanted is not None:
        return _named(returned, rows, wanted, name, size)
    if isinstance(returned, Tensor):
        return _checked(Outlet(axes=_axes(returned, rows)), returned, rows, name, size)
    if (listed := Listed.of(returned, rows)) is not None:
        return Outlet(listed=listed)
    held = items(returned)
    queries = Queries.of(held, rows, size, labels, name)
    if queries is not None:
        return Outlet(reading=queries)
    for usual in _USUAL:
        if usual in held and isinstance(held[usual], Tensor):
            try:
                return _checked(Outlet(usual, axes=_axes(held[usual], rows)), held[usual], rows, name, size)
            except CatalogError as error:
                others = [key for key in _fitting(held, rows) if held[key] is not held[usual]]
                instead = f"; or name another item as its answer, as output = {others[0]!r}" if others else ""
                raise CatalogError(f"{error}{instead}") from None
    batched = Batched.of(held, rows, name)
    if batched is not None:
        return Outlet(reading=batched)
    fitting = _fitting(held, rows)
    if len(fitting) == 1:
        return _checked(Outlet(fitting[0], axes=_axes(held[fitting[0]], rows)), held[fitting[0]], rows, name, size)
    boxes = [(key, listed) for key, value in held.items() if (listed := Listed.of(value, rows)) is not None]
    if not fitting and len(boxes) == 1:
        return Outlet(boxes[0][0], listed=boxes[0][1])
    if not held:
        raise CatalogError(f"model {name!r} returned a {type(returned).__name__}; {_WANTED}")
    seen = ", ".join(f"{key!r} {_described(value)}" for key, value in held.items())
    if fitting:
        raise CatalogError(
            f"model {name!r} returned several tensors that may be its answer ({seen}); name one of these items, such "
            f"as output = {fitting[0]!r}"
        )
    per_picture = isinstance(returned, list | tuple) and len(returned) == rows
    if not per_picture and (within := _fitting(inner := _within(held), rows)):
        seen = ", ".join(f"{key!r} {_described(inner[key])}" for key in within)
        raise CatalogError(
            f"model {name!r} returned containers that hold what may be its answer ({seen}); name it, as output = "
            f"{within[0]!r}"
        )
    raw = any(isinstance(value, Tensor) and value.ndim == 3 and len(value) == rows for value in held.values())
    raise CatalogError(
        f"model {name!r} returned no tensor with one row a picture ({seen}); {_THREE_AXES if raw else _WANTED}"
    )


def merges(found: Callable[[Any, int], Outlet], run: Callable[[Tensor], Any], rows: Tensor, returned: Any) -> bool:
    """Whether a network answers to rows (N, C, H, W) as it does to one, and to one alone with an answer of its own.

    A trace of one picture does so, where its forward asked how many there are.

    Args:
        found: finds the answer in what it returned for so many.
        run: runs it.
        rows: all of them.
        returned: what it returned for these.
    """
    try:
        found(returned, len(rows))
    except CatalogError:
        pass
    else:
        return False
    try:
        with torch.no_grad():
            first, last = run(rows[:1]), run(rows[-1:])
            outlet = found(first, 1)
            one, other, merged = outlet(first, 1).clone(), outlet(last, 1), outlet(returned, 1)
    except (Exception, SystemExit):
        return False
    return (outlet.boxes or one.shape == merged.shape) and not torch.equal(one, other)


def _named(returned: Any, rows: int, wanted: Item, name: str, size: tuple[int, int]) -> Outlet:
    try:
        found = picked(returned, wanted)
    except KeyError:
        held = items(returned)
        there = ", ".join(repr(key) for key in (*held, *_within(held))) or f"none, it is a {type(returned).__name__}"
        near = did_you_mean(str(wanted), [key for key in held if isinstance(key, str)])
        raise CatalogError(
            f"model {name!r}: output = {wanted!r} is not among the items it returns: {there}{near}"
        ) from None
    if (listed := Listed.of(found, rows)) is not None:
        return Outlet(wanted, listed=listed)
    if not isinstance(found, Tensor):
        raise CatalogError(f"model {name!r}: output = {wanted!r} is a {type(found).__name__}, and no tensor")
    return _checked(Outlet(wanted, axes=_axes(found, rows)), found, rows, name, size)


def _axes(found: Tensor, rows: int) -> int:
    """Return how many axes the answer has, once those of one position are gone."""
    return 4 if found.ndim == 4 and found.shape[2] * found.shape[3] > 1 else 2


def _checked(outlet: Outlet, found: Tensor, rows: int, name: str, size: tuple[int, int]) -> Outlet:
    shape = tuple(found.shape)
    if found.layout != torch.strided:
        kind = _short(found.layout)
        raise CatalogError(f"model {name!r} returned a sparse tensor ({kind}); let it return y.to_dense()")
    if isinstance(found, MaskedTensor):
        raise CatalogError(f"model {name!r} returned a masked tensor; let it return y.to_tensor(0)")
    if not found.numel():
        raise CatalogError(
            f"model {name!r} returned shape {shape}, which holds no output; let its last layer have one or more"
        )
    if found.is_complex():
        raise CatalogError(
            f"model {name!r} returned {_described(found)}: complex numbers, and a score is a real one; let it return "
            "y.abs(), or y.real"
        )
    if not found.dtype.is_floating_point:
        raise CatalogError(
            f"model {name!r} returned {_described(found)}: whole numbers, through which no score can be followed; let "
            "it return its scores, as before argmax, a threshold or a quantisation"
        )
    try:
        shaped(found, rows, outlet.axes)
    except ValueError:
        if found.ndim == 3 and len(found) == rows:
            raise CatalogError(
                f"model {name!r} returned shape {shape}, which is no table of one row a picture, and no maps; "
                f"{_three_axes(found, size)}"
            ) from None
        if found.ndim == 2 and shape[1] == rows:
            raise CatalogError(
                f"model {name!r} returned shape {shape} for {rows} pictures: one column a picture; let it return y.T"
            ) from None
        raise CatalogError(
            f"model {name!r} returned shape {shape} for {rows} pictures; a network has to return one "
            "(N, outputs) tensor, or maps (N, K, H, W); where it averages or squeezes over pictures, keep their axis, "
            "as flatten(1) does"
        ) from None
    if outlet.axes == 4 and found.ndim == 4 and _channels_last(shape[1:], size):
        raise CatalogError(
            f"model {name!r} returned maps {shape} of an input of {size[0]} x {size[1]}, with the channels last; let "
            "its forward end with y.permute(0, 3, 1, 2), to (N, K, H, W)"
        )
    return outlet


def _three_axes(found: Tensor, size: tuple[int, int]) -> str:
    """Return what to do about an answer of three axes (N, ...)."""
    height, width = found.shape[1:]
    if height == 1:
        return "let it drop the axis of one, as y.flatten(1) does"
    if size[0] % height == size[1] % width == 0 and size[0] // height == size[1] // width:
        return f"if this is a mask of one class, let it keep the class's axis: y[:, None]; {_THREE_AXES}"
    return _THREE_AXES


def _channels_last(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether an answer's first two axes have the input's shape (H, W), and its last two have not."""
    first, last = shape[:2], shape[1:]
    if size in (first, last):
        return size == first != last
    return _alike(first, size) and not _alike(last, size)


def _alike(grid: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a grid has the proportions of a size, give or take a cell."""
    (h, w), (height, width) = grid, size
    return (h - 1) * width <= height * (w + 1) and height * (w - 1) <= (h + 1) * width


def _fitting(held: Mapping[Item, Any], rows: int) -> list[Item]:
    """Return the items that may be the answer: tables, or, where there is none, maps."""
    tensors = {key: value for key, value in held.items() if isinstance(value, Tensor) and value.is_floating_point()}
    distinct: dict[int, Item] = {}
    for key, value in tensors.items():  # a named tuple holds each of its items twice
        distinct.setdefault(id(value), key)
    own = {key: tensors[key] for key in distinct.values()}
    tables = [key for key, value in own.items() if value.ndim and len(value) == rows and _width(value) is not None]
    maps = [key for key, value in own.items() if value.ndim == 4 and len(value) == rows]
    return tables or maps


def _width(found: Tensor) -> int | None:
    """Return K where a tensor is a table with one row a picture, but for axes of length one."""
    rest = [length for length in found.shape[2:] if length != 1]
    return None if rest else found.shape[1] if found.ndim > 1 else 1


def shaped(found: Tensor, rows: int, axes: int) -> Tensor:
    """Return an answer as (N, K), or (N, K, H, W) where it has four axes.

    Raises:
        ValueError: it has another shape.
    """
    if axes == 4:
        if rows == 1 and found.ndim == 3:
            found = found[None]
        if found.ndim == 4 and len(found) == rows:
            return found
    else:
        if found.ndim == 0 and rows == 1:
            return found.reshape(1, 1)
        if rows == 1 and found.ndim == 1 and len(found) != 1:
            return found[None]  # a squeeze has taken the only picture's axis, too
        if found.ndim and len(found) == rows and (width := _width(found)) is not None:
            return found.reshape(rows, width)
    raise ValueError(f"shape {tuple(found.shape)} for {rows} rows")


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {_short(value.dtype)}"


def _short(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")
