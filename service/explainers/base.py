"""What an explanation method is, and the two questions it may ask a model.

A method is a frozen pydantic model: its fields are the request's `params` (bounds, defaults and documentation
stand once, in `Field`), and `explain` is the method itself. It sees a model only through a `Probe`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from service.errors import InvalidParameter, NotApplicable, UnknownMethod, did_you_mean

INPUT = "input"  # the address of the model's input, beside the layers' paths
"""Name under which `Probe.trace` reports the gradient with respect to the model's input."""

Task = Literal["classification", "regression"]
Score = Literal["logit", "probability"]
Kind = Literal["positive", "signed", "grid", "picture", "rgb"]
Rectifier = Literal["deconvnet", "guided", "linear", "leaky"]
Box = tuple[int, int, int, int]
Objective = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class LayerInfo:
    """One address inside a network, as seen in a forward pass at load."""

    path: str  # `named_modules()` path; `#n` for the n-th call, `+relu` for a functional activation after it
    type: str
    shape: tuple[int, ...]  # without the batch dimension
    spatial: bool  # (C, h, w) and not tokens or channels-last
    followed_by: str | None = None  # activation function that takes this output directly
    kernel: tuple[int, ...] | None = None  # weight shape of a convolution


@dataclass(frozen=True)
class Head:
    """A proved identity `output == weight @ mean(A) + bias` with A the output of `layer`."""

    layer: str
    weight: Tensor  # (K, C)
    bias: Tensor  # (K,)
    residual: float  # largest relative error of the identity on the probe input


@dataclass(frozen=True)
class Facts:
    """What is known of a model before any request."""

    name: str
    task: Task
    outputs: int
    input_size: tuple[int, int]  # (H, W)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layers: Mapping[str, LayerInfo]
    default_layer: str | None
    head: Head | None
    rectifiers: int  # ReLU and ReLU6 calls of one forward
    max_pools: int = 0  # max pooling calls of one forward
    other_activations: tuple[str, ...] = ()  # names of smooth activation functions called

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

    def score(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return outputs (..., K) as logits, or as probabilities; a regression's outputs are its scores."""
        return outputs.softmax(-1) if kind == "probability" and self.task == "classification" else outputs

    def colour(self, rgb: Sequence[float]) -> Tensor:
        """Return an RGB colour, each 0..1, in the model's input space: (3, 1, 1)."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return ((torch.tensor(tuple(rgb)) - mean) / std).view(3, 1, 1)


@dataclass(frozen=True)
class Trace:
    """One forward (and its backwards), detached."""

    outputs: Tensor | None  # (N, K); None where the pass was stopped early
    activations: Mapping[str, Tensor]  # path -> (N, C, h, w)
    objective: Tensor | None  # (N, T)
    gradients: Mapping[str, Tensor]  # path or INPUT -> (T, N, ...): one backward per column of the objective


class Probe(Protocol):
    """The two things an explainer may ask a model, and what is known of it."""

    facts: Facts
    device: torch.device

    def scores(
        self,
        count: int,
        rows: Callable[[int, int], Tensor],
        *,
        same: Hashable = None,
        image: Tensor | None = None,
        sketch: Callable[[Tensor], Explanation] | None = None,
    ) -> Tensor:
        """Black box: the outputs (count, K) of `count` inputs that `rows(i, j)` builds slice by slice.

        Args:
            count: how many inputs.
            rows: runs on the device thread and returns (j - i, 3, H, W); no more than a batch exists at a time.
            same: where given, with `image`: what besides the picture determines the rows. Requests that agree in both
                share one computation, and later ones are answered from memory. The outputs must not be changed.
            image: the picture (1, 3, H, W) that the rows are made of.
            sketch: (outputs of the first n rows) -> a rough answer from them, for callers who watch.
        """
        ...

    def patched(
        self,
        image: Tensor,
        filling: Tensor,
        boxes: Sequence[Box],
        *,
        same: Hashable = None,
        sketch: Callable[[Tensor], Explanation] | None = None,
    ) -> Tensor:
        """Black box: the outputs (1 + len(boxes), K) of a picture, and of it with one box each showing the filling.

        Equal to `scores` of these pictures, and computed anew only as far as a box can reach, where the network allows.

        Args:
            image: the picture (1, 3, H, W).
            filling: what a box shows of it, (3, H, W).
            boxes: y0, x0, y1, x1 inside the picture.
            same: see `scores`.
            sketch: see `scores`.
        """
        ...

    def trace(
        self,
        x: Tensor,
        *,
        layers: Sequence[str] = (),
        wrt: Sequence[str] = (),
        objective: Objective | None = None,
        rectifier: Rectifier | None = None,
        partial: bool = False,
    ) -> Trace:
        """White box: one forward of x (N, 3, H, W), and a backward per column of the objective.

        Args:
            x: model inputs; rows do not influence each other.
            layers: paths whose outputs to keep.
            wrt: paths, or `INPUT`, to differentiate with respect to. The backward stops at the earliest.
            objective: (outputs (N, K), activations) -> (N, T).
            rectifier: what the backward does at each ReLU instead of its derivative: `deconvnet` keeps the positive
                part of the signal; `guided` that, where the ReLU is open; `linear` passes all of it; `leaky` all where
                it is open and a hundredth where it is closed.
            partial: stop the forward once every layer has answered; `outputs` is then None.
        """
        ...

    def weight(self, layer: str) -> Tensor:
        """Return the weight of a convolution, (out, in, kh, kw)."""
        ...


@dataclass(frozen=True)
class Map:
    """One picture's worth of result, unnormalised float32.

    kind `positive` and `signed`: (h, w) heat; `grid`: (k, h, w), one small picture per channel;
    `picture`: (3, h, w) signed, drawn with grey as zero; `rgb`: (3, h, w) in 0..1.
    """

    name: str
    array: Tensor
    kind: Kind = "positive"
    target: int | None = None
    layer: str | None = None
    channel: int | None = None
    channels: tuple[int, ...] | None = None  # the channels of a grid, in order
    patch: tuple[int, int, int, int] | None = None  # x0, y0, x1, y1 of the input that the map explains
    interpolation: Literal["bilinear", "nearest"] = "bilinear"  # how to enlarge it


@dataclass(frozen=True)
class Explanation:
    """The result of a method: its maps, its own details, and the clean picture's outputs where it met them."""

    maps: Sequence[Map]
    details: Mapping[str, Any] = field(default_factory=dict)
    outputs: Tensor | None = None  # (K,)
    avoided: int = 0  # rows whose outputs were known without a forward
    exact: bool = True  # all of the definition was computed, nothing estimated


class Targets:
    """The outputs a request asks about: given ones, or the top class of the clean picture.

    Called with the clean outputs (K,) or (N, K) it returns the indices, so that a method that runs a forward
    anyway needs no other one to learn what to explain.
    """

    def __init__(self, given: Sequence[int] | None = None) -> None:
        self.given = tuple(given) if given is not None else None

    def __call__(self, outputs: Tensor) -> list[int]:
        """Return the target indices."""
        if self.given is not None:
            return list(self.given)
        return [int(outputs.reshape(-1, outputs.shape[-1])[0].argmax())]

    def __len__(self) -> int:
        return 1 if self.given is None else len(self.given)


class Explainer(BaseModel, ABC):
    """An explanation method: parameters as fields, the method in `explain`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    reference: ClassVar[str]
    requirement: ClassVar[str]
    cost: ClassVar[str]
    needs_image: ClassVar[bool] = True
    takes_targets: ClassVar[bool] = True

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Raise `NotApplicable`, with the reason and an alternative, where the method has no meaning."""

    def tolerates_reduced_precision(self) -> bool:
        """Whether `Probe.scores` may use less than float32, where the maps were measured to agree."""
        return False

    @abstractmethod
    def forwards(self, facts: Facts, targets: int) -> int:
        """Return about how many passes the method will need: a row's forward is one, its backward two."""

    @abstractmethod
    def explain(self, probe: Probe, image: Tensor | None, targets: Targets) -> Explanation:
        """Explain what the model does with `image` (1, 3, H, W), which lies on the model's device."""

    def resolved(self, facts: Facts) -> dict[str, Any]:
        """Return the parameters as used: defaults filled in, the chosen layer named."""
        params = self.model_dump(mode="json")
        if "layer" in params and params["layer"] is None:
            params["layer"] = facts.default_layer
        return params


E = TypeVar("E", bound=type[Explainer])
_registry: dict[str, type[Explainer]] = {}


def explainer(name: str, *, reference: str, requirement: str, cost: str) -> Callable[[E], E]:
    """Register a method under its wire name."""

    def register(cls: E) -> E:
        cls.name, cls.reference, cls.requirement, cls.cost = name, reference, requirement, cost
        if name in _registry:
            raise ValueError(f"two explainers are called {name!r}")
        _registry[name] = cls
        return cls

    return register


def registry() -> Mapping[str, type[Explainer]]:
    """Return every method by name; siblings of this file are discovered, so a new method is one new file."""
    from service.explainers import discover

    discover()
    return dict(sorted(_registry.items()))


def method(name: str) -> type[Explainer]:
    """Return one method.

    Raises:
        UnknownMethod: there is none of that name.
    """
    methods = registry()
    if name not in methods:
        raise UnknownMethod(
            f"there is no method {name!r}{did_you_mean(name, methods)}; there are: {', '.join(methods)}"
        )
    return methods[name]
