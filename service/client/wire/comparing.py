"""The wire types of `POST /compare`: several methods on one picture, and numbers that tell which to believe."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from .base import Label, Problem, TargetRef, Wire
from .explaining import Geometry, MapWire, ModelRef, Pictured, Prediction, Usage
from .faithfulness import Controls, Metric, Metrics, Sanity


class CompareMethod(Wire):
    """A method with its own parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Label
    params: dict[str, Any] = Field(default_factory=dict)


class CompareRequest(Pictured):
    """Hold methods against each other on one picture."""

    methods: Annotated[
        list[Label | CompareMethod] | None,
        Field(
            min_length=1,
            max_length=32,
            description="Names, or `{method, params}`. Default: a spread of cheap methods that apply to the model.",
            examples=[["grad-cam", {"method": "occlusion", "params": {"window": 48}}]],
        ),
    ] = None
    metrics: Annotated[
        list[Metric],
        Field(
            max_length=16,
            description="Numbers beside gain, sanity and cost. `stability` takes eight further explanations of each "
            "map's method, `random-logit` one, `road` ten rows a map, `localisation` a `box`.",
        ),
    ] = Field(default_factory=list)
    box: Annotated[
        list[float] | None,
        Field(
            min_length=4,
            max_length=4,
            description="For `localisation`: x0, y0, x1, y1 of what should be found, in pixels of the upright upload.",
        ),
    ] = None


class ComparedMap(MapWire):
    """One map, and the numbers that were asked for."""

    metrics: Metrics | None = None


class Cost(Wire):
    """What a method's maps took, without the numbers about them."""

    forwards: int
    backwards: int
    seconds: Annotated[float, Field(description="From its question to its maps; less where rows came from memory.")]


class Compared(Wire):
    """One method: its maps with their numbers; or the problem that it ended in, which ends no other one."""

    method: str
    params: Annotated[dict[str, Any], Field(description="As used: defaults filled in, the layer named.")]
    maps: list[ComparedMap]
    details: Annotated[dict[str, Any], Field(description="The method's own findings.")]
    sanity: Sanity
    cost: Cost | None
    problem: Problem | None


class Agreement(Wire):
    """How alike the maps of one target order pixels: Spearman's coefficients, 1 down the diagonal; null: a flat map."""

    target: TargetRef
    methods: Annotated[list[int], Field(description="Rows and columns, as places in the answer's `methods`.")]
    spearman: list[list[float | None]]


class CompareResponse(Wire):
    """The answer to a comparison. Its numbers hold on this picture; they are added up to no score."""

    id: str
    model: ModelRef
    scope: Annotated[str, Field(description="What the numbers hold for.")] = "on this picture"
    predictions: list[Prediction]
    methods: Annotated[list[Compared], Field(description="In the order in which they were asked for.")]
    controls: Annotated[list[Controls], Field(description="One a target.")]
    agreement: Annotated[list[Agreement], Field(description="One a target that two maps explain.")]
    image: Geometry
    usage: Usage
