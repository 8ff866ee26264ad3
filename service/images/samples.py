"""The package's photographs, as inputs: what networks are tried on where noise tells nothing."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from service.images.decoding import decode
from service.images.transform import Transform, normalised, prepare

if TYPE_CHECKING:
    from torch import Tensor


def photographs(transform: Transform) -> Tensor:
    """Return an astronaut, a cat and a cup of coffee as a model sees them, (3, C, H, W)."""
    return _seen(_decoded(), transform)


def crops(transform: Transform) -> Tensor:
    """Return eight parts of the same as a model sees them, (8, C, H, W): all of each, and two of its corners."""
    parts = []
    for picture in _decoded():
        width, height = picture.width * 3 // 4, picture.height * 3 // 4
        corner = picture.width - width, picture.height - height
        parts += [picture, picture.crop((0, 0, width, height)), picture.crop((*corner, picture.width, picture.height))]
    return _seen(parts[:8], transform)


def _decoded() -> list[Image.Image]:
    files = sorted((importlib.resources.files("service") / "photographs").iterdir(), key=lambda file: file.name)
    return [decode(file.read_bytes(), max_bytes=2**20, max_pixels=2**20) for file in files]


def _seen(pictures: Sequence[Image.Image], transform: Transform) -> Tensor:
    import torch  # not at once: what only decodes needs none of it

    return torch.from_numpy(np.concatenate([normalised(prepare(one, transform), transform) for one in pictures]))
