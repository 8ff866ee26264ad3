"""Whether a network computes on its device what it computes on a processor.

Kernels of accelerators differ in more than their last digits where they are wrong, or are missing and fall back in
silence; so nothing of a device has to be believed. One picture is answered on both, and one gradient is taken.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.contract import Check, Readout
from service.engine.network.proofs.checks import Refused, difference, first_line
from service.models.networks.holding import moved

OUTPUTS = 1e-3  # largest difference of outputs, relative to the largest one
# Of the gradient at the input, by its length: rounding decides which ReLU is open near zero, and moves single values.
GRADIENT = 0.05


def elsewhere(device: torch.device) -> bool:
    """Whether a device's answers have to be held against a processor's: it is none."""
    return device.type != "cpu"


@dataclass(frozen=True)
class Answer:
    """What a network says of one picture."""

    outputs: Tensor  # (1, K)
    gradient: Tensor | None  # (1, C, H, W) of the largest output; None where none gets to the input


def answer(network: nn.Module, x: Tensor, readout: Readout, *, gradient: bool) -> Answer:
    """Return outputs, and the gradient of the largest one at the input, on the processor."""
    if not gradient:
        with torch.no_grad():
            return Answer(readout(network(x)).float().cpu(), None)
    given = x.clone().requires_grad_(True)
    with torch.enable_grad():
        outputs = readout(network(given)).float()
        (found,) = torch.autograd.grad(outputs.amax(1).sum(), given)
    return Answer(outputs.detach().cpu(), found.float().cpu())


def held(name: str, device: str, there: Answer, here: Answer, checks: tuple[Check, ...]) -> Check:
    """Return the line that says how near two answers are.

    Raises:
        Refused: they are not near enough; the message has the figure.
    """
    off = difference(there.outputs, here.outputs)
    problem = None if off <= OUTPUTS else f"outputs are {off:.1e} of the largest one off the processor's"
    told = f"outputs within {off:.1e} of the processor's"
    if there.gradient is not None and here.gradient is not None:
        length = float(torch.linalg.vector_norm(here.gradient))
        apart = float(torch.linalg.vector_norm(there.gradient - here.gradient)) / max(length, 1e-30)
        told += f", a gradient within {apart:.1e}"
        if problem is None and not apart <= GRADIENT:
            problem = f"a gradient is {apart:.1e} of its length off the processor's"
    if problem is None:
        return Check("device", "passed", f"on {device}, {told}")
    remedy = "serve it on the processor: --device cpu"
    refused = Check("device", "refused", f"on {device}, {problem}", remedy)
    raise Refused(f"model {name!r}: on {device}, {problem}; {remedy}", (*checks, refused))


def prove(
    name: str, network: nn.Module, x: Tensor, readout: Readout, checks: tuple[Check, ...], *, gradient: bool
) -> Check:
    """Hold a network on its device against the same on the processor; return the line that says how near they are.

    Args:
        name: the model's.
        network: on its device. It is moved to the processor meanwhile, and is where it was afterwards.
        x: a picture (1, C, H, W) on the device.
        readout: makes a table of answers.
        checks: what was looked at before.
        gradient: whether one gets to the input.

    Raises:
        Refused: they differ.
    """
    there = answer(network, x, readout, gradient=gradient)
    try:
        with _on_the_processor(network, x.device):
            here = answer(network, x.cpu(), readout, gradient=gradient)
    except (
        Exception,
        SystemExit,
    ) as error:  # what is compiled for a device, or keeps tensors of its own, runs nowhere else
        found = f"it does not run on a processor to be compared with ({first_line(error)})"
        return Check("device", "warning", found, "compare some of its answers on your own")
    return held(name, str(x.device), there, here, checks)


@contextmanager
def _on_the_processor(network: nn.Module, device: torch.device) -> Iterator[None]:
    moved(network, "cpu")
    try:
        yield
    finally:
        moved(network, device)
