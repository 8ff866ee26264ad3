"""What is known of a network before any request."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from service.errors import InvalidParameter, NotApplicable, did_you_mean, quoted

if TYPE_CHECKING:
    from service.contract.meaning import Task


INPUT = ".input"
"""The address of the network's input, beside the paths of its layers: no layer's begins with a dot."""
MOVED = "its forward crops, pads, shifts or turns the picture on the way, or leaves some of it out"
REMEDY = "do that in preprocessing"
_INDEX = re.compile(r"\[(-?\d{1,4})\]")
_PASSES_NONE = "something on the way passes none on (no_grad, detach, whole numbers, a compiled part)"
_INDICES = 4  # that are read of an address as Python code has it

Axes = Literal["chw", "hwc", "tokens", "ct"]


@dataclass(frozen=True)
class Layout:
    """How an output holds maps: which of its axes are channels, and which positions.

    `chw` (N, C, h, w); `hwc` (N, h, w, C); `tokens` (N, prefix + h * w + suffix, C), row by row among tokens without a
    place; `ct` (N, C, h * w).
    """

    axes: Axes
    grid: tuple[int, int]  # (h, w)
    prefix: int = 0  # leading tokens that have no place, such as a class token
    suffix: int = 0  # the same behind those that have one

    def __str__(self) -> str:
        if self.suffix:
            return f"{self.axes}+{self.prefix}+{self.suffix}"
        return f"{self.axes}+{self.prefix}" if self.prefix else self.axes

    def maps(self, output: Tensor) -> Tensor:
        """Return an output as maps (N, C, h, w), a view of it."""
        if self.axes == "hwc":
            return output.permute(0, 3, 1, 2)
        if self.axes == "tokens":
            output = output[:, self.prefix : self.prefix + self.grid[0] * self.grid[1]].mT
        return output if self.axes == "chw" else output.reshape(*output.shape[:2], *self.grid)

    def filled(self, output: Tensor, maps: Tensor) -> Tensor:
        """Return outputs with other maps (N, C, h, w) in the place of those of an output (1, ...) or (N, ...).

        Tokens without a place keep what the output has.
        """
        if self.axes == "tokens":
            places = self.grid[0] * self.grid[1]
            rest = output[:, self.prefix + places :], output[:, : self.prefix]
            behind, before = (part.expand(len(maps), *part.shape[1:]) for part in rest)
            return torch.cat([before, maps.flatten(2).mT, behind], 1)
        laid_out = maps.permute(0, 2, 3, 1) if self.axes == "hwc" else maps.flatten(2) if self.axes == "ct" else maps
        return laid_out.contiguous()


@dataclass(frozen=True)
class Attention:
    """An attention of every token to all tokens of a picture."""

    layout: Layout  # where the tokens are
    read: tuple[int, ...]  # the tokens that the outputs are made of, in the end: a class token, or all with a place
    follows: bool = True  # whether it attends to what the attention before it brought together, if there is one


@dataclass(frozen=True)
class LayerInfo:
    """One address inside a network, as seen in a forward pass at load."""

    path: str  # `named_modules()` path; `#n` for the n-th call, `+relu` for what the network's own ReLU makes of it
    type: str
    shape: tuple[int, ...]  # without the batch dimension; (C, h, w) where it has maps, whatever its layout
    spatial: bool  # whether it has maps
    followed_by: str | None = None  # name of the activation function that takes this output directly
    kernel: tuple[int, ...] | None = None  # weight shape of a convolution
    layout: Layout | None = None  # how it holds its maps
    gradient: bool = True  # whether a gradient of the outputs gets there
    projects: bool = True  # whether a gradient of what it answers gets from there to the input
    folded: bool = False  # whether it answers to each picture in several parts, the first axis of `shape`
    apart: bool = True  # whether what it answers to each picture of a batch can be told from the others'
    turned: bool = False  # whether the pictures of a batch are not on its first axis, as in tokens (T, N, C)
    elsewhere: bool = False  # whether its cells look at other places than the picture's own, as of a cropped picture
    attention: Attention | None = None  # where the address is of attention probabilities, of shape (heads, T, T)

    @property
    def activated(self) -> str:
        """The address of what the activation function that follows makes of this output; the path, where none does."""
        return f"{self.path}+{self.followed_by}" if self.followed_by else self.path


@dataclass(frozen=True)
class Check:
    """One thing that was looked at when a network was loaded."""

    name: str
    outcome: Literal["passed", "warning", "refused"]
    found: str
    remedy: str | None = None


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
    rectifiers: int  # ReLU and ReLU6 calls of one forward that rectify maps
    max_pools: int = 0  # max pooling calls of one forward
    other_activations: tuple[str, ...] = ()  # names of activation functions called that are no rectifiers
    labels: tuple[str, ...] = ()  # one an output, or none at all
    task_assumed: bool = False  # whether neither the source, the catalogue nor the numbers said what the task is
    checks: tuple[Check, ...] = ()  # what was looked at when it was loaded
    black_box: str | None = None  # why nothing inside of it can be seen
    opaque: str | None = None  # why the operators of a part of it cannot be seen, which rules would have to meet
    no_gradient: str | None = None  # why no gradient of the outputs reaches the input
    no_attention: str | None = "it has none"  # why no attention has an address
    singly: bool = False  # whether it is run on one picture at a time
    channels: str = "rgb"  # of the input, a letter each, in order: r, g, b; l is grey, a is opacity

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of one input."""
        return (len(self.channels), *self.input_size)

    @cached_property
    def named(self) -> Mapping[str, Sequence[int]]:
        """The outputs that each label stands for, whose letters are taken as if all were small."""
        found: defaultdict[str, list[int]] = defaultdict(list)
        for i, label in enumerate(self.labels):
            found[label.casefold()].append(i)
        return dict(found)

    def label(self, index: int) -> str:
        """Return an output's label, or its number where there is none."""
        return self.labels[index] if 0 <= index < len(self.labels) else str(index)

    def layer(self, path: str | None, pointer: str = "/params/layer") -> LayerInfo:
        """Return a layer with maps: the one asked for, or the default one.

        Raises:
            InvalidParameter: no such layer, or its output has no maps.
            NotApplicable: none was asked for and no layer has any.
        """
        if path is None:
            path = self.default_layer or self._named_by_default()
        if path not in self.layers:
            raise InvalidParameter.at(
                pointer,
                f"layer {quoted(path)} is not in {self.name}"
                + did_you_mean(
                    dotted(path, self.layers), self.layers, then=f"GET /models/{self.name}/layers lists all"
                ),
            )
        info = self.layers[path]
        if info.elsewhere:
            raise InvalidParameter.at(
                pointer,
                f"layer {path!r} of {self.name} answers with a grid of other places than the picture's: {MOVED}; "
                f"{REMEDY}, or name a layer before that; the default layer is {self.default_layer!r}",
            )
        if not info.spatial:
            raise InvalidParameter.at(
                pointer,
                f"layer {path!r} of {self.name} has output {info.shape}, in which no grid over the picture was found "
                f"(channels, height and width in any order, or tokens); the default layer is {self.default_layer!r}",
            )
        return info

    def require_spatial(self, method: str) -> None:
        """Raise `NotApplicable` where no layer at all has maps."""
        if self.default_layer is None and not any(layer.spatial for layer in self.layers.values()):
            raise NotApplicable(self._no_maps(f"{method} needs a layer with maps over the picture"))

    def require_gradient(self, method: str, layer: str | None = INPUT) -> None:
        """Raise `NotApplicable` where no gradient of the outputs reaches the input, or a layer (None: the default)."""
        if layer == INPUT:
            if self.no_gradient is not None:
                raise NotApplicable(
                    f"{method} needs a gradient at the input of {self.name}, and {self.no_gradient}; "
                    "use 'occlusion', which needs none"
                )
            return
        path = layer or self.default_layer or ""
        if path in self.layers and not self.layers[path].gradient:
            raise NotApplicable(
                f"{method} needs a gradient at layer {path!r} of {self.name}, and "
                f"{self.no_gradient or 'none gets there: the outputs do not depend on it'}; use 'score-cam' or "
                "'occlusion', which need none"
            )

    def require_projection(self, method: str) -> None:
        """Raise `NotApplicable` where no gradient gets from the default layer to the input."""
        if self.default_layer is not None and not self.layers[self.default_layer].projects:
            raise NotApplicable(
                f"{method} follows layer {self.default_layer!r} of {self.name} back to the input, and no gradient gets "
                f"there: {self.no_gradient or _PASSES_NONE}; use 'feature-maps' or 'occlusion', which need none"
            )

    def require_operators(self, method: str) -> None:
        """Raise `NotApplicable` where rules would miss operators of the network: maps would be wrong in silence."""
        if self.opaque is not None:
            raise NotApplicable(
                f"{method} changes what operators of {self.name} hand back, and {self.opaque}; use {self._plain}, "
                "which leave them as they are"
            )

    def require_rectifiers(self, method: str, does: str, use: str) -> None:
        """Raise `NotApplicable` where a network has no ReLU, or where it could not be seen whether it has one.

        Args:
            method: its name.
            does: what it does with rectifiers.
            use: what to take instead, and why.
        """
        self.require_operators(method)
        if self.rectifiers == 0:
            uses = ", ".join(self.other_activations) or "none"
            use = use if self.no_gradient is None else "'occlusion', which needs none"
            raise NotApplicable(
                f"{method} {does}, and {self.name} has no ReLU (its activation functions: {uses}); use {use}"
            )

    def require_attention(self, method: str) -> None:
        """Raise `NotApplicable` where there is no attention over all tokens of a picture."""
        if self.no_attention is not None:
            raise NotApplicable(
                f"{method} reads attention of all tokens to all tokens, which {self.name} does not have: "
                f"{self.no_attention}; use {self._plain}, which need none"
            )

    def require_attention_chain(self, method: str) -> None:
        """Raise `NotApplicable` where not each attention builds on the one before it."""
        self.require_attention(method)
        attentions = ((path, info.attention) for path, info in self.layers.items())
        apart = next((path for path, one in attentions if one is not None and not one.follows), None)
        if apart is not None:
            raise NotApplicable(
                f"{method} joins attentions that follow one another, and {apart!r} of {self.name} does not build on "
                "the one before it, as where networks are averaged or blocks lie side by side; use 'attention', which "
                f"shows one block, or {self._plain}"
            )

    @property
    def any_cam(self) -> str:
        """The method that explains any score by a layer's maps, or what there is where no layer has any."""
        layer = self.layers.get(self.default_layer or "")
        if layer is None:
            return "'score-cam'" if any(info.spatial for info in self.layers.values()) else "'occlusion'"
        return "'grad-cam'" if layer.gradient else "'score-cam'"

    @property
    def _plain(self) -> str:
        """The methods that look at nothing inside."""
        return "'occlusion'" if self.no_gradient else "'saliency' or 'occlusion'"

    def _named_by_default(self) -> str:
        """Say what to do where there is no default layer."""
        named = next((layer.path for layer in self.layers.values() if layer.spatial), None)
        if named is None:
            raise NotApplicable(self._no_maps("a layer is needed"))
        raise NotApplicable(
            f"{self.name} has no default layer, as no layer with a grid over the picture is reached by the score's "
            f"gradient in most of its cells; name one in params.layer (for example {named!r}), or use {self._plain}, "
            "which need no layer"
        )

    def _no_maps(self, needed: str) -> str:
        why = self.black_box or "none of its layers answers with a grid over the picture"
        remedy = f"use {self._plain}, which need no layer"
        if any(info.elsewhere for info in self.layers.values()):
            why, remedy = MOVED, f"{REMEDY}, or {remedy}"
        return f"{needed}, and {self.name} has none: {why}; {remedy}"

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


def dotted(path: str, layers: Iterable[str]) -> str:
    """Return an address that is written as in Python code, `model.layer4[-1]`, with dots: `model.layer4.2`.

    Which one the last is, the layers that there are tell; of several indices the first few are read.
    """
    last: dict[str, int] = {}
    for name in layers:
        outer, _, index = name.rpartition(".")
        if index.isdecimal():
            last[outer] = max(last.get(outer, 0), int(index))
    for _ in range(_INDICES):
        if (found := _INDEX.search(path)) is None:
            break
        before, at = path[: found.start()], int(found[1])
        names = before.split(".")
        known = (last[outer] for i in range(len(names)) if (outer := ".".join(names[i:])) in last)
        if at < 0 and (most := next(known, None)) is not None:
            at += most + 1
        path = f"{before}.{at}{path[found.end() :]}"
    return path
