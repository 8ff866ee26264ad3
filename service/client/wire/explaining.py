"""The wire types of explanations and predictions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from .base import Interpolation, Kind, Label, ModelName, Precision, TargetRef, TaskName, Wire
from .faithfulness import Completeness, Faithfulness, Sanity

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
    priority: Annotated[
        int,
        Field(
            ge=-10, le=10, description="Rows of higher priority go first; above what the server allows a caller, a 422."
        ),
    ] = 0
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


class Pictured(Request):
    """What every request says that asks for maps of a picture."""

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
    output: OutputOptions = Field(default_factory=OutputOptions)


class ExplainRequest(Pictured):
    """Explain a picture; `params` are the method's own."""

    params: dict[str, Any] = Field(default_factory=dict)
    faithfulness: Annotated[
        bool,
        Field(
            description="Say of each map how well it orders the picture's pixels: up to 603 further rows for the first "
            "map of a picture, about 60 for others."
        ),
    ] = False


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
    completeness: Annotated[
        Completeness | None, Field(description="How nearly it adds up, where its method promises that it does.")
    ] = None
    faithfulness: Annotated[Faithfulness | None, Field(description="Where the request asks for it.")] = None


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
    runtime: Annotated[str, Field(description="What ran rows of scores: torch, onnxruntime or openvino.")]
    exact: Annotated[
        bool,
        Field(
            description="Whether all of the definition was computed. False: parts of it were left out, within "
            "`error_bound` where that is given; or it was estimated, from random samples or by a search."
        ),
    ]
    error_bound: Annotated[float | None, Field(description="How far maps may be off, as a share of their maximum.")]
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
    sanity: Annotated[Sanity | None, Field(description="What is known of the method on this model.")] = None
    usage: Usage


class Progress(Wire):
    """How far an explanation is: an event `progress`."""

    rows_done: Annotated[int, Field(description="The same as `passes_done`, under an older name.")]
    rows_total: Annotated[int, Field(description="The same as `passes_total`, under an older name.")]
    passes_done: Annotated[int, Field(description="A row's forward is one pass, its backward two.")]
    passes_total: Annotated[int, Field(description="As far as is known.")]
    seconds_left: Annotated[float | None, Field(description="From the pace so far; null before there is one.")]


class Partial(Progress):
    """Maps of what is done so far: an event `partial`."""

    image: Geometry | None
    maps: list[MapWire]
    error_bound: Annotated[
        float | None,
        Field(description="How far from the whole map these may be; null where the method has no bound."),
    ] = None


class PredictResponse(Wire):
    """The answer to a prediction."""

    id: str
    model: ModelRef
    predictions: list[Prediction]
    image: Geometry
    usage: Usage
