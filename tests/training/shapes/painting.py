"""Squares, circles and triangles on textured ground; the truth is where they were painted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Kind = Literal["square", "circle", "triangle"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

SIDE: Final = 96
"""Side of a picture, in pixels."""

RADII: Final = (11.0, 17.0)
"""Smallest and largest radius of a shape's circle, in pixels. All kinds have about the same area at one radius."""

GAP: Final = 5.0
"""Least distance between two shapes, and from a shape to the border, in pixels."""

CONTRAST: Final = 70.0
"""Least distance of a shape's mean colour to the ground's, of 0..255: neither kind nor place can be told by colour."""

_FINER = 4  # pixels drawn for one of the picture: edges are as soft as a photograph's


@dataclass(frozen=True)
class Shape:
    """A shape as it was painted."""

    kind: Kind
    mask: NDArray[np.bool_]
    """(96, 96), true where at least half of a pixel is the shape's."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return (x0, y0, x1, y1) in pixels, the last ones exclusive."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def number(self) -> int:
        """Return the kind's number, from 0."""
        return KINDS.index(self.kind)


@dataclass(frozen=True)
class Scene:
    """A picture, and the shapes in it."""

    picture: NDArray[np.uint8]
    """(96, 96, 3) RGB."""
    shapes: tuple[Shape, ...]

    @property
    def classes(self) -> NDArray[np.uint8]:
        """Return each pixel's class, (96, 96): 0 is ground, 1 to 3 are the kinds."""
        found = np.zeros((SIDE, SIDE), np.uint8)
        for shape in self.shapes:
            found[shape.mask] = shape.number + 1
        return found

    @property
    def image(self) -> Image.Image:
        """Return the picture as one that can be sent."""
        return Image.fromarray(self.picture)


def paint(rng: np.random.Generator, kinds: Sequence[Kind]) -> Scene:
    """Return a picture of these shapes, which do not touch each other, and of strokes that are none of them.

    Colours, sizes, angles and places say nothing of the kind.
    """
    base = rng.uniform(60, 195, 3)
    picture = _ground(rng, base)
    for _ in range(int(rng.integers(3, 7))):
        _stroke(rng, picture, base)
    shapes: list[Shape] = []
    for kind, (radius, y, x) in zip(kinds, _places(rng, len(kinds)), strict=True):
        cover = _cover(_outline(kind, radius, y, x, rng.uniform(0, 2 * math.pi)))
        _lay(picture, cover, _colour(rng, base) + rng.normal(0, 8, (SIDE, SIDE, 1)))
        shapes.append(Shape(kind, cover >= 0.5))
    noisy = picture + rng.normal(0, rng.uniform(2, 8), picture.shape)
    return Scene(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), tuple(shapes))


def paint_many(number: int, seed: int, fewest: int = 1, most: int = 3) -> list[Scene]:
    """Return so many pictures of `fewest` to `most` shapes, of any kinds; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    return [paint(rng, [KINDS[i] for i in rng.integers(0, 3, rng.integers(fewest, most + 1))]) for _ in range(number)]


def _ground(rng: np.random.Generator, base: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return clouds of two sizes around a colour, (96, 96, 3)."""
    ground = np.broadcast_to(base, (SIDE, SIDE, 3)).copy()
    for cells, strength in ((5, 14.0), (20, 7.0)):
        coarse = rng.normal(0, strength, (3, cells, cells)).astype(np.float32)
        for channel, values in enumerate(coarse):
            cloud = Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            ground[:, :, channel] += np.asarray(cloud)
    return ground


def _colour(rng: np.random.Generator, base: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a colour that is far enough from another one."""
    while True:
        colour = rng.uniform(10, 245, 3)
        if abs(float((colour - base).mean())) >= CONTRAST:
            return colour


def _places(rng: np.random.Generator, number: int) -> list[tuple[float, float, float]]:
    """Return radius, y and x of so many shapes that keep their distance."""
    while True:
        placed: list[tuple[float, float, float]] = []
        for _ in range(60):  # an unlucky beginning leaves no place for the rest
            if len(placed) == number:
                return placed
            radius = rng.uniform(*RADII)
            y, x = (float(v) for v in rng.uniform(radius + GAP, SIDE - radius - GAP, 2))
            if all(math.hypot(y - b, x - a) >= radius + r + GAP for r, b, a in placed):
                placed.append((float(radius), y, x))
        if len(placed) == number:
            return placed


def _outline(kind: Kind, radius: float, y: float, x: float, angle: float) -> list[tuple[float, float]]:
    """Return the corners (x, y) of a shape that lies within its circle, but for a triangle's tips."""
    corners, reach = {"square": (4, 1.0), "circle": (64, 0.88), "triangle": (3, 1.12)}[kind]
    turns = [angle + 2 * math.pi * i / corners for i in range(corners)]
    return [(x + reach * radius * math.cos(turn), y + reach * radius * math.sin(turn)) for turn in turns]


def _cover(corners: Sequence[tuple[float, float]], width: float = 0) -> NDArray[np.float64]:
    """Return how much of each pixel a polygon, or a line of some width, covers, (96, 96) of 0..1."""
    drawn = Image.new("L", (SIDE * _FINER, SIDE * _FINER))
    scaled = [(_FINER * x, _FINER * y) for x, y in corners]
    draw = ImageDraw.Draw(drawn)
    if width:
        draw.line(scaled, fill=255, width=round(_FINER * width))
    else:
        draw.polygon(scaled, fill=255)
    return np.asarray(drawn.reduce(_FINER), dtype=np.float64) / 255


def _stroke(rng: np.random.Generator, picture: NDArray[np.float64], base: NDArray[np.float64]) -> None:
    """Paint a line, in place, that has a shape's contrast and no area."""
    y, x = rng.uniform(0, SIDE, 2)
    length, angle = rng.uniform(8, 40), rng.uniform(0, 2 * math.pi)
    ends = [(x, y), (x + length * math.cos(angle), y + length * math.sin(angle))]
    _lay(picture, _cover(ends, rng.uniform(0.8, 1.8)), _colour(rng, base))


def _lay(picture: NDArray[np.float64], cover: NDArray[np.float64], colour: NDArray[np.float64]) -> None:
    picture += cover[..., None] * (colour - picture)
