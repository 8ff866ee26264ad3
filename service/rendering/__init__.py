"""Maps to colours to drawings to files."""

from service.rendering import encoders
from service.rendering.drawing import (
    Drawing,
    Floats,
    Heat,
    OutputOptions,
    best,
    colours,
    contact_sheet,
    extent,
    fit,
    grid,
    heatmap,
    overlay,
    table,
)

__all__ = [
    "Drawing",
    "Floats",
    "Heat",
    "OutputOptions",
    "best",
    "colours",
    "contact_sheet",
    "encoders",
    "extent",
    "fit",
    "grid",
    "heatmap",
    "overlay",
    "table",
]
