"""What is asked of a comparison: one question a method, and which numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from service.ask import Ask, checked
from service.client import wire
from service.errors import FieldError, InvalidParameter, ServiceError
from service.images.sent import Sent
from service.rendering import OutputOptions
from service.tasks import base

# A spread of cheap methods: what each family has that most people know, and that takes a few passes.
SPREAD = (
    "cam",
    "ram",
    "grad-cam",
    "layer-cam",
    "finer-cam",
    "recipro-cam",
    "saliency",
    "gradient-x-input",
    "integrated-gradients",
    "deep-lift",
    "guided-backprop",
    "lrp",
    "attention-relevance",
    "segment-ablation",
)


class CompareRequest(wire.CompareRequest):
    """Hold methods against each other on one picture."""

    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True)
class Compare:
    """A question to several methods about one picture.

    whole: what they have in common, as a question for predictions.
    asked: each method's name, and its question or what is wrong with it; none: the methods are to be chosen.
    metrics: numbers beside gain, sanity and cost.
    box: of what should be found, in pixels of the upright upload.
    """

    whole: Ask
    asked: tuple[tuple[str, Ask | ServiceError], ...] = ()
    metrics: frozenset[wire.Metric] = frozenset()
    box: tuple[float, float, float, float] | None = None

    @property
    def timeout_s(self) -> float | None:
        """The deadline, from the request's arrival on."""
        return self.whole.timeout_s

    @property
    def priority(self) -> int:
        """-10..10; higher goes first."""
        return self.whole.priority

    @staticmethod
    def of(fields: Mapping[str, Any], picture: Sent | None = None) -> Compare:
        """Make a question of the fields of a request, as in `wire.CompareRequest`.

        Raises:
            InvalidParameter: with every wrong field's pointer.
        """
        read = checked(CompareRequest, fields)
        if "localisation" in read.metrics and read.box is None:
            raise InvalidParameter.at("/box", "localisation needs the box of what should be found: [x0, y0, x1, y1]")
        box = base.box(read.box, "/box") if read.box is not None else None
        assert isinstance(read.output, OutputOptions)
        sent = picture if picture is not None else fields.get("image")
        whole = Ask(
            None,
            model=read.model,
            targets=tuple(read.targets or ()),
            pictures=() if sent is None else (sent,),
            further=tuple(fields.get("pictures") or ()),
            output=read.output,
            precision=read.precision,
            timeout_s=read.timeout_s,
            priority=read.priority,
        )
        asked = []
        for i, one in enumerate(read.methods or ()):
            name, params = (one, {}) if isinstance(one, str) else (one.method, one.params)
            asked.append((name, question(whole, name, params, f"/methods/{i}")))
        return Compare(whole, tuple(asked), frozenset(read.metrics), box)


def question(whole: Ask, name: str, params: Mapping[str, Any], pointer: str) -> Ask | ServiceError:
    """Return the question to one method, or what is wrong with it, by its place in the request."""
    try:
        own = Ask.explain(name, {"params": params})
    except ServiceError as error:
        errors = [FieldError(pointer + one.pointer, one.detail) for one in error.errors]
        return type(error)(error.detail, errors=errors) if errors else error
    assert own.method is not None
    targets = whole.targets if own.method.takes_targets else ()
    return replace(whole, method=own.method, targets=targets)
