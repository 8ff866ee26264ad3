"""Copies of a network that only answer forwards: folded, in another memory layout, in another precision, recorded."""

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from service.engine.network.capture import uninstall
from service.engine.network.forms.failures import checked
from service.engine.network.runtimes.graphs import Recorded, bucket
from service.engine.network.runtimes.running import Runtime
from service.errors import InvalidParameter
from service.models.networks import holding
from service.precision import DTYPES, Precision

EXACT = 1e-5  # largest difference of the outputs, relative to the largest output
ROUNDED = 0.25  # the same of fewer digits: what is above that is no rounding, but another network


@dataclass(frozen=True)
class Variant:
    """A network to send rows through, and how they have to lie in memory."""

    name: str
    module: nn.Module
    precision: Precision = "fp32"
    channels_last: bool = False
    folded: frozenset[str] = frozenset()  # convolutions whose output is that of the batch norm after them
    buckets: bool = False  # whether batches are filled up to a few fixed sizes
    recorded: Recorded | None = None  # replays the module's forward
    runtime: Runtime | None = None  # another library that runs it; where that fails, the module does

    def __call__(self, rows: Tensor) -> Tensor:
        """Return outputs (N, K) in float32 of rows (N, 3, H, W)."""
        if self.runtime is not None and (found := self.runtime(rows)) is not None:
            return found
        count, given = len(rows), self.laid_out(rows)
        if self.buckets and (missing := bucket(count) - count):
            filling = given[-1:].expand(missing, -1, -1, -1)
            given = torch.cat([given, filling]).contiguous(memory_format=self._layout)
        outputs = checked((self.recorded or self.module)(given), len(given))
        return outputs[:count].float()

    @property
    def library(self) -> str:
        """What runs rows."""
        return self.runtime.name if self.runtime is not None and not self.runtime.failed else "torch"

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def laid_out(self, rows: Tensor) -> Tensor:
        """Return rows (N, 3, H, W) as the network takes them: precision, and order in memory."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return rows.to(DTYPES[self.precision], memory_format=layout)


def fold_batch_norms(module: nn.Module, x: Tensor) -> tuple[nn.Module, frozenset[str]]:
    """Return a copy with each batch norm folded into the convolution whose output it takes, and these convolutions.

    Pairs are found by watching a forward of x, so that it does not matter how the network is written. Where the
    convolution's output has other readers too, the copy computes something else: compare before use.
    """
    folded = uninstall(copy.deepcopy(module))
    produced: dict[int, tuple[str, Tensor]] = {}  # tensors are held, so that their ids stay their own
    pairs: list[tuple[str, str]] = []
    calls: list[str] = []
    handles = []

    def after(name: str, output: Tensor) -> None:
        calls.append(name)
        produced[id(output)] = name, output

    def before(name: str, given: Tensor) -> None:
        calls.append(name)
        if id(given) in produced:
            pairs.append((produced[id(given)][0], name))

    known = dict(holding.modules(folded))
    for name, child in known.items():
        if isinstance(child, nn.Conv2d):
            handles.append(child.register_forward_hook(lambda _, __, output, name=name: after(name, output)))
        elif isinstance(child, nn.BatchNorm2d):
            handles.append(child.register_forward_pre_hook(lambda _, given, name=name: before(name, given[0])))
    with torch.no_grad():
        folded(x)
    for handle in handles:
        handle.remove()
    pairs = [
        (convolution, norm)
        for convolution, norm in pairs
        if calls.count(convolution) == calls.count(norm) == 1 and isinstance(known[norm].running_var, Tensor)
    ]
    others: dict[str, nn.Module] = {}
    for convolution, norm in pairs:
        conv, bn = known[convolution], known[norm]
        if not (isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)):
            raise TypeError(f"{convolution!r} and {norm!r} are no convolution and its norm")
        # In float64, so that the folded weights are off by their last bit and no more.
        others |= {convolution: fuse_conv_bn_eval(conv.double(), bn.double()).float(), norm: nn.Identity()}
    holding.replace(folded, others)
    return holding.fixed(folded), frozenset(convolution for convolution, _ in pairs)


def candidates(module: nn.Module, x: Tensor, precision: Precision) -> list[Variant]:
    """Return the ways to run a network in a precision; x (N, C, H, W) is an input. Which one pays, measurement tells.

    All of them compute what the network computes, up to their precision: in float32 to `EXACT`, ten times that on an
    accelerator, and in fewer digits to a quarter of the largest output.

    Raises:
        InvalidParameter: the network cannot run in that precision.
    """
    if precision != "fp32" and any(tensor.is_complex() for tensor in _held(module)):
        raise InvalidParameter.at(
            "/precision",
            f"this network cannot run in {precision}: some of its weights are complex numbers, which lose their "
            "imaginary part in it; use fp32",
        )
    on_gpu = x.is_cuda  # where kernels are chosen by the batch's size, and launching them costs
    plain = [Variant("plain", module, buckets=on_gpu)] if precision == "fp32" else []
    with torch.no_grad():
        expected = module(x)
    ways: list[Variant] = []
    # An accelerator's kernels for another layout add up in another order.
    bound = ROUNDED if precision != "fp32" else 10 * EXACT if on_gpu else EXACT
    problem = "no copy of it can be made"
    for name, copied in _copies(module, x, expected):
        try:
            way = Variant(
                name,
                _converted(copied[0], DTYPES[precision]),
                precision,
                channels_last=True,
                folded=copied[1],
                buckets=on_gpu,
            )
            with torch.no_grad():
                found = way(x)
        except Exception as error:  # networks that keep tensors of their own, or compute in a fixed format
            problem = str(error).strip().partition("\n")[0]
            continue
        if found.shape != expected.shape or not torch.isfinite(found).all():
            problem = "its answers are no finite numbers then"
        elif (off := _off(found, expected)) > bound:
            problem = f"its answers are {off:.0%} of the largest one off then"
        else:
            ways.append(way)
    if not plain and not ways:
        raise InvalidParameter.at("/precision", f"this network cannot run in {precision} ({problem}); use fp32")
    graphs = [replace(way, name=f"{way.name}, graphs", recorded=Recorded(way.module)) for way in ways if on_gpu]
    return plain + graphs + ways


def unmeasured(module: nn.Module, x: Tensor) -> Variant | None:
    """Return the copy that is faster than the network itself on a processor wherever that was measured.

    It is folded and channels last, or only that, and answers to x (N, C, H, W) what the network does, to `EXACT`. None
    where no copy does, or where there is nothing to gain: kernels of convolutions take maps channels last, matrices
    do not care.
    """
    if sum(isinstance(child, nn.Conv2d) for _, child in holding.modules(module)) < 2:
        return None
    with torch.no_grad():
        expected = module(x)
    for name, copied in _unproved(module, x):
        with suppress(Exception):  # networks that keep tensors of their own, or compute in a fixed format
            way = Variant(name, _converted(copied[0], torch.float32), channels_last=True, folded=copied[1])
            with torch.no_grad():
                found = way(x)
            if _same(found, expected):
                return way
    return None


def _off(found: Tensor, expected: Tensor) -> float:
    """Return how far answers are apart, relative to the largest; 0 for boxes, whose order may be another one."""
    if found.ndim == 3:
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _held(module: nn.Module) -> Iterator[Tensor]:
    yield from holding.tensors(module).values()
    yield from holding.kept(module).values()


def _same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= EXACT * expected.abs().max())


def _unproved(module: nn.Module, x: Tensor) -> Iterator[tuple[str, tuple[nn.Module, frozenset[str]]]]:
    """Yield copies of a network in float32, the better ones first, each with the convolutions that are folded in it."""
    with suppress(Exception):
        yield "folded, channels-last", fold_batch_norms(module, x)
    with suppress(Exception):  # some networks cannot be copied
        yield "channels-last", (uninstall(copy.deepcopy(module)), frozenset())


def _copies(module: nn.Module, x: Tensor, expected: Tensor) -> Iterator[tuple[str, tuple[nn.Module, frozenset[str]]]]:
    """Yield copies of a network in float32, each with the convolutions that are folded in it."""
    with suppress(Exception):  # some networks cannot be copied
        yield "channels-last", (uninstall(copy.deepcopy(module)), frozenset())
    with suppress(Exception):
        folded, convolutions = fold_batch_norms(module, x)
        with torch.no_grad():
            found = folded(x)
        if float((found - expected).abs().max()) <= EXACT * float(expected.abs().max()):
            yield "folded, channels-last", (folded, convolutions)


def _converted(copied: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy in another precision, and what it keeps of earlier forwards with it."""
    if dtype is not torch.float32:  # which it has already
        holding.cast(copied, dtype)

    def last(value: Tensor) -> Tensor:
        return value.to(memory_format=torch.channels_last) if value.ndim == 4 else value

    holding.apply(copied, last, attributes=False)
    return copied
