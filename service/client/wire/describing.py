"""The wire types of what is served: methods, models and their layers, and whether they answer."""

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import Family, Kind, TaskName, Wire
from .faithfulness import Sanity


class MethodInfo(Wire):
    """One explanation method."""

    name: str
    family: Family
    title: str
    summary: str
    description: str
    reference: str
    requirement: Annotated[str, Field(description="What a model has to have.")]
    cost: str
    needs: Annotated[list[str], Field(description="Of image, targets.")]
    kind: Annotated[Kind, Field(description="Of its maps by default; each map says its own.")]
    parameters: Annotated[dict[str, Any], Field(description="JSON Schema of params.")]


class MethodList(Wire):
    """All methods."""

    methods: list[MethodInfo]


class MethodUse(Wire):
    """Whether a method applies to a model, and about what it takes there.

    `passes` tells quick methods from slow ones before either has run: a network of 1,280 channels costs Score-CAM 1,282
    passes, and Recipro-CAM one where the head is pooled. It holds for the default parameters and one target, where no
    outputs are known from before.
    """

    name: str
    applies: bool
    reason: str | None
    passes: Annotated[
        int | None,
        Field(
            description="About how many passes it takes with default parameters, for one target: a row's forward is "
            "one, its backward two. Null where it does not apply, or needs a parameter such as a layer."
        ),
    ] = None
    sanity: Annotated[
        Sanity | None, Field(description="Whether its maps depend on what the network has learnt, and on the class.")
    ] = None


class ModelSummary(Wire):
    """One served model."""

    name: str
    default: bool
    status: Literal["loading", "ready", "failed"]
    task: TaskName
    source: str
    error: str | None


class ModelList(Wire):
    """All served models."""

    models: list[ModelSummary]


class InputInfo(Wire):
    """How a picture becomes the network's input."""

    height: int
    width: int
    channels: Annotated[str, Field(description="What they are, in order, a letter each: `l` is grey, `a` opacity.")]
    resize: Annotated[
        int | list[int],
        Field(description="Shorter side before the crop; or [height, width] that is covered, filled or fitted into."),
    ]
    fit: Literal["crop", "squash", "pad"]
    interpolation: str
    mean: Annotated[list[float], Field(description="Per channel, on the scale of `range`.")]
    std: Annotated[list[float], Field(description="Per channel, on the scale of `range`.")]
    range: Annotated[list[float], Field(description="What black and white become before mean and std.")]
    window: Annotated[list[float] | None, Field(description="Values of deep pictures that become black and white.")]
    assumed: Annotated[list[str], Field(description="What neither the source nor the catalogue says of all this.")]


class HeadInfo(Wire):
    """A proved global-average-pooling head, which CAM and RAM need."""

    layer: str
    residual: Annotated[float, Field(description="Largest relative error of mean(map) + bias == output.")]


class TimingInfo(Wire):
    """How fast one way to run a network is, at one batch size."""

    precision: str
    variant: str
    rows: int
    rows_per_s: float


class TuningInfo(Wire):
    """What was measured on this machine, and chosen; null until the device has been idle for long enough."""

    preferred: Annotated[str, Field(description="Precision where a method tolerates less than fp32.")]
    variants: Annotated[dict[str, str], Field(description="Way to run the network, by precision.")]
    batch_rows: Annotated[dict[str, int], Field(description="Rows of a batch, by precision.")]
    agreement: Annotated[
        dict[str, float], Field(description="Least rank correlation of Score-CAM maps with fp32, over photographs.")
    ]
    weights_agreement: Annotated[
        dict[str, float], Field(description="The same of the scores behind the masks, over channels.")
    ]
    probability_error: Annotated[dict[str, float], Field(description="Largest difference of such a score.")]
    missing: Annotated[list[str], Field(description="What is not measured, as the budget was used up before.")]
    incremental: Annotated[bool, Field(description="Whether occlusion computes only what changes from row to row.")]
    whole: Annotated[str | None, Field(description="Why it does not.")]
    seconds: float
    remembered: Annotated[bool, Field(description="Measured before this start.")]
    timings: list[TimingInfo]


class CheckInfo(Wire):
    """One thing that was looked at when the network was loaded."""

    name: str
    outcome: Literal["passed", "warning", "refused"]
    found: str
    remedy: str | None


class ModelInfo(ModelSummary):
    """One model in full; what is only known once it is loaded is null before."""

    version: str | None
    device: str | None
    load_s: float | None
    outputs: int | None
    scale: Annotated[str | None, Field(description="What the scores of its classes are made of, if it has classes.")]
    checks: list[CheckInfo] | None
    labels: Annotated[int, Field(description="How many labels it has.")]
    task_assumed: Annotated[bool, Field(description="Neither the source, the catalogue nor numbers say its task.")]
    loading: Annotated[list[str], Field(description="What loading found worth saying: of weights, and of its form.")]
    input: InputInfo
    default_layer: str | None
    head: HeadInfo | None
    rectifiers: Annotated[int | None, Field(description="ReLU calls on feature maps in one forward.")]
    other_activations: list[str] | None
    tuning: TuningInfo | None
    methods: list[MethodUse] | None


class LayerWire(Wire):
    """One address inside a network."""

    path: str
    type: str
    shape: Annotated[list[int], Field(description="Of the output, without the batch.")]
    spatial: Annotated[bool, Field(description="Whether it has maps over the picture.")]
    layout: Annotated[
        str | None,
        Field(
            description="How it holds them: chw, hwc, ct, tokens, tokens+N behind N others, tokens+N+M with M behind."
        ),
    ]
    default: bool
    followed_by: Annotated[str | None, Field(description="Activation function that takes this output directly.")]


class LayerList(Wire):
    """All layers of a model, in the order in which they answer."""

    model: str
    layers: list[LayerWire]


class LabelList(Wire):
    """The names of a model's outputs."""

    model: str
    labels: Annotated[list[str], Field(description="In the order of the outputs; none where it has no names for them.")]


class ColormapSummary(Wire):
    """One colour map."""

    name: str
    category: Annotated[str, Field(description="As `sequential`, `diverging`, `cyclic`, `qualitative`.")]


class ColormapList(Wire):
    """All colour maps."""

    positive: Annotated[str, Field(description="Of positive maps, where a request names none.")]
    signed: Annotated[str, Field(description="Of signed maps, where a request names none.")]
    colormaps: Annotated[list[ColormapSummary], Field(description="By their full names; most have shorter ones.")]


class ColormapInfo(Wire):
    """The colours of a colour map."""

    name: str
    colours: Annotated[
        list[Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]],
        Field(min_length=256, max_length=256, description="From the least value to the greatest."),
    ]


class WaitingInfo(Wire):
    """How threads of a parallel loop wait for the next one."""

    policy: Annotated[
        Literal["passive", "own", "default"],
        Field(description="`passive`: asleep, as cores are shared; `own`: as the operator has set; else OpenMP's own."),
    ]
    reason: Annotated[str, Field(description="Why.")]


class Version(Wire):
    """Which build answers, on what."""

    name: str
    version: str
    revision: Annotated[str | None, Field(description="Commit that it was made of, where that is known.")]
    torch: str
    device: str
    waiting: WaitingInfo


class Live(Wire):
    """The process answers."""

    status: Literal["live"]


class Ready(Wire):
    """The model asked for has just answered; beside it the status of all."""

    status: Literal["ready"]
    models: dict[str, str]
