"""Copies of a network that only answer forwards: folded, in another memory layout, in another precision."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from service.engine.precision import DTYPES, Precision
from service.engine.tape import uninstall

EXACT = 1e-5  # largest difference of the outputs, relative to the largest output


@dataclass(frozen=True)
class Variant:
    """A network to send rows through, and how they have to lie in memory."""

    name: str
    module: nn.Module
    precision: Precision = "fp32"
    channels_last: bool = False

    def __call__(self, rows: Tensor) -> Tensor:
        """Return outputs (N, K) in float32 of rows (N, 3, H, W)."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        outputs: Tensor = self.module(rows.to(DTYPES[self.precision], memory_format=layout))
        return outputs.float()


def fold_batch_norms(module: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy with each batch norm folded into the convolution whose output it takes.

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

    for name, child in folded.named_modules():
        if isinstance(child, nn.Conv2d):
            handles.append(child.register_forward_hook(lambda _, __, output, name=name: after(name, output)))
        elif isinstance(child, nn.BatchNorm2d):
            handles.append(child.register_forward_pre_hook(lambda _, given, name=name: before(name, given[0])))
    with torch.inference_mode():
        folded(x)
    for handle in handles:
        handle.remove()
    for convolution, norm in pairs:
        if calls.count(convolution) == calls.count(norm) == 1:
            conv, bn = folded.get_submodule(convolution), folded.get_submodule(norm)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(bn, nn.BatchNorm2d)
            # In float64, so that the folded weights are off by their last bit and no more.
            _replace(folded, convolution, fuse_conv_bn_eval(conv.double(), bn.double()).float())
            _replace(folded, norm, nn.Identity())
    return folded.requires_grad_(False)


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def candidates(module: nn.Module, x: Tensor, precision: Precision) -> list[Variant]:
    """Return the ways to run a network in a precision; x (N, 3, H, W) is an input. Which one pays, measurement tells.

    All of them compute what the network computes, up to their precision: in float32 to `EXACT`.
    """
    plain = [Variant("plain", module)] if precision == "fp32" else []
    copies = {"channels-last": uninstall(copy.deepcopy(module))}
    folded = fold_batch_norms(module, x)
    with torch.inference_mode():
        expected, found = module(x), folded(x)
    if float((found - expected).abs().max()) <= EXACT * float(expected.abs().max()):
        copies["folded, channels-last"] = folded
    return plain + [
        Variant(name, copied.to(DTYPES[precision]).to(memory_format=torch.channels_last), precision, True)
        for name, copied in copies.items()
    ]
