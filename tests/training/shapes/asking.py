"""Pictures of two shapes, and how each network is asked about both of them."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from tests.training.shapes.painting import KINDS, SIDE, Scene, Shape, paint

HELD_OUT: Final = 1_000_003
"""Seed of the pictures that are asked about: no network has learnt from them."""

LEFT, SCALE = 30, 2  # of an upload: the scene twice as large, and ground at its left and right that no network sees


class Pair(NamedTuple):
    """A picture of two shapes of different kinds, and one of each kind alone, for networks that know no kinds."""

    scene: Scene
    alone: tuple[Scene, Scene]


def pairs(number: int) -> list[Pair]:
    """Return so many pictures; all kinds come equally often where it is a multiple of three."""
    rng = np.random.default_rng(HELD_OUT)
    found = []
    for i in range(number):
        kinds = [KINDS[i % 3], KINDS[(i + 1) % 3]]
        found.append(Pair(paint(rng, kinds), (paint(rng, kinds[:1]), paint(rng, kinds[1:]))))
    return found


def upload(scene: Scene) -> bytes:
    """Return the file of a picture that has the scene in its middle, where networks look."""
    return _file(scene.image, "olive")


def mask(shape: Shape) -> bytes:
    """Return the file of a mask over such a picture, white where the shape is."""
    return _file(Image.fromarray(np.uint8(255 * shape.mask)), "black")


def _file(seen: Image.Image, around: str) -> bytes:
    larger = seen.resize((SCALE * SIDE, SCALE * SIDE), Image.Resampling.NEAREST)
    whole = Image.new(seen.mode, (larger.width + 2 * LEFT, larger.height), around)
    whole.paste(larger, (LEFT, 0))
    file = io.BytesIO()
    whole.save(file, "PNG")
    return file.getvalue()


def text(file: bytes) -> str:
    """Return a file in base64."""
    return base64.b64encode(file).decode()


def uploaded(box: Sequence[float]) -> list[float]:
    """Return a box of the scene in pixels of the upload."""
    x0, y0, x1, y1 = box
    return [LEFT + SCALE * x0, SCALE * y0, LEFT + SCALE * x1, SCALE * y1]


def question(model: str, pair: Pair) -> Mapping[str, Any]:
    """Return what asks a network for both shapes of a picture, in their order, each as the network's task names it."""
    body: dict[str, Any] = {"model": model, "image": text(upload(pair.scene))}
    shapes = pair.scene.shapes
    if model == "segmenter":
        targets: list[Any] = [{"class": shape.kind, "region": "predicted"} for shape in shapes]
    elif model == "embedding":
        targets = [{"like": [0], "unlike": [1]}, {"like": [1], "unlike": [0]}]
        body["pictures"] = [text(upload(alone)) for alone in pair.alone]
    else:
        targets = [shape.kind for shape in shapes]
    return body | {"targets": targets}
