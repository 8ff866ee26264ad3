"""Whether a network's outputs are a linear map of averaged maps, proved by numbers.

Any matrix of the network may be that map: a linear layer's, a 1 x 1 convolution's, a bare parameter, one behind a batch
norm of averages, or the mean of two of them. A layer's maps, averaged over their places, are multiplied by it; where
the outputs follow that product from picture to picture, the identity holds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from service.contract import Head
from service.models.networks import holding

# Largest relative error at which sum(map)/(h*w) + bias counts as equal to the output. Floating-point noise stays below
# 1e-5; a head of another structure misses by far more than 1e-3.
TOLERANCE = 1e-4
_FOLLOWS = 1e-2  # the same, of the differences between pictures: less of them is noise


@dataclass(frozen=True)
class Averaged:
    """A layer's maps, averaged over their places."""

    address: str
    means: Tensor  # (N, C)


@dataclass(frozen=True)
class _Matrix:
    weight: Tensor  # (K, C)
    bias: Tensor | None  # (K,), where one stands beside it


def prove(module: nn.Module, layers: Sequence[Averaged], outputs: Tensor) -> Head | None:
    """Return the head of a network with outputs (N, K) of N different pictures; None where none is proved.

    Layers are tried from the last to the first.
    """
    known: dict[int, tuple[list[_Matrix], list[_Matrix]]] = {}
    for layer in reversed(layers):
        channels = layer.means.shape[1]
        if channels not in known:
            single = list(_matrices(module, outputs.shape[1], channels, outputs))
            known[channels] = single, list(_pairs(single))
        for matrices in known[channels]:
            held = [head for matrix in matrices if (head := _held(layer, matrix, outputs))]
            if held:  # a matrix that is nearly another one's multiple follows, too, but less closely
                return min(held, key=lambda head: head.residual)
    return None


def widths(module: nn.Module, outputs: int) -> set[int]:
    """Return the numbers of channels that a layer may have whose averages are mapped to so many outputs."""
    found = {outputs}  # pooling may come last
    for value in holding.parameters(module).values():
        shape = value.shape[:2] if value.ndim == 4 and value.shape[2:] == (1, 1) else value.shape
        if len(shape) == 2 and outputs in shape:
            found.update(shape)
    return found


def _held(layer: Averaged, matrix: _Matrix, outputs: Tensor) -> Head | None:
    """Return the head, where the outputs follow a layer's averages through a matrix, up to a factor and a bias."""
    product = layer.means @ matrix.weight.T  # (N, K)
    for bias in (matrix.bias, torch.zeros_like(outputs[0])):
        if bias is not None and _says(outputs - bias, outputs) and _residual(product, outputs - bias) <= TOLERANCE:
            return Head(layer.address, matrix.weight, bias, _residual(product, outputs - bias))
    p, y = product - product.mean(0), outputs - outputs.mean(0)
    size = float((p * p).sum())
    if not size > 0 or not _says(y, outputs):
        return None
    factor = float((p * y).sum()) / size
    if abs(factor - 1) < 1e-3:
        factor = 1.0
    if factor == 0 or _residual(factor * p, y) > _FOLLOWS:
        return None
    bias = (outputs - factor * product).mean(0)
    residual = _residual(factor * product, outputs - bias)
    return Head(layer.address, factor * matrix.weight, bias, residual) if residual <= TOLERANCE else None


def _says(evidence: Tensor, outputs: Tensor) -> bool:
    """Whether numbers are more than noise: nothing is proved by outputs that say nothing, as of a head of zeros."""
    return bool(evidence.abs().max() > 1e-6 * outputs.abs().max().clamp(min=1e-6))


def _residual(product: Tensor, evidence: Tensor) -> float:
    """Return the largest error of a product, relative to the largest of what it should be."""
    return float((product - evidence).abs().max() / evidence.abs().max().clamp(min=1e-12))


def _matrices(module: nn.Module, outputs: int, channels: int, like: Tensor) -> Iterator[_Matrix]:
    """Yield the matrices (K, C) that may be a head."""
    for _, parent in holding.modules(module):
        for value in parent._parameters.values():
            if value is None or value.is_quantized or not value.is_floating_point():
                continue
            flat = value.flatten(1) if value.ndim == 4 and value.shape[2:] == (1, 1) else value
            bias = getattr(parent, "bias", None)
            own = bias.detach() if isinstance(bias, Tensor) and bias.shape == (outputs,) else None
            if flat.shape == (outputs, channels):
                yield _Matrix(flat.detach(), own)
            elif flat.shape == (channels, outputs):
                yield _Matrix(flat.detach().T, own)
        yield from _folded(parent, outputs, channels)
    if outputs == channels and outputs > 1:  # pooling comes last: a map is its class's own
        yield _Matrix(torch.eye(outputs, device=like.device, dtype=like.dtype), None)


def _pairs(single: Sequence[_Matrix]) -> Iterator[_Matrix]:
    """Yield the means of two matrices each."""
    for a, b in combinations(single[-8:], 2):
        bias = None if a.bias is None or b.bias is None else (a.bias + b.bias) / 2
        yield _Matrix((a.weight + b.weight) / 2, bias)


def _folded(parent: nn.Module, outputs: int, channels: int) -> Iterator[_Matrix]:
    """Yield a linear layer with a batch norm of what it is given folded into it, where they stand side by side."""
    children = [part.module for part in (*holding.parts(parent), *holding.beside(parent))]
    for norm in children:
        if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or norm.num_features != channels:
            continue
        if norm.running_var is None:
            continue
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        for linear in children:
            if isinstance(linear, nn.Linear) and linear.weight.shape == (outputs, channels):
                yield _Matrix((linear.weight * scale).detach(), None)
