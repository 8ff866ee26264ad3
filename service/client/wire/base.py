"""What all wire types stand on."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
TaskName = Annotated[str, Field(description="What its outputs mean.")]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Family = Literal["attention", "cam", "features", "gradient", "perturbation", "propagation"]
Kind = Literal["positive", "signed", "grid", "picture", "rgb", "regions"]
Interpolation = Literal["bilinear", "nearest"]


class Wire(BaseModel):
    """A response, or a part of one. Who reads it passes over what is not known: a newer server may say more."""

    model_config = ConfigDict(extra="ignore")


class FieldProblem(Wire):
    """One wrong field."""

    pointer: Annotated[str, Field(description="JSON pointer into the request.")]
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details; `error` repeats the title for clients that look for it there."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: str
    errors: list[FieldProblem] = []


class TargetRef(Wire):
    """The output that a map explains."""

    index: int
    label: str
    score: Annotated[float, Field(description="What the network says of it: a probability, or a value.")]
    asked: Annotated[int | str | dict[str, Any] | None, Field(description="As the request named it.")] = None
