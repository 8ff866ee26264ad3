"""What the numbers are that a network with classes answers, and how one is had from the other."""

import torch
from torch import Tensor

from service.contract import Scale, Score

_LEAST = 1e-38  # of a probability, so that its logarithm is a number
_MOST = 1 - 2**-24  # the largest float32 below 1


def exclusive(outputs: Tensor, scale: Scale, kind: Score, dim: int = -1) -> Tensor:
    """Return logits or probabilities of classes that exclude each other, along an axis of the outputs.

    The logit of a probability p is log p: the logits of a softmax, but for one number that all classes share.
    """
    if kind == "probability":
        if scale == "logits":
            return outputs.softmax(dim)
        return outputs if scale == "probabilities" else outputs.exp()
    return outputs.clamp(min=_LEAST).log() if scale == "probabilities" else outputs


def independent(outputs: Tensor, scale: Scale, kind: Score) -> Tensor:
    """Return logits or probabilities of classes of which each is there or not.

    The logit of a probability p is log(p / (1 - p)).
    """
    if kind == "probability":
        if scale == "logits":
            return outputs.sigmoid()
        return outputs if scale == "probabilities" else outputs.exp()
    if scale == "logits":
        return outputs
    p = outputs if scale == "probabilities" else outputs.exp()
    return p.clamp(_LEAST, _MOST).logit()


def odds(logits: Tensor, index: int, dim: int = -1) -> Tensor:
    """Return the log-odds of one of several classes that exclude each other: y_c - logsumexp of the other logits.

    It is log(p / (1 - p)) for any p, however near to 0 or 1. A class that is alone has its logit.
    """
    own = logits.select(dim, index)
    if logits.shape[dim] == 1:
        return own
    others = [i for i in range(logits.shape[dim]) if i != index]
    return own - logits.index_select(dim, torch.tensor(others, device=logits.device)).logsumexp(dim)
