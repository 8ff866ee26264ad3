"""What waits for a device: rows, and for whom they are."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

IDLE = -100  # below every request's priority: of work that goes on whenever nobody else waits
QUANTUM = 8  # rows of an item's turn: to build one or two at a time of every item costs more than it is fair


@dataclass(eq=False)
class Item:
    """Rows that wait. Once in a queue, only the queue changes these fields."""

    key: Hashable  # items with equal keys may share a batch
    group: Hashable  # whose time on the device it takes: the network's. Equal keys are of one group
    rows: int  # not yet dealt
    caller: Hashable = ""  # None: the server itself, which is never charged
    priority: int = 0
    passes: float = 1.0  # that a row is expected to take; a batch's time is shared out by them
    memory: int = 0  # bytes that it holds from its first row to its end
    deadline: float | None = None
    stamp: int = field(default=0, init=False)  # lower: it has waited longer
    due: int = field(default=0, init=False)  # rows left of a turn that has begun


W = TypeVar("W", bound=Item)


class Share(NamedTuple, Generic[W]):
    """Rows of an item that go into a batch."""

    item: W
    rows: int
    stamp: int  # the item's, before it was served
