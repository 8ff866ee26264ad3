"""Detection: boxes with a class and a score each."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from service.contract import Asked, Clean, Evidence, Facts, Prediction, Readout, Score, Target, View
from service.errors import CatalogError, InvalidParameter, ModelFailed, NotApplicable
from service.tasks import base
from service.tasks.boxes import classless

Place = tuple[float, float, float, float]
_LEAST = 1e-6  # of a match, so that its odds are a number


@dataclass(frozen=True)
class Detected(Target):
    """A detection of the clean picture by its rank, the best one of a class, or a box of the upload with a class."""

    rank: int | None = None
    box: Place | None = None


@dataclass(frozen=True)
class Likeness:
    """How well each row's detections match some boxes with classes: s = max over detections d of IoU(b, b_d) p_d.

    Petsiuk et al. 2021 (D-RISE), section 3.3, without the objectness, which not every detector has; p_d counts where d
    has the class that is asked for.
    """

    boxes: tuple[Place, ...]  # in pixels of the input
    classes: tuple[int, ...]
    ruled: ClassVar[bool] = False

    @property
    def key(self) -> Hashable:
        """Boxes and classes."""
        return "detections", self.boxes, self.classes

    def __call__(self, raw: Tensor) -> Tensor:
        """Return (N, T) of (N, D, 6)."""
        if raw.shape[1] == 0:
            return raw.sum((1, 2))[:, None].expand(-1, len(self.boxes))
        wanted = raw.new_tensor(self.boxes)  # (T, 4)
        same = raw[:, :, None, 5] == raw.new_tensor(self.classes)  # (N, D, T)
        matched = overlap(raw[:, :, None, :4], wanted) * raw[:, :, None, 4] * same
        return matched.amax(1)

    def amounts(self, raw: Tensor) -> Tensor:
        """Return (N, D, 6) of which the scores alone are differentiated.

        What a box's left and right edge would be given is of opposite sign, and many times what the score is given.
        """
        return torch.cat([raw[..., :4].detach(), raw[..., 4:]], -1)


@dataclass(frozen=True)
class Surest:
    """The largest score of all detections: what stands for an answer where nothing is asked."""

    key: str = "surest"
    ruled: ClassVar[bool] = False

    def __call__(self, raw: Tensor) -> Tensor:
        """Return (N, 1) of (N, D, 6)."""
        return raw[:, :, 4].amax(1, keepdim=True) if raw.shape[1] else raw.sum((1, 2))[:, None]


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union (...) of boxes (..., 4), x0, y0, x1, y1; 0 for empty ones."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    either = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1) + (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) - both
    return both / either.clamp(min=1e-12)


@dataclass(frozen=True)
class Detection:
    """(N, D, 6): x0, y0, x1, y1 in pixels of the input, score 0..1 and class of each detection; score 0 fills up.

    A target is a box with a class, that of the clean picture's detection or one that is given: its score is how well
    the best detection matches it. Without a named target the surest detection is explained. Gradients flow through the
    scores and boxes that the network kept.
    """

    scale: ClassVar[None] = None
    name: ClassVar[str] = "detection"
    measures: ClassVar[bool] = False
    looks: ClassVar[bool] = True
    kinds: ClassVar[tuple[Score, ...]] = ("value",)

    @property
    def whole(self) -> Readout:
        """The surest detection."""
        return Surest()

    def outputs(self, raw: Tensor, labels: Sequence[str]) -> int:
        """Return the number of classes that have a label; where none has, of those that were seen.

        Raises:
            CatalogError: a class was seen that has none: labels may begin with the one of number 1.
        """
        seen = int(raw[..., 5].max()) + 1 if raw.numel() else 0
        if labels and seen > len(labels):
            raise CatalogError(
                f"the network detects class {seen - 1}, and {len(labels)} labels name classes 0 to {len(labels) - 1}; "
                "give one for each, from class 0 on: where classes are counted from 1, a first one such as 'background'"
            )
        return len(labels) if labels else seen

    def most_by_default(self, facts: Facts) -> int:
        """Return 1."""
        return 1

    def scores(self, outputs: Tensor, kind: Score) -> Tensor:
        """Return the matches themselves."""
        return outputs

    def read(self, asked: Sequence[Asked], facts: Facts, pictures: int = 0) -> tuple[Target, ...]:
        """Return what `{"detection": rank}`, `{"box", "class"}` or a class alone, for its surest detection, names."""
        return tuple(_detected(one, f"/targets/{i}", facts) for i, one in enumerate(asked))

    def default(self, outputs: Tensor) -> tuple[Target, ...]:
        """Refuse: only the picture tells what is detected."""
        raise AssertionError("targets of a detection are bound to a picture")

    def bind(self, given: Sequence[Target] | None, facts: Facts, clean: Clean) -> tuple[Readout, tuple[Target, ...]]:
        """Fix each target's box and class on the clean picture."""
        found = _ranked(clean.answer)
        wanted = [t for t in given if isinstance(t, Detected)] if given is not None else [Detected(0, rank=0)]
        if given is None and not len(found):
            raise NotApplicable(
                f"{facts.name} detects nothing in this picture; name a box and a class, as targets: "
                '[{"box": [x0, y0, x1, y1], "class": 1}]'
            )
        boxes: list[Place] = []
        classes: list[int] = []
        for i, target in enumerate(wanted):
            place, chosen = self._placed(target, found, f"/targets/{i}", facts, clean.view)
            boxes.append(place)
            classes.append(chosen)
        readout = Likeness(tuple(boxes), tuple(classes))
        return readout, tuple(Target(c, ((i, 1.0),), wanted[i].asked) for i, c in enumerate(classes))

    def evidence(self, readout: Readout, targets: Sequence[Target]) -> Evidence:
        """Return log s / (1 - s) of each match s, which is kept from the ends of its range by 1e-6."""
        return base.columns(readout, targets, lambda table, target: target(table).clamp(_LEAST, 1 - _LEAST).logit())

    def low(self, outputs: Tensor) -> Target | None:
        """Return None: a box that is not there has no map."""
        return None

    def predictions(self, answer: Tensor, facts: Facts, count: int, view: View | None = None) -> list[Prediction]:
        """Return the surest detections, their boxes in pixels of the upload where its view is given."""
        found = _ranked(answer)[:count].tolist()
        return [
            Prediction(
                int(label),
                facts.label(int(label)),
                rank=rank,
                score=score,
                box=view.to_upload(box) if view is not None else (box[0], box[1], box[2], box[3]),
            )
            for rank, (*box, score, label) in enumerate(found)
        ]

    def strength(self, target: Target, outputs: Tensor) -> float:
        """Return how well the clean picture's detections match the target, 0 to 1."""
        return float(target(outputs))

    def _placed(self, target: "Detected", found: Tensor, pointer: str, facts: Facts, view: View) -> tuple[Place, int]:
        """Return a target's box in pixels of the input, and its class."""
        if target.box is not None:
            return view.to_input(target.box), target.index
        if target.rank is None:
            found = found[found[:, 5] == target.index]
            if not len(found):
                raise InvalidParameter.at(
                    pointer, f"{facts.name} detects no {facts.label(target.index)!r} in this picture; name a box"
                )
        elif target.rank >= len(found):
            raise InvalidParameter.at(
                f"{pointer}/detection",
                f"{facts.name} detects {len(found)} objects in this picture, with ranks from 0; there is no rank "
                f"{target.rank}",
            )
        x0, y0, x1, y1, _, label = found[target.rank or 0].tolist()
        return (x0, y0, x1, y1), int(label)


def _ranked(answer: Tensor) -> Tensor:
    """Return the detections of one picture (D, 6), the surest first, without what fills up.

    Raises:
        ModelFailed: the class of one is no number from 0 on.
    """
    found = answer[answer[:, 4] > 0]
    if len(wrong := classless(found)):
        raise ModelFailed(
            f"the network detects class {float(wrong[0, 5]):.3g} in this picture, and classes are whole numbers "
            "from 0 on; try another picture, or let the network leave such boxes out"
        )
    return found[found[:, 4].argsort(descending=True, stable=True)]


def _detected(asked: Asked, pointer: str, facts: Facts) -> Detected:
    if not isinstance(asked, Mapping):
        return Detected(_class(asked, pointer, facts), asked=asked)
    if "detection" in asked:
        base.fields(asked, pointer, facts, "detection")
        rank = base.whole_number(asked["detection"], f"{pointer}/detection", 2**31, "rank of a detection")
        return Detected(0, asked=asked, rank=rank)
    base.fields(asked, pointer, facts, "box", "class")
    if "class" not in asked:
        raise InvalidParameter.at(pointer, "a box needs the class that is asked about in it, as `class`")
    place = base.box(asked["box"], f"{pointer}/box")
    return Detected(_class(asked["class"], f"{pointer}/class", facts), asked=asked, box=place)


def _class(asked: object, pointer: str, facts: Facts) -> int:
    if not facts.labels and isinstance(asked, int) and not isinstance(asked, bool) and asked >= 0:
        return asked  # without labels nothing says how many classes there are
    return base.index(asked, pointer, facts)
