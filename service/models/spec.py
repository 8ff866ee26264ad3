"""How to make a model: what its source knows of it before anything is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from service.contract import Task
from service.images import Transform


@dataclass(frozen=True)
class ModelSpec:
    """How to make a model: nothing is loaded before `build` is called."""

    name: str
    build: Callable[[], nn.Module]  # with its weights in place
    transform: Transform
    task: Task
    labels: Sequence[str] = ()
    source: str = ""  # where network and weights come from, for people
