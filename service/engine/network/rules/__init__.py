"""Backwards that follow a rule instead of the derivative.

A rule is a `TorchFunctionMode` around one forward, so that it meets functional calls, modules and in-place ones alike;
nothing is registered on the network.
"""

from dataclasses import replace

from torch import Tensor
from torch.overrides import TorchFunctionMode

from service.contract import Placing, Readout, Relevance, Rescale, Rule, Rules
from service.engine.network.rules.rectifying import Rectifying
from service.engine.network.rules.relevance import Sharing
from service.engine.network.rules.rescaling import Rescaling
from service.engine.network.rules.slopes import nonzero


def rule_mode(rule: Rules, x: Tensor) -> TorchFunctionMode:
    """Return what lets the backward of all that is called within its block follow a rule, given the network's input."""
    if isinstance(rule, Relevance):
        return Sharing(rule, x)
    return Rescaling(len(x)) if isinstance(rule, Rescale) else Rectifying(rule)


def read(readout: Readout | None, raw: Tensor, rule: Rules | None) -> Tensor:
    """Return the table that a readout makes of answers, by the rule of a backward where that holds for it, too.

    Args:
        readout: None: the answers are one.
        raw: the answers (N, ...); where a rule compares, those to the references are the second half.
        rule: None: the derivative.
    """
    if isinstance(rule, Relevance) and isinstance(readout, Placing):
        raw = readout.amounts(raw)
    if readout is None or rule is None or not readout.ruled or isinstance(rule, Rule):
        return raw if readout is None else readout(raw)
    # No layer in it is the network's first one.
    with rule_mode(replace(rule, first=None) if isinstance(rule, Relevance) else rule, raw):
        return readout(raw)


def arrived(rule: Rules | None, signal: Tensor, value: Tensor) -> Tensor:
    """Return what a rule's backward says of a place: the signal that got there, or for relevance what it stands for."""
    if not isinstance(rule, Relevance):
        return signal
    # A first layer's own rule gives a share to what is zero, too; every other one does not.
    return signal * (value if rule.first is None else nonzero(value)).detach()
