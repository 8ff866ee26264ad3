"""Why a network cannot be served as it is, and what to change: found by trying it on other inputs.

What a network raises is written for its author. Whether it takes one channel, 96 pixels or two inputs shows when it is
given that.
"""

import copy
import inspect
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from service.errors import CatalogError
from service.images import Transform
from service.models.networks import holding
from service.models.networks.forms import LESS, BlackBox

_NOT_THEIRS = Path(torch.__file__).parent, Path(__file__).parents[2]  # folders of nobody's networks
_PATIENCE_S = 20.0
# Parts of what PyTorch raises where there is no such device, or tensors of two of them meet.
_ELSEWHERE = ("NVIDIA driver", "not compiled with CUDA", "No CUDA GPUs", "on the same device", "No HIP GPUs")
_BATCHES = (4, 8, 16, 32)  # sizes that people write into their forwards
_SIZES = (224, 256, 299, 384, 32, 28, 64, 96, 128, 48, 112, 160, 192, 240, 288, 320, 336, 448, 512, 518)


def refusal(name: str, transform: Transform, network: nn.Module, error: BaseException) -> CatalogError:
    """Return the reason for which a network did not load, with the remedy.

    Args:
        name: of the model.
        transform: what the network is given.
        network: it.
        error: what it raised.
    """
    device = next((value.device for value in holding.tensors(network).values()), torch.device("cpu"))
    size = (2, len(transform.channels), *transform.crop)
    given = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device)
    if isinstance(error, CatalogError):  # it answers, and with nothing that can be explained
        remedy = _rows(given, network)
        return error if remedy is None else CatalogError(f"model {name!r}: {remedy}")
    return CatalogError(f"model {name!r}: {_reason(given, network, error)}")


def _reason(given: Tensor, network: nn.Module, error: BaseException) -> str:
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
    if any(words in str(raised) for words in _ELSEWHERE):
        return (
            f"its forward moves tensors to a device of its own choice ({_short(raised)}); leave .cuda() and .to(...) "
            "out of it, and make tensors with device=x.device"
        )
    if doubled := _doubled(given, network):
        return doubled
    if cast := _cast(given, network):
        return cast
    if around := _around(given, network):
        return around
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


def _doubled(given: Tensor, network: nn.Module) -> str | None:
    """Return which tensor a network keeps in float64, where it answers with it in float32."""
    names = [name for name, value in holding.kept(network).items() if value.dtype == torch.float64]
    if not names:
        return None
    try:
        copied = holding.cast(copy.deepcopy(network), torch.float32)
    except Exception:  # some networks cannot be copied
        return None
    if _tried(copied, given) is not None:
        return None
    return f"it keeps {names[0]!r} in float64, as NumPy makes numbers, and computes in float32; keep it in float32"


class _Uncast(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets a forward's casts to other floating-point types be none, and keeps to which one the first was, and where."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call; a cast gets another type."""
        kwargs = kwargs or {}
        dtype = kwargs.get("dtype")
        if func is torch.ops.aten._to_copy.default and dtype in LESS and args[0].dtype == torch.float32:
            self.first = self.first or str(dtype).removeprefix("torch.") + _line()
            kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)


def _line() -> str:
    """Return which line of a network's own is being run; nothing where none is."""
    inner = takewhile(lambda frame: frame.name != "_tried", reversed(traceback.extract_stack()))
    own = (frame for frame in inner if not any(folder in Path(frame.filename).parents for folder in _NOT_THEIRS))
    place = next(own, None)
    return f" in {Path(place.filename).name}, line {place.lineno}: {place.line}" if place else ""


def _cast(given: Tensor, network: nn.Module) -> str | None:
    """Return where a network casts to another type, as that of its weights was, if it answers without."""
    with _Uncast() as uncast:
        raised = _tried(network, given)
    if raised is not None or uncast.first is None:
        return None
    return (
        f"its weights are served in float32, and its forward casts to {uncast.first}; leave that cast out, or cast to "
        "the type that its weights have"
    )


def _rows(given: Tensor, network: nn.Module) -> str | None:
    """Return which input a network makes one row a picture of, where it makes more or fewer of what it is given."""
    n, channels, height, width = given.shape
    found = _count(network, given)
    if found in (None, n):
        return None
    started = time.monotonic()
    for count in dict.fromkeys((channels, 1, 3, 4)):
        for size in dict.fromkeys(((height, width), *((side, side) for side in _SIZES))):
            if time.monotonic() - started > _PATIENCE_S:
                return None
            if _count(network, torch.randn(n, count, *size, device=given.device)) == n:
                keys = [f"input_size = {size[0]}"] * (size != (height, width)) + [f"channels = {count}"] * (
                    count != channels
                )
                return (
                    f"it makes {found} rows of {n} pictures of {channels} x {height} x {width}, and one a picture of "
                    f"{count} x {size[0]} x {size[1]}; set {' and '.join(keys)}"
                )
    return None


def _count(network: nn.Module, x: Tensor) -> int | None:
    """Return how many rows a network answers with; None where it does not, or with something else."""
    try:
        with torch.no_grad():
            found = network(x.clone())
    except (Exception, SystemExit):
        return None
    return len(found) if isinstance(found, Tensor) and found.ndim else None


class _Anything(dict[Any, Tensor]):
    """A dictionary that has the pictures under every key, and keeps which ones were asked for."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.pictures, self.asked = pictures, list[Any]()

    def __missing__(self, key: Any) -> Tensor:
        self.asked.append(key)
        return self.pictures.clone()

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key]


def _around(given: Tensor, network: nn.Module) -> str | None:
    """Return in what a network takes its pictures, where it takes them in something."""
    wrap = "wrap it in a module whose forward takes the pictures, and returns self.network"
    held = _Anything(given)
    if _tried(network, held) is None and held.asked:
        names = ", ".join(f"{key!r}: x" for key in dict.fromkeys(held.asked))
        return f"its forward takes a dictionary; {wrap}({{{names}}})"
    if _tried(network, list(given)) is None:
        return f"its forward takes a list of pictures; {wrap}(list(x))"
    if (name := _keyword(network)) and _tried(network, **{name: given}) is None:
        return f"its forward takes its pictures by name alone; {wrap}({name}=x)"
    return None


def _keyword(network: nn.Module) -> str | None:
    """Return the name of a forward's first input, where it has to be named."""
    try:
        first = next(iter(inspect.signature(network.forward).parameters.values()), None)
    except (TypeError, ValueError):
        return None
    return first.name if first is not None and first.kind is inspect.Parameter.KEYWORD_ONLY else None


def _inputs(given: Tensor, network: nn.Module) -> Iterator[tuple[Tensor, str]]:
    """Yield inputs that a network may take instead, and what to do then."""
    n, channels, height, width = given.shape
    yield given.sigmoid(), "it takes values 0 to 1; set mean = 0.0 and std = 1.0, or let its forward take others"
    yield (
        given.sigmoid() * 255,
        "it takes values 0 to 255; set range = [0, 255], mean = 0.0 and std = 1.0, or let its forward take others",
    )
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
    for count in _BATCHES:
        many = given.repeat(-(-count // n), 1, 1, 1)[:count]
        if isinstance(network, BlackBox):
            yield many, f"it was exported for batches of {count}; export it with dynamic_shapes={{0: Dim('batch')}}"
        yield (
            many,
            f"it takes batches of {count} and no others; write x.shape[0], or -1, where its forward has the number",
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
    return next((module for _, module in holding.modules(network) if isinstance(module, layers)), None)


def _other_inputs(network: nn.Module) -> list[str]:
    """Return the names of inputs that a forward needs beside the first."""
    if isinstance(network, BlackBox):
        schema = getattr(getattr(network.held[0], "forward", None), "schema", None)  # of TorchScript
        arguments = list(getattr(schema, "arguments", ()))[2:]  # behind itself and the pictures
        return [argument.name for argument in arguments if not argument.has_default_value()]
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


def _tried(network: nn.Module, *given: Any, **named: Any) -> BaseException | None:
    """Return what a network raises on an input; None where it answers."""
    try:
        with torch.no_grad():
            network(*(x.clone() if isinstance(x, Tensor) else x for x in given), **named)
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
