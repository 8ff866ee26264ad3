"""What is known of a network before any request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.errors import InvalidParameter, NotApplicable, did_you_mean

if TYPE_CHECKING:
    from service.contract.meaning import Task


@dataclass(frozen=True)
class LayerInfo:
    """One address inside a network, as seen in a forward pass at load."""

    path: str  # `named_modules()` path; `#n` for the n-th call, `+relu` for what the network's own ReLU makes of it
    type: str
    shape: tuple[int, ...]  # without the batch dimension
    spatial: bool  # (C, h, w) and not tokens or channels-last
    followed_by: str | None = None  # name of the activation function that takes this output directly
    kernel: tuple[int, ...] | None = None  # weight shape of a convolution

    @property
    def activated(self) -> str:
        """The address of what the activation function that follows makes of this output; the path, where none does."""
        return f"{self.path}+{self.followed_by}" if self.followed_by else self.path


@dataclass(frozen=True)
class Head:
    """A proved identity `output == weight @ mean(A) + bias` with A the output of `layer`."""

    layer: str
    weight: Tensor  # (K, C)
    bias: Tensor  # (K,)
    residual: float  # largest relative error of the identity on the probe input


@dataclass(frozen=True)
class Facts:
    """What is known of a network before any request."""

    name: str
    task: Task
    outputs: int
    input_size: tuple[int, int]  # (H, W)
    mean: tuple[float, ...]  # a channel, of values 0..1
    std: tuple[float, ...]
    layers: Mapping[str, LayerInfo]
    default_layer: str | None
    head: Head | None
    rectifiers: int  # ReLU and ReLU6 calls of one forward
    max_pools: int = 0  # max pooling calls of one forward
    other_activations: tuple[str, ...] = ()  # names of smooth activation functions called
    labels: tuple[str, ...] = ()  # one an output, or none at all
    channels: str = "rgb"  # of the input, a letter each, in order: r, g, b; l is grey, a is opacity

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of one input."""
        return (len(self.channels), *self.input_size)

    def label(self, index: int) -> str:
        """Return an output's label, or its number where there are none."""
        return self.labels[index] if self.labels else str(index)

    def layer(self, path: str | None, pointer: str = "/params/layer") -> LayerInfo:
        """Return a layer with spatial maps: the one asked for, or the default one.

        Raises:
            InvalidParameter: no such layer, or its output has no spatial maps.
            NotApplicable: none was asked for and the model has no default one.
        """
        if path is None:
            if self.default_layer is None:
                named = next((layer.path for layer in self.layers.values() if layer.spatial), None)
                raise NotApplicable(
                    f"{self.name} ends in tokens, not in a spatial feature map, so there is no default layer; "
                    + (f"name one in params.layer (for example {named!r}), or " if named else "")
                    + "use 'saliency' or 'occlusion', which need no layer"
                )
            path = self.default_layer
        if path not in self.layers:
            raise InvalidParameter.at(
                pointer,
                f"layer {path!r} is not in {self.name}{did_you_mean(path, self.layers)} "
                f"GET /models/{self.name}/layers lists all",
            )
        info = self.layers[path]
        if not info.spatial:
            raise InvalidParameter.at(
                pointer,
                f"layer {path!r} of {self.name} has output {info.shape}, which is no (channels, height, width) "
                f"map; the default layer is {self.default_layer!r}",
            )
        return info

    def require_spatial(self, method: str) -> None:
        """Raise `NotApplicable` where no layer at all has spatial maps."""
        if not any(layer.spatial for layer in self.layers.values()):
            raise NotApplicable(
                f"{method} needs a layer with (channels, height, width) maps and {self.name} has none; "
                "use 'saliency' or 'occlusion', which need no layer"
            )

    def colour(self, rgb: Sequence[float]) -> Tensor:
        """Return an opaque RGB colour, each 0..1, in the model's input space: (C, 1, 1).

        Grey is the colour's luma (ITU-R BT.601), as pictures are made grey for the model.
        """
        return self.painted(torch.tensor(tuple(rgb), dtype=torch.float32).view(1, 3, 1, 1))[0]

    def painted(self, rgb: Tensor) -> Tensor:
        """Return opaque pictures (N, 3, h, w) in 0..1 as the model's inputs (N, C, h, w); see `colour`."""
        red, green, blue = rgb.unbind(1)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        of = {"r": red, "g": green, "b": blue, "l": grey, "a": torch.ones_like(red)}
        values = torch.stack([of[channel] for channel in self.channels], 1)
        return (values - self._per_channel(self.mean, rgb)) / self._per_channel(self.std, rgb)

    def shown(self, x: Tensor) -> Tensor:
        """Return the model's inputs (N, C, h, w) as pictures (N, 3, h, w), in 0..1 where the inputs are pictures'."""
        return self.coloured(x * self._per_channel(self.std, x) + self._per_channel(self.mean, x))

    def coloured(self, x: Tensor) -> Tensor:
        """Return what lies on the input's channels (..., C, h, w) by colour (..., 3, h, w): grey thrice, no opacity."""
        return x[..., [max(self.channels.find(channel), 0) for channel in "rgb"], :, :]

    @staticmethod
    def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(values, device=like.device).view(-1, 1, 1)
