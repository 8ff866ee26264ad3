"""What is asked of the service: made and checked in one place, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic import Field, create_model

from service.ask.checking import MOST_ERRORS, checked
from service.client import wire
from service.contract import Asked
from service.errors import InvalidParameter
from service.explainers.base import Explainer, method
from service.images.sent import Sent
from service.rendering import OutputOptions

__all__ = ["MOST_ERRORS", "Ask", "checked", "request_schema"]


@dataclass(frozen=True)
class Ask:
    """One question about one picture; what stands in it is right as far as it can be known without a model.

    method: how to explain; None: the network's predictions are all that is asked for.
    model: its name; None: the default one.
    targets: what to explain; none: the task's default.
    pictures: the one that is asked about; none for a method that needs none.
    further: pictures that targets name, by their number from 0.
    output: what to return of each map, and how to draw it.
    precision: of forwards; None: the server's setting.
    timeout_s: the deadline, from the request's arrival on; None: the server's default.
    priority: -10..10; higher goes first.
    top_k: how many predictions, best first.
    faithfulness: whether to say how well each map orders the picture's pixels.
    """

    method: Explainer | None
    model: str | None = None
    targets: tuple[Asked, ...] = ()
    pictures: tuple[Sent, ...] = ()
    further: tuple[Sent, ...] = ()
    output: OutputOptions = field(default_factory=OutputOptions)
    precision: wire.Precision | None = None
    timeout_s: float | None = None
    priority: int = 0
    top_k: int = 5
    faithfulness: bool = False

    @staticmethod
    def explain(name: str, fields: Mapping[str, Any], picture: Sent | None = None) -> Ask:
        """Make a question to a method from the fields of a request.

        Args:
            name: of the method.
            fields: as in `wire.ExplainRequest`, `params` being the method's own.
            picture: where it is not in the fields.

        Raises:
            UnknownMethod: there is none of that name.
            InvalidParameter: with every wrong field's pointer.
        """
        cls = method(name)
        asked = checked(request_schema(cls), fields)
        if picture is not None and not cls.needs_image:
            raise InvalidParameter.at("/image", f"{cls.name} needs no picture; leave it out")
        if not (isinstance(asked.params, Explainer) and isinstance(asked.output, OutputOptions)):
            raise TypeError("a request's schema has the method's own parameters")
        return Ask(
            asked.params,
            targets=tuple(asked.targets or ()),
            further=tuple(fields.get("pictures") or ()),
            output=asked.output,
            faithfulness=asked.faithfulness,
            **_common(asked, fields, picture),
        )

    @staticmethod
    def predict(fields: Mapping[str, Any], picture: Sent | None = None) -> Ask:
        """Make a question for predictions from the fields of a request, as in `wire.PredictRequest`.

        Raises:
            InvalidParameter: with every wrong field's pointer.
        """
        asked = checked(wire.PredictRequest, fields)
        return Ask(None, top_k=asked.top_k, **_common(asked, fields, picture))


def _common(asked: wire.Request, fields: Mapping[str, Any], picture: Sent | None) -> dict[str, Any]:
    sent = picture if picture is not None else fields.get("image")
    return {
        "model": asked.model,
        "pictures": () if sent is None else (sent,),
        "precision": asked.precision,
        "timeout_s": asked.timeout_s,
        "priority": asked.priority,
    }


@lru_cache(maxsize=256)
def request_schema(cls: type[Explainer]) -> type[wire.ExplainRequest]:
    """Return the wire type of a method's request, its `params` typed."""
    needed = any(info.is_required() for info in cls.model_fields.values())
    fields: dict[str, Any] = {
        "params": (cls, ... if needed else Field(default_factory=cls)),
        "output": (OutputOptions, Field(default_factory=OutputOptions)),
    }
    if not cls.needs_image:
        fields["image"] = (None, None)
    return create_model(
        f"{cls.__name__}Request", __base__=wire.ExplainRequest, __doc__=f"A request for {cls.name}.", **fields
    )
