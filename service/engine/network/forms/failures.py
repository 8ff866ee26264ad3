"""Whose fault it is where a network fails on a picture: its own, and told as such."""

import traceback
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from torch import Tensor, nn

from service.errors import ModelFailed, ServiceError
from service.models.networks import holding
from service.process import out_of_memory

T = TypeVar("T")


class NoAnswer(Exception):
    """What a network does with some inputs that it did not do at load; the text is ours, and may be shown."""


def answered(name: str, network: nn.Module, call: Callable[[], T]) -> T:
    """Return what a call of a network returns.

    Args:
        name: the model's.
        network: what is called, by which the place of a failure is found.
        call: runs it.

    Raises:
        ModelFailed: the network's own code raised, or it gave no answer. Memory that ran out, our own errors and our
            own defects pass.
    """
    try:
        return call()
    except (Exception, SystemExit) as error:
        if isinstance(error, ServiceError) or out_of_memory(error):
            raise
        why = str(error) if isinstance(error, NoAnswer) else _why(error, network)
        if why is None:
            raise
        failed = ModelFailed(
            f"the network of model {name!r} fails on this picture, or on a changed copy of it: {why}",
            raised="".join(traceback.format_exception(error)),
        )
    raise failed  # out here, so that it does not hold what was raised, whose frames hold tensors


def _why(error: BaseException, network: nn.Module) -> str | None:
    """Return what a network's code raised, and where; None where the network had no part in it."""
    modules = [module for frame, _ in traceback.walk_tb(error.__traceback__) if (module := _module(frame)) is not None]
    kind = type(error).__name__
    if modules:
        paths = {id(module): path for path, module in holding.modules(network)}
        at = next((path for module in reversed(modules) if (path := paths.get(id(module)))), "")
        return f"its forward raises {kind}" + (f" in layer {at!r}" if at else "")
    if any(frame.f_globals.get("__name__", "").startswith("torch.autograd") for frame in _frames(error)):
        return f"its backward raises {kind}"
    return None


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _module(frame: FrameType) -> nn.Module | None:
    own = frame.f_locals.get("self")
    return own if isinstance(own, nn.Module) else None


def checked(answer: object, rows: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return a network's answer to so many rows.

    Args:
        answer: what it returned.
        rows: how many inputs it was given.
        shape: of one row's answer, as it was at load; None: whatever it is.

    Raises:
        NoAnswer: it is something else.
    """
    if not isinstance(answer, Tensor):
        raise NoAnswer(f"it returns a {type(answer).__name__}, and returned a tensor when it was loaded")
    if not answer.is_floating_point():
        raise NoAnswer(f"it returns {answer.dtype}, and returned floating-point numbers when it was loaded")
    if answer.ndim < 1 or len(answer) != rows:
        raise NoAnswer(f"it returns shape {tuple(answer.shape)} for {rows} pictures")
    if shape is not None and tuple(answer.shape[1:]) != shape:
        raise NoAnswer(
            f"it returns {tuple(answer.shape[1:])} numbers a picture, and returned {shape} when it was loaded"
        )
    return answer
