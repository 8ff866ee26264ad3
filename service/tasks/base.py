"""What tasks have in common: how requests name outputs, and the readout of networks that answer in tables."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from service.contract import Asked, Clean, Evidence, Facts, Readout, Target
from service.errors import InvalidParameter, did_you_mean, escaped, quoted

_LONGEST = 256  # letters of a text that may be a label
_FAR = 2.0**24  # pixels: no picture has as many on a side, and float32 tells all whole ones of them apart
_LISTED = 64  # members of a list that names something: pictures, classes


@dataclass(frozen=True)
class Answer:
    """The readout of networks that answer in tables: the answer itself."""

    key: str = "answer"
    ruled: ClassVar[bool] = False

    def __call__(self, raw: Tensor) -> Tensor:
        """Return the answer."""
        return raw


class Table:
    """What tasks share whose networks answer in tables (N, K)."""

    looks: ClassVar[bool] = False

    @property
    def whole(self) -> Readout:
        """The answer itself."""
        return Answer()

    def evidence(self, readout: Readout, targets: Sequence[Target]) -> Evidence:
        """Return the targets' columns themselves: what is measured has no odds."""
        return columns(readout, targets, odds=False)

    def low(self, outputs: Tensor) -> Target | None:
        """Return None: there are no classes."""
        return None

    def outputs(self, raw: Tensor, labels: Sequence[str]) -> int:
        """Return K."""
        return raw.shape[1]

    def bind(self, given: Sequence[Target] | None, facts: Facts, clean: Clean) -> tuple[Readout, tuple[Target, ...]]:
        """Refuse: columns of a table are named without looking."""
        raise AssertionError("targets of this task do not look at the picture")


def columns(
    readout: Readout,
    targets: Sequence[Target],
    read: Callable[[Tensor, Target], Tensor] = lambda table, target: target(table),
    *,
    odds: bool = True,
) -> Evidence:
    """Return the evidence that a function reads of a readout's table, target by target."""
    kept = tuple(targets)
    # How a request worded its targets is no part of what they are.
    key = "evidence", readout.key, tuple((target.index, target.terms) for target in kept)

    def table(raw: Tensor) -> Tensor:
        outputs = readout(raw)
        return torch.stack([read(outputs, target) for target in kept], -1)

    return Evidence(key, table, odds)


def lowest_quarter(outputs: Tensor) -> Target | None:
    """Return the class of rank 3K/4 of outputs (K,), the strongest having rank 0; None of a single one."""
    order = outputs.argsort(descending=True, stable=True)
    return Target(int(order[3 * len(order) // 4])) if len(order) > 1 else None


def classes(asked: Sequence[Asked], facts: Facts) -> tuple[Target, ...]:
    """Return the classes that indices, labels and contrasts `{"class", "against": [...]}` name.

    Raises:
        InvalidParameter: one of them does not exist.
    """
    return tuple(_class(one, f"/targets/{i}", facts) for i, one in enumerate(asked))


def _class(asked: Asked, pointer: str, facts: Facts) -> Target:
    if not isinstance(asked, Mapping):
        return Target(index(asked, pointer, facts), asked=asked)
    fields(asked, pointer, facts, "class", "against")
    chosen = index(asked["class"], f"{pointer}/class", facts)
    against = [index(one, f"{pointer}/against/{i}", facts) for i, one in enumerate(listed(asked, "against", pointer))]
    if chosen in against:
        raise InvalidParameter.at(f"{pointer}/against", f"class {chosen} is held against itself; name other classes")
    terms = ((chosen, 1.0), *((one, -1.0 / len(against)) for one in against))
    return Target(chosen, terms if against else (), asked)


def fields(asked: Mapping[str, Any], pointer: str, facts: Facts, required: str, *optional: str) -> None:
    """Raise `InvalidParameter` where an object that names a target lacks a field, or has an unknown one."""
    known = (required, *optional)
    has = f"a target of a {facts.task.name} model has {' and '.join(map(repr, known))}"
    for name in asked:
        if name not in known:
            raise InvalidParameter.at(
                f"{pointer}/{escaped(name)}",
                f"unknown field {quoted(name)}" + did_you_mean(str(name), known, then=has),
            )
    if required not in asked:
        raise InvalidParameter.at(
            pointer, f"a target of a {facts.task.name} model that is an object needs the field {required!r}"
        )


def listed(asked: Mapping[str, Any], field: str, pointer: str) -> list[Any]:
    """Return a field that is a list of at most 64; empty where it is missing."""
    value = asked.get(field, [])
    if not isinstance(value, list | tuple):
        raise InvalidParameter.at(f"{pointer}/{field}", f"{field} has to be a list, not {quoted(value)}")
    if len(value) > _LISTED:
        raise InvalidParameter.at(f"{pointer}/{field}", f"{field} lists {len(value):,}; at most {_LISTED} are taken")
    return list(value)


def whole_number(value: Any, pointer: str, below: int, what: str) -> int:
    """Return a number from 0 on that is below another one.

    Raises:
        InvalidParameter: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
        there = f"there are {below}, counted from 0" if below else "there are none"
        raise InvalidParameter.at(pointer, f"{quoted(value)} is no {what}: {there}")
    return value


def box(value: Any, pointer: str) -> tuple[float, float, float, float]:
    """Return a box [x0, y0, x1, y1] that is not empty, cut where no picture is any more.

    Raises:
        InvalidParameter: it is something else.
    """
    numbers = list(value) if isinstance(value, list | tuple) else []
    if len(numbers) != 4 or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise InvalidParameter.at(pointer, f"{quoted(value)} is no box [x0, y0, x1, y1] in pixels of the picture")
    try:
        x0, y0, x1, y1 = map(float, numbers)
    except OverflowError:  # of a whole number
        x0 = y0 = x1 = y1 = math.inf
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise InvalidParameter.at(pointer, f"box {quoted(value)} has numbers that are not finite")
    if not (x0 < x1 and y0 < y1):
        raise InvalidParameter.at(pointer, f"box {quoted(value)} is empty: x1 has to be above x0, and y1 above y0")
    return _near(x0), _near(y0), _near(x1), _near(y1)


def _near(place: float) -> float:
    return max(-_FAR, min(_FAR, place))


def index(asked: Any, pointer: str, facts: Facts) -> int:
    """Return the output that an index or a label names.

    Raises:
        InvalidParameter: there is none, or several.
    """
    if isinstance(asked, bool) or not isinstance(asked, int | str):
        raise InvalidParameter.at(pointer, f"{quoted(asked)} is neither an index nor a label of {facts.name}")
    if isinstance(asked, int):
        if not 0 <= asked < facts.outputs:
            raise InvalidParameter.at(
                pointer, f"target {asked} is out of range: {facts.name} has outputs 0 to {facts.outputs - 1}"
            )
        return asked
    same = facts.named.get(asked.casefold(), ()) if len(asked) <= _LONGEST else ()
    if len(same) == 1:
        return same[0]
    if same:
        raise InvalidParameter.at(
            pointer, f"label {quoted(asked)} stands for outputs {list(same)}; give one of these indices"
        )
    if not facts.labels:
        raise InvalidParameter.at(pointer, f"{facts.name} has no labels; give an index")
    near = did_you_mean(asked, facts.labels, count=3, then="an index will do, too")
    raise InvalidParameter.at(pointer, f"{facts.name} has no label {quoted(asked)}{near}")
