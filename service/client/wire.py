"""The wire types: what requests and responses look like, for server and client. No logic, and pydantic alone."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints

Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
TaskName = Annotated[str, Field(description="What its outputs mean.")]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Family = Literal["attention", "cam", "features", "gradient", "perturbation", "propagation"]
Kind = Literal["positive", "signed", "grid", "picture", "rgb", "regions"]
Interpolation = Literal["bilinear", "nearest"]
IMAGE = Field(description="The picture as base64 or a data: URI: PNG, JPEG, WebP, GIF (first frame), BMP, TIFF, AVIF.")
SEQUENTIAL, DIVERGING = "inferno", "colorbrewer:RdBu_r"
"""The colour maps of positive and of signed maps, where a request names none."""


class OutputOptions(BaseModel):
    """What to return of each map, and how to draw it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    heatmap: Annotated[bool, Field(description="Return the map as a PNG.")] = True
    overlay: Annotated[
        bool,
        Field(
            description="Return the map laid over the picture as a PNG. Where it is false and `heatmap` is not, an "
            "answer of one picture a map (PNG, WebP, JPEG, ZIP) shows the map alone."
        ),
    ] = True
    array: Annotated[
        Literal["json", "base64", "none"],
        Field(description="Encoding of the raw values; base64 is little-endian float32 in C order."),
    ] = "json"
    colormap: Annotated[
        str | None,
        Field(
            max_length=64,
            description=f"Name of a colour map; default {SEQUENTIAL} for positive maps, {DIVERGING} for signed ones.",
            examples=["viridis"],
        ),
    ] = None
    opacity: Annotated[float, Field(ge=0, le=1, description="Of the map in the overlay.")] = 0.5
    size: Annotated[
        Literal["input", "original"],
        Field(description="Draw at the model's input size, or on the whole uploaded picture."),
    ] = "input"


class Request(BaseModel):
    """What every request may say."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[ModelName | None, Field(description="Name of the model; default: the default model.")] = None
    timeout_s: Annotated[
        float | None, Field(gt=0, le=86400, description="Deadline in seconds; past it the answer is a 504.")
    ] = None
    priority: Annotated[int, Field(ge=-10, le=10, description="Rows of higher priority go first.")] = 0
    precision: Annotated[
        Precision | None,
        Field(
            description="Of forwards; `auto` takes the fastest that was measured to agree, where the method tolerates "
            "it. Default: the server's setting."
        ),
    ] = None


class PredictRequest(Request):
    """Classify a picture, or measure it with a regression."""

    image: Annotated[str | None, IMAGE] = None
    top_k: Annotated[int, Field(ge=1, le=1000, description="How many classes to return, best first.")] = 5


class ExplainRequest(Request):
    """Explain a picture; `params` are the method's own."""

    image: Annotated[str | None, IMAGE] = None
    targets: Annotated[
        list[StrictInt | Label | dict[str, Any]] | None,
        Field(
            max_length=1024,
            description="What to explain: an output's index or label; or, by the model's task, `{class, against: "
            "[..]}`; `{output, direction: up | down}`; `{class, region: predicted | [x0, y0, x1, y1] | {mask: i}}`; "
            "`{detection: rank}`, `{box: [x0, y0, x1, y1], class}`; `{like: [i], unlike: [i], measure: cosine}`. Boxes "
            "are in pixels of the upright upload, `i` counts `pictures`. Default: what the model says of the picture.",
            examples=[[281, "tabby"]],
        ),
    ] = None
    pictures: Annotated[
        list[str] | None, Field(max_length=16, description="Further pictures, as `image`, that targets name.")
    ] = None
    params: dict[str, Any] = Field(default_factory=dict)
    output: OutputOptions = Field(default_factory=OutputOptions)


class Wire(BaseModel):
    """A response, or a part of one."""

    model_config = ConfigDict(extra="forbid")


class ModelRef(Wire):
    """Which network answered."""

    name: str
    version: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$", description="Digest of all weights and buffers.")]
    task: TaskName
    task_assumed: Annotated[bool, Field(description="Nothing but a guess says that it is its task.")] = False


class Prediction(Wire):
    """One thing that the network says of the whole picture; which numbers there are depends on its task."""

    index: int | None = None
    label: str | None = None
    probability: Annotated[float | None, Field(ge=0, le=1, description="Of a class: by softmax or sigmoid.")] = None
    logit: Annotated[float | None, Field(description="Of a class: before softmax or sigmoid.")] = None
    value: Annotated[float | None, Field(description="Regressions only.")] = None
    share: Annotated[float | None, Field(description="Segmentation: of the pixels where the class wins.")] = None
    rank: Annotated[int | None, Field(description="Detection: from 0 on, the surest first.")] = None
    score: Annotated[float | None, Field(description="Detection: how sure the network is.")] = None
    box: Annotated[list[float] | None, Field(description="Detection: x0, y0, x1, y1, pixels of the upload.")] = None
    norm: Annotated[float | None, Field(description="Embedding: its length.")] = None


class TargetRef(Wire):
    """The output that a map explains."""

    index: int
    label: str
    score: Annotated[float, Field(description="What the network says of it: a probability, or a value.")]
    asked: Annotated[int | str | dict[str, Any] | None, Field(description="As the request named it.")] = None


class ArrayWire(Wire):
    """Raw values, unnormalised."""

    dtype: Literal["float32"]
    shape: list[int]
    encoding: Literal["json", "base64"]
    data: Annotated[str | list[Any], Field(description="Nested lists, or base64 of little-endian C order.")]


class MapWire(Wire):
    """One map: of a target, a channel or a filter."""

    name: str
    kind: Annotated[Kind, Field(description="Heat (h, w); a grid (k, h, w); a picture, signed, or rgb (3, h, w).")]
    interpolation: Annotated[Interpolation, Field(description="How to enlarge it.")]
    target: TargetRef | None
    layer: str | None
    channel: int | None
    channels: Annotated[list[int] | None, Field(description="The channels of a grid, in order.")]
    heatmap: Annotated[str | None, Field(description="PNG in base64.")]
    overlay: Annotated[str | None, Field(description="PNG in base64: over the picture, or beside its patch.")]
    array: ArrayWire | None
    min: float
    max: float
    flat: Annotated[bool, Field(description="Nothing was found: all values are equal, and zero where signs count.")]
    all_negative: Annotated[bool, Field(description="Not flat, and no value is above zero.")]
    patch: Annotated[list[int] | None, Field(description="x0, y0, x1, y1 of the input that a projection explains.")]


class Geometry(Wire):
    """The uploaded picture, upright, and the part of it that the model saw."""

    width: int
    height: int
    box: Annotated[list[float], Field(description="x0, y0, x1, y1 in pixels of the picture.")]
    warnings: Annotated[list[str], Field(description="What may not be as the picture's sender thinks.")]


class Usage(Wire):
    """What the answer took."""

    forwards: Annotated[int, Field(description="Rows sent through the model.")]
    backwards: Annotated[int, Field(description="Rows differentiated, times targets.")]
    rows_avoided: Annotated[int, Field(description="Rows whose outputs were known without a forward.")]
    batch_rows_mean: Annotated[float, Field(description="Rows of the batches it rode in, on average.")]
    queue_ms: float
    device_ms: float
    render_ms: float
    dtype: Annotated[str, Field(description="Of the forwards of scores; gradients are always float32.")]
    exact: Annotated[bool, Field(description="Whether all of the definition was computed, nothing estimated.")]
    incremental: Annotated[bool, Field(description="Whether only what changed from row to row was computed.")]
    arithmetic_share: Annotated[float, Field(description="Of a whole forward's multiplications that a row took.")]
    cache: Annotated[
        Literal["none", "miss", "hit", "shared"],
        Field(description="`hit`: an earlier request's outputs; `shared`: those of an equal one under way."),
    ]


class ExplainResponse(Wire):
    """The answer to an explanation."""

    id: str
    method: str
    model: ModelRef
    params: Annotated[dict[str, Any], Field(description="As used: defaults filled in, the layer named.")]
    predictions: list[Prediction]
    maps: list[MapWire]
    image: Geometry | None
    details: Annotated[dict[str, Any], Field(description="The method's own findings.")]
    usage: Usage


class PredictResponse(Wire):
    """The answer to a prediction."""

    id: str
    model: ModelRef
    predictions: list[Prediction]
    image: Geometry
    usage: Usage


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
    """Whether a method applies to a model."""

    name: str
    applies: bool
    reason: str | None


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
        str | None, Field(description="How it holds them: chw, hwc, tokens, tokens+N behind N others, ct.")
    ]
    default: bool
    followed_by: Annotated[str | None, Field(description="Activation function that takes this output directly.")]


class LayerList(Wire):
    """All layers of a model, in the order in which they answer."""

    model: str
    layers: list[LayerWire]


class Live(Wire):
    """The process answers."""

    status: Literal["live"]


class Ready(Wire):
    """The model asked for has just answered; beside it the status of all."""

    status: Literal["ready"]
    models: dict[str, str]
