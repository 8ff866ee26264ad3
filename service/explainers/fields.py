"""Parameters that several methods have, each documented once."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from service.contract import Facts, LayerInfo, Score
from service.errors import InvalidParameter, quoted
from service.explainers.segments import Cut


def _distinct(named: tuple[Any, ...]) -> tuple[Any, ...]:
    """Raise `ValueError` where something is named twice: it would be looked at and sent twice."""
    seen: set[Any] = set()
    for one in named:
        if one in seen:
            raise ValueError(f"{quoted(one)} is named twice; name each one once")
        seen.add(one)
    return named


# Behind a list's own bounds: a function that stands before them is handed a list of any length.
DISTINCT = AfterValidator(_distinct)


Layer = Annotated[
    str | None, Field(description="Path of the layer; default: the last spatial feature map.", examples=["layer4"])
]
Layers = Annotated[
    tuple[str, ...],
    Field(
        max_length=16,
        description="Paths of the layers; default: the last spatial feature map.",
        examples=[["layer1", "layer4"]],
    ),
    DISTINCT,
]
ScoreOf = Annotated[
    Score,
    Field(
        description="f: the class's probability, or its logit. Models for regression, detection and embedding have a "
        "`value` instead, which is their default."
    ),
]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1, description="Seed of all that is drawn at random.")]
Noise = Annotated[float, Field(gt=0, le=1, description="Noise deviation, as a share of the input's value range.")]
Relu = Annotated[bool, Field(description="Keep only what speaks for the class; false keeps the signed map.")]
Channels = tuple[Annotated[int, Field(ge=0)], ...]
Space = Literal["pixels", "normalised"]
MaskSpace = Annotated[
    Space,
    Field(
        description="Where a mask multiplies the picture: its `pixels` (0..1, before mean and deviation), so that what "
        "a mask hides is black, or the `normalised` input, so that it is the model's mean colour."
    ),
]
Colours = Annotated[
    Literal["sum", "absmax", "keep"],
    Field(
        description="What a pixel shows of its colour channels: their `sum`, the largest absolute value of them "
        "(`absmax`), or each of them (`keep`: a picture of three planes)."
    ),
]
_BASELINE = r"(mean|black|white|grey|blur|#[0-9a-fA-F]{6})"
Baseline = Annotated[
    str,
    Field(
        pattern=rf"^{_BASELINE}$",
        description="What stands for no picture at all: the model's mean colour, `black`, `white`, `grey`, a strong "
        "blur of the picture (`blur`), or a colour `#rrggbb`.",
        examples=["mean", "blur", "#808080"],
    ),
]
Baselines = Annotated[
    str,
    Field(
        pattern=rf"^{_BASELINE}(\+{_BASELINE}){{0,4}}$",
        description="What stands for no picture at all: the model's mean colour, `black`, `white`, `grey`, a strong "
        "blur of the picture (`blur`), or a colour `#rrggbb`; or up to five of them, joined by `+`, over which the "
        "answer is averaged.",
        examples=["mean", "black+white", "blur+#808080"],
    ),
]
_SHOWN = (
    "What stands where something is hidden: the model's mean colour, `black`, `white`, `grey`, the picture blurred "
    "(`blur`), or a colour `#rrggbb`."
)
Hidden = Annotated[str, Field(pattern=f"^{_BASELINE}$", description=_SHOWN, examples=["mean", "#808080"])]
HiddenSegment = Annotated[
    str,
    Field(
        pattern=f"^({_BASELINE}|segment)$",
        description=f"{_SHOWN} `segment` is each hidden segment's own mean colour.",
        examples=["mean", "segment", "#808080"],
    ),
]
Segments = Annotated[
    Cut,
    Field(description="How the picture is cut: superpixels, which follow its colours (`slic`), or cells of a grid."),
]
Count = Annotated[int, Field(ge=2, le=256, description="How many segments, at most; there may be a few fewer.")]


def layers_of(layers: tuple[str, ...], facts: Facts) -> list[LayerInfo]:
    """Return the layers asked for, or the default one.

    Raises:
        InvalidParameter: one of them does not exist or has no spatial maps; its pointer is `/params/layers/i`.
    """
    paths: tuple[str | None, ...] = layers or (None,)
    return [facts.layer(path, f"/params/layers/{i}") for i, path in enumerate(paths)]


def check_channels(channels: tuple[int, ...], info: LayerInfo) -> None:
    """Raise `InvalidParameter` where a channel number is not one of the layer's."""
    for i, channel in enumerate(channels):
        if channel >= info.shape[0]:
            raise InvalidParameter.at(
                f"/params/channels/{i}",
                f"channel {channel} is out of range: layer {info.path!r} has channels 0 to {info.shape[0] - 1}",
            )
