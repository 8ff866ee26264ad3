"""How to make a model: what its source knows of it before anything is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from service.contract import Scale, Task
from service.images import Transform


@dataclass(frozen=True)
class ModelSpec:
    """How to make a model: nothing is loaded before `build` is called.

    Where an entry of a catalogue is wrong, `build` raises what is wrong with it, and `mistake` is the same text.
    """

    name: str
    build: Callable[[], nn.Module]  # with its weights in place, in float32 and in evaluation mode
    transform: Transform
    task: Task
    labels: Sequence[str] = ()
    source: str = ""  # where network and weights come from, for people
    task_known: bool = True  # the source or the catalogue says so; else it is taken for one
    scale: Scale | None = None  # what the outputs are; None: what the task takes them for
    output: str | int | None = None  # which item of what the network returns; None: the only one that fits
    assumed: tuple[str, ...] = ()  # `key = value` of what neither the source nor the catalogue says
    # Source, arguments, code, preprocessing and task, as bytes that are the same on every machine: called after
    # `build`, with the network, and hashed with its weights into the model's version.
    identity: Callable[[nn.Module], bytes] = field(default=lambda network: b"")
    # Why the network could not be examined, with the remedy, given what that raised.
    refusal: Callable[[nn.Module, BaseException], BaseException] = field(default=lambda network, error: error)
    said: list[str] = field(default_factory=list, compare=False)  # what loading found worth saying; filled by `build`
    mistake: str | None = None
