"""Bytes to a picture, and a picture to a model's input; every limit on pictures is enforced here."""

from service.images.decoding import FORMATS, decode
from service.images.room import Room
from service.images.samples import crops, photographs
from service.images.transform import (
    Box,
    Centre,
    Fit,
    Interpolation,
    Order,
    Picture,
    Transform,
    normalised,
    prepare,
    to_input,
)

__all__ = [
    "FORMATS",
    "Box",
    "Centre",
    "Fit",
    "Interpolation",
    "Order",
    "Picture",
    "Room",
    "Transform",
    "crops",
    "decode",
    "normalised",
    "photographs",
    "prepare",
    "to_input",
]
