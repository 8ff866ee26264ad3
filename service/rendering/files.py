"""A map's drawings as files: of each what a format takes, and no more."""

from collections.abc import Callable, Mapping
from typing import Literal

from service.images import Picture
from service.rendering import drawing, encoders
from service.rendering.drawing import Drawing, Heat, OutputOptions

Pictures = Literal["asked", "best", "none"]
Encode = Callable[[Drawing], bytes]
Files = tuple[bytes | None, bytes | None]
"""Of the map alone, and of it over the picture; None where there is none."""
Draw = Callable[[Heat, OutputOptions, Pictures, Encode | None], Files]
"""Makes the files of a map as `files` does, on a picture that lies there."""
ENCODERS: Mapping[str, Encode] = {"png": encoders.png, "jpeg": encoders.jpeg, "webp": encoders.webp}


def files(
    heat: Heat, picture: Picture | None, output: OutputOptions, pictures: Pictures, encode: Encode | None
) -> Files:
    """Draw and encode of a map what is needed.

    Args:
        heat: the map.
        picture: what it lies on; None: it lies on none.
        output: how to draw it.
        pictures: `asked`: alone and over the picture, as the options say; `best`: one, for people; `none`.
        encode: makes a file of a drawing; None: nobody takes one.

    Raises:
        InvalidParameter: a drawing is larger than the format can hold.
    """
    if encode is None or pictures == "none":
        return None, None
    if pictures == "best":
        alone, over = drawing.best(heat, picture, output)
    else:
        over = drawing.overlay(heat, picture, output) if output.overlay and picture is not None else None
        alone = drawing.heatmap(heat, picture, output) if output.heatmap else None
    return encode(alone) if alone is not None else None, encode(over) if over is not None else None


def name_of(encode: Encode) -> str | None:
    """Return the name under which another process knows an encoder; None where it knows none of it."""
    return next((name for name, known in ENCODERS.items() if known is encode), None)
