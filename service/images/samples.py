"""The package's photographs, as inputs: what networks are tried on where noise tells nothing."""

import importlib.resources

import torch
from torch import Tensor

from service.images.decoding import decode
from service.images.transform import Transform, prepare, to_input


def photographs(transform: Transform) -> Tensor:
    """Return an astronaut, a cat and a cup of coffee as a model sees them, (3, C, H, W)."""
    files = sorted((importlib.resources.files("service") / "photographs").iterdir(), key=lambda file: file.name)
    pictures = [decode(file.read_bytes(), max_bytes=2**20, max_pixels=2**20) for file in files]
    return torch.cat([to_input(prepare(picture, transform), transform) for picture in pictures])
