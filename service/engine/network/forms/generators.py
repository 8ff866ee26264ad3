"""The random generators that networks draw from: those of the libraries, without naming one, and their own."""

import random
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from service.models.networks import enclosed


def generators() -> tuple[object, ...]:
    """Return the states of PyTorch's generators, Python's and NumPy's: equal as long as nobody draws from them."""
    return _state(torch.get_rng_state()), _devices(), random.getstate(), _of_numpy()


def own_generators(network: nn.Module) -> dict[str, object]:
    """Return the states of the generators that a network, its functions and its objects hold, by where they are."""
    found = {name: _of_object(value) for name, value in enclosed.reached(network)}
    return {name: state for name, state in found.items() if state is not None}


def advanced(before: Mapping[str, object], network: nn.Module) -> str | None:
    """Return where one of a network's own generators is, whose state after a picture is not what it was before.

    Args:
        before: the states after an earlier forward of the same picture; a forward that sets its generators back leaves
            them so again.
        network: it.
    """
    now = own_generators(network)
    return next((name for name, state in before.items() if now.get(name, state) != state), None)


def _of_object(value: Any) -> object:
    """Return the state of a generator that somebody made; None of anything else."""
    if isinstance(value, torch.Generator):
        return None if value is torch.default_generator else _state(value.get_state())
    if isinstance(value, random.Random):
        of_all = value is getattr(random.choice, "__self__", None) or isinstance(value, random.SystemRandom)
        return None if of_all else value.getstate()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        of_all = value is getattr(numpy.random.random_sample, "__self__", None)
        return None if of_all else _plain(value.get_state())
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return _plain(value.bit_generator.state)
    return None


def _plain(state: Any) -> object:
    """Return a state whose arrays are bytes, so that it equals another one."""
    if isinstance(state, dict):
        return {key: _plain(item) for key, item in state.items()}
    if isinstance(state, tuple):
        return tuple(map(_plain, state))
    return state.tobytes() if hasattr(state, "tobytes") else state


def _state(state: torch.Tensor) -> bytes:
    return state.numpy().tobytes()


def _devices() -> tuple[bytes, ...]:
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
        return ()
    return tuple(map(_state, torch.cuda.get_rng_state_all()))


def _of_numpy() -> tuple[object, ...]:
    numpy: Any = sys.modules.get("numpy")  # who draws from it has imported it
    if numpy is None:
        return ()
    return (_plain(numpy.random.get_state()),)
