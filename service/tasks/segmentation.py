"""Segmentation: a class for each pixel."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from service.contract import Asked, Clean, Evidence, Facts, Prediction, Readout, Scale, Score, Target, View, fingerprint
from service.errors import InvalidParameter
from service.tasks import base
from service.tasks.scales import exclusive, independent, odds

Region: TypeAlias = Literal["predicted"] | tuple[float, float, float, float] | int


@dataclass(frozen=True)
class Segment(Target):
    """A class and where it is asked about: where it wins, in a box of the upload, or in a mask (a further picture)."""

    region: Region = "predicted"


@dataclass(frozen=True)
class Segments:
    """The mean score over a region of each target's class: logits in the first T columns, probabilities behind them."""

    task: "Segmentation"
    classes: tuple[int, ...]
    weights: Tensor = field(compare=False)  # (T, H, W), each adding up to one
    key: Hashable = None
    ruled: ClassVar[bool] = False

    def __call__(self, raw: Tensor) -> Tensor:
        """Return (N, 2 T) of (N, K, H, W)."""
        own = list(self.classes)
        kinds: tuple[Score, ...] = ("logit", "probability")
        scores = [self.task.per_pixel(raw, kind)[:, own] for kind in kinds]
        return torch.cat([(s * self.weights.to(s)).sum((2, 3)) for s in scores], 1)


@dataclass(frozen=True)
class Everywhere:
    """The mean logit of each class over all pixels: what stands for an answer where nothing is asked."""

    task: "Segmentation"
    key: str = "everywhere"
    ruled: ClassVar[bool] = False

    def __call__(self, raw: Tensor) -> Tensor:
        """Return (N, 2 K) of (N, K, H, W): logits, and probabilities behind them."""
        return torch.cat([self.task.per_pixel(raw, kind).mean((2, 3)) for kind in ("logit", "probability")], 1)


@dataclass(frozen=True)
class Segmentation:
    """(N, K, H, W) of K classes that exclude each other at each pixel; of one class alone, whether it is there.

    Where classes are `apart`, each is there or not at a pixel, whatever the others are: there from probability 1/2 on.

    A target is a class in a region that the clean picture fixes: its score is the mean over the region, so that it
    keeps the units of a pixel's score. Without a named target the largest class is explained where it wins; a class
    that is labelled as background only where no other is there.
    """

    scale: Scale = "logits"
    apart: bool = False
    name: ClassVar[str] = "segmentation"
    measures: ClassVar[bool] = False
    looks: ClassVar[bool] = True
    kinds: ClassVar[tuple[Score, ...]] = ("logit", "probability")

    @property
    def whole(self) -> Readout:
        """The mean over all pixels."""
        return Everywhere(self)

    def outputs(self, raw: Tensor, labels: Sequence[str]) -> int:
        """Return K."""
        return raw.shape[1]

    def most_by_default(self, facts: Facts) -> int:
        """Return 1."""
        return 1

    def per_pixel(self, raw: Tensor, kind: Score) -> Tensor:
        """Return logits or probabilities (N, K, H, W)."""
        return independent(raw, self.scale, kind) if self._alone(raw) else exclusive(raw, self.scale, kind, 1)

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return the half of a table (..., 2 T) that holds this kind."""
        half = outputs.shape[-1] // 2
        return outputs[..., half:] if kind == "probability" else outputs[..., :half]

    def read(self, asked: Sequence[Asked], facts: Facts, pictures: int = 0) -> tuple[Target, ...]:
        """Return the classes that a request names, with `region`: `"predicted"`, a box, or `{"mask": i}`."""
        return tuple(_segment(one, f"/targets/{i}", facts, pictures) for i, one in enumerate(asked))

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Refuse: only the picture tells which class is the largest."""
        raise AssertionError("targets of a segmentation are bound to a picture")

    def bind(self, given: Sequence[Target] | None, facts: Facts, clean: Clean) -> tuple[Readout, tuple[Target, ...]]:
        """Fix each target's region on the clean picture."""
        there = self._there(clean.answer)  # (K, H, W)
        clean = replace(clean, mask=_pooled(clean.mask, (there.shape[1], there.shape[2])))
        wanted = [t for t in given if isinstance(t, Segment)] if given is not None else [self._largest(there, facts)]
        weights = torch.stack([self._region(t, there, f"/targets/{i}", facts, clean) for i, t in enumerate(wanted)]).to(
            clean.answer
        )
        chosen = tuple(t.index for t in wanted)
        key = ("segments", chosen, fingerprint(weights))
        targets = tuple(Target(t.index, ((i, 1.0),), t.asked) for i, t in enumerate(wanted))
        return Segments(self, chosen, weights / weights.sum((1, 2), keepdim=True), key), targets

    def evidence(self, readout: Readout, targets: Sequence[Target]) -> Evidence:
        """Return the mean over each target's region of its class's log-odds there."""
        if not isinstance(readout, Segments):
            raise TypeError("targets of a segmentation are bound to a picture")
        places = [target.terms[0][0] for target in targets]

        def read(raw: Tensor) -> Tensor:
            logits = self.per_pixel(raw, "logit")
            own = [(i, readout.classes[i]) for i in places]
            said = [(i, logits[:, c] if self._alone(raw) else odds(logits, c, 1)) for i, c in own]
            at = [(one * readout.weights[i].to(raw)).sum((1, 2)) for i, one in said]
            return torch.stack(at, 1)

        return Evidence(("evidence", readout.key, tuple(places)), read)

    def low(self, outputs: Tensor) -> Target | None:
        """Return None: a class that is nowhere has no region."""
        return None

    def predictions(self, answer: Tensor, facts: Facts, count: int, view: View | None = None) -> list[Prediction]:
        """Return the classes with the most pixels, and their shares of all."""
        pixels = self._there(answer).sum((1, 2))
        best = [i for i in pixels.argsort(descending=True, stable=True).tolist() if pixels[i]][:count]
        return [Prediction(i, facts.label(i), share=float(pixels[i]) / answer[0].numel()) for i in best]

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return the class's mean probability in its region."""
        return float(target(self.scores(outputs, "probability")))

    def _alone(self, raw: Tensor) -> bool:
        """Whether each class of answers (N, K, H, W) is there or not, whatever the others are."""
        return self.apart or raw.shape[1] == 1

    def _there(self, answer: Tensor) -> Tensor:
        """Return at which pixels each class is, (K, H, W)."""
        if self._alone(answer[None]):
            return self.per_pixel(answer[None], "probability")[0] > 0.5
        return torch.arange(len(answer), device=answer.device)[:, None, None] == answer.argmax(0)

    def _largest(self, there: Tensor, facts: Facts) -> "Segment":
        sizes = {i: size for i, size in enumerate(there.sum((1, 2)).tolist()) if size}
        objects = {i: size for i, size in sizes.items() if "background" not in facts.label(i).casefold()}
        chosen = objects or sizes
        # Where no class is anywhere, all of the picture is asked why the first one is not.
        return Segment(max(chosen, key=chosen.__getitem__)) if chosen else Segment(0, region=(-1e9, -1e9, 1e9, 1e9))

    def _region(self, target: "Segment", there: Tensor, pointer: str, facts: Facts, clean: Clean) -> Tensor:
        """Return how much of each pixel of the answer (H, W) lies in a target's region."""
        if target.region == "predicted":
            inside = there[target.index].float()
            problem = (
                f"class {facts.label(target.index)!r} wins at no pixel of this picture; name a region: a box "
                "[x0, y0, x1, y1] of the picture, or a mask"
            )
        elif isinstance(target.region, int):
            inside = clean.mask(target.region)
            problem = (
                "the mask is empty where the model sees the picture: what is lighter than half (above 127) is inside"
            )
        else:
            inside = covered(clean.view.to_input(target.region), clean.view.size, (there.shape[1], there.shape[2]))
            problem = "the box lies outside the part of the picture that the model sees"
        if not float(inside.sum()) > 0:
            raise InvalidParameter.at(f"{pointer}/region", problem)
        return inside


def _pooled(mask: Callable[[int], Tensor], grid: tuple[int, int]) -> Callable[[int], Tensor]:
    """Return what gives masks on an answer's grid (h, w), each decoded once, however many targets name it."""

    @cache  # of grids: a mask itself may have as many pixels as a picture
    def pooled(i: int) -> Tensor:
        return F.adaptive_avg_pool2d(mask(i).float()[None, None], grid)[0, 0]

    return pooled


def covered(box: tuple[float, float, float, float], size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return the share of each cell of a grid over an input of that size that a box in its pixels covers, (h, w)."""

    def along(low: float, high: float, length: int, cells: int) -> Tensor:
        edges = torch.linspace(0, length, cells + 1)
        low, high = (max(0.0, min(float(length), place)) for place in (low, high))  # which may be beyond float32
        return (edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)).clamp(min=0) * cells / length

    x0, y0, x1, y1 = box
    return along(y0, y1, size[0], grid[0])[:, None] * along(x0, x1, size[1], grid[1])


def _segment(asked: Asked, pointer: str, facts: Facts, pictures: int) -> Segment:
    if not isinstance(asked, Mapping):
        return Segment(base.index(asked, pointer, facts), asked=asked)
    base.fields(asked, pointer, facts, "class", "region")
    chosen = base.index(asked["class"], f"{pointer}/class", facts)
    return Segment(chosen, asked=asked, region=_region(asked.get("region", "predicted"), f"{pointer}/region", pictures))


def _region(asked: Any, pointer: str, pictures: int) -> Region:
    if asked == "predicted":
        return "predicted"
    if isinstance(asked, Mapping):
        if set(asked) != {"mask"}:
            raise InvalidParameter.at(pointer, 'a mask is named as {"mask": i}, i the number of a picture, from 0')
        return base.whole_number(asked["mask"], f"{pointer}/mask", pictures, "number of a picture")
    return base.box(asked, pointer)
