"""The random generators that networks draw from without naming one."""

import random
import sys
from typing import Any

import torch


def generators() -> tuple[object, ...]:
    """Return the states of PyTorch's generators, Python's and NumPy's: equal as long as nobody draws from them."""
    return _state(torch.get_rng_state()), _devices(), random.getstate(), _of_numpy()


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
    kind, words, *rest = numpy.random.get_state()
    return kind, words.tobytes(), *rest
