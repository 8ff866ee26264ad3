"""Backwards that follow a rule instead of the derivative.

A rule is a `TorchFunctionMode` around one forward, so that it meets functional calls, modules and in-place ones alike;
nothing is registered on the network.
"""

from torch import Tensor
from torch.overrides import TorchFunctionMode

from service.contract import Relevance, Rescale, Rules
from service.engine.network.rules.rectifying import Rectifying
from service.engine.network.rules.relevance import Sharing
from service.engine.network.rules.rescaling import Rescaling
from service.engine.network.rules.slopes import nonzero


def rule_mode(rule: Rules, x: Tensor) -> TorchFunctionMode:
    """Return what lets the backward of all that is called within its block follow a rule, given the network's input."""
    if isinstance(rule, Relevance):
        return Sharing(rule, x)
    return Rescaling(len(x)) if isinstance(rule, Rescale) else Rectifying(rule)


def arrived(rule: Rules | None, signal: Tensor, value: Tensor) -> Tensor:
    """Return what a rule's backward says of a place: the signal that got there, or for relevance what it stands for."""
    if not isinstance(rule, Relevance):
        return signal
    # A first layer's own rule gives a share to what is zero, too; every other one does not.
    return signal * (value if rule.first is None else nonzero(value)).detach()
