"""How a network is known again, of which something was found earlier: by what it answers to the probe picture.

Its weights alone do not tell: the code around them, or a library's version, may compute otherwise with the same ones.
"""

from collections.abc import Sequence

import torch

from service.engine.network.resident import Model

_NUMBERS = 1000  # of an answer
_ALIKE = 1e-3  # largest difference of two answers, relative to the largest output


def answer_of(model: Model) -> list[float]:
    """Return what a model answers to the probe picture, or a thousand numbers of that.

    To be called by whoever alone has the model: before it is served, or on the device thread.
    """
    with torch.inference_mode(not model.examined.keeps), torch.no_grad():
        flat = model.module(model.example()[:1]).flatten().cpu()
    found: list[float] = flat[:: max(1, len(flat) // _NUMBERS)].tolist()
    return found


def alike(before: Sequence[float], now: Sequence[float]) -> bool:
    """Whether two answers are the same but for what another machine's arithmetic makes of them."""
    largest = max(map(abs, now), default=0.0)
    return len(before) == len(now) and all(abs(a - b) <= _ALIKE * largest for a, b in zip(before, now, strict=True))
