"""Why a network cannot be served as it is, and what to change: found by trying it on other inputs.

What a network raises is written for its author. Whether it takes one channel, 96 pixels or two inputs shows when it is
given that.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from service.errors import CatalogError
from service.images import Transform
from service.models.networks.forms import BlackBox

_PATIENCE_S = 20.0
_SIZES = (224, 256, 299, 384, 32, 28, 64, 96, 128, 48, 112, 160, 192, 240, 288, 320, 336, 448, 512, 518)


def refusal(name: str, transform: Transform, network: nn.Module, error: BaseException) -> CatalogError:
    """Return the reason for which a network did not load, with the remedy.

    Args:
        name: of the model.
        transform: what the network is given.
        network: it.
        error: what it raised.
    """
    return CatalogError(f"model {name!r}: {_reason(transform, network, error)}")


def _reason(transform: Transform, network: nn.Module, error: BaseException) -> str:
    channels, (height, width) = len(transform.channels), transform.crop
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    given = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    if others := _other_inputs(network):
        listed = ", ".join(repr(name) for name in others)
        return (
            f"its forward takes {1 + len(others)} inputs, and one picture is explained; bind {listed} in the "
            "factory, by a "
            "module whose forward takes the picture alone"
        )
    if _writes(network, given):
        return "its forward writes into its own input, which others read too; let it begin with x = x.clone()"
    raised = _tried(network, given)
    if raised is None:
        if _tried(network, given[:1]) is not None:
            if isinstance(network, BlackBox):
                return "it was exported for batches of one size; export it with dynamic_shapes={0: Dim('batch')}"
            return (
                "it takes two pictures but not one, as where squeeze() drops the axis of a batch of one; write "
                "flatten(1), or "
                "squeeze by its axis"
            )
        return (
            f"its forward answers, but it cannot be examined ({_short(error)}); its factory has to return a plain "
            "nn.Module"
        )
    if isinstance(raised, NotImplementedError) and "forward" in str(raised):
        return f"a {type(network).__name__} has no forward of its own; return the module that computes the outputs"
    started = time.monotonic()
    for x, remedy in _inputs(given, network):
        if _tried(network, x) is None:
            return remedy
        if time.monotonic() - started > _PATIENCE_S:
            break
    return (
        f"its forward raises {_short(raised)} on pictures {tuple(given.shape)} float32; run it on such an input in "
        "Python, and "
        "set channels or input_size where it takes others"
    )


def _inputs(given: Tensor, network: nn.Module) -> Iterator[tuple[Tensor, str]]:
    """Yield inputs that a network may take instead, and what to do then."""
    n, channels, height, width = given.shape
    if isinstance(first := _first(network), nn.Conv2d) and first.in_channels not in (1, 3, 4):
        x = torch.zeros(n, first.in_channels, height, width, device=given.device)
        yield (
            x,
            f"it takes {first.in_channels} channels, and pictures have 1, 3 or 4; make them in its forward",
        )
    for count in (1, 3, 4):
        if count != channels:
            x = given[:, :1].expand(-1, count, -1, -1).clone()
            yield x, f"it takes {count} channels, and is given {channels}; set channels = {count}"
    yield (
        given[:1],
        (
            "it takes one picture at a time, and explanations need batches; let its forward take any number of rows, "
            "or export with dynamic_shapes={0: Dim('batch')}"
        ),
    )
    kinds: Mapping[str, Callable[[Tensor], Tensor]] = {
        "float16": Tensor.half,
        "bfloat16": Tensor.bfloat16,
        "float64": Tensor.double,
    }
    for name, cast in kinds.items():
        yield (
            cast(given),
            f"its forward computes in {name}, and inputs are float32; leave out what casts to {name} in it",
        )
    yield (
        given.to(torch.uint8),
        "it takes whole numbers 0 to 255; let its forward take float32, and set range = [0, 255]",
    )
    yield given.long().clamp(0), "it takes whole numbers, as of tokens; networks of pictures are explained here"
    yield given.permute(0, 2, 3, 1), "it takes channels last; let its forward begin with x = x.permute(0, 2, 3, 1)"
    yield given[0], "it takes one picture without a batch; let its forward take (N, channels, height, width)"
    yield given.flatten(1), "it takes flat vectors; let its forward begin with x = x.flatten(1)"
    yield given[:, :, None], "it takes five axes, as of films or volumes; let its forward begin with x = x[:, :, None]"
    yield (
        given[:, :, None].expand(-1, -1, 16, -1, -1),
        ("it takes five axes, as of films or volumes; one picture is explained: repeat it in the factory's module"),
    )
    for count in (channels, *(c for c in (1, 3, 4) if c != channels)):
        for side in _SIZES:
            if (side, side) != (height, width):
                keys = f"input_size = {side}" + (f" and channels = {count}" if count != channels else "")
                x = torch.randn(n, count, side, side, device=given.device)
                yield x, f"it does not take {height} x {width}, and takes {side} x {side}; set {keys}"


def _first(network: nn.Module) -> nn.Module | None:
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return next((module for module in network.modules() if isinstance(module, layers)), None)


def _other_inputs(network: nn.Module) -> list[str]:
    """Return the names of inputs that a forward needs beside the first."""
    try:
        parameters = list(inspect.signature(network.forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return []
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    return [p.name for p in parameters if p.kind in positional and p.default is inspect.Parameter.empty]


def _tried(network: nn.Module, x: Tensor) -> BaseException | None:
    """Return what a network raises on an input; None where it answers."""
    try:
        with torch.no_grad():
            network(x.clone())
    except (Exception, SystemExit) as error:
        return error
    return None


def _writes(network: nn.Module, x: Tensor) -> bool:
    """Whether a network answers by way of its own input, which it changes."""
    given = x.clone()
    try:
        with torch.no_grad():
            network(given)
    except (Exception, SystemExit):
        return False
    return not torch.equal(given, x)


def _short(error: Any) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:240]}" if text else type(error).__name__
