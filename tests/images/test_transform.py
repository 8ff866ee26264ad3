"""Pictures to inputs, held against torchvision's own transforms and against geometry."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv

from service.errors import UnprocessableImage
from service.images.transform import Transform, prepare, to_input
from tests.conftest import photograph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


PHOTOS = {
    "landscape": photograph("chelsea"),  # 451 x 300
    "portrait": photograph("chelsea").transpose(Image.Transpose.ROTATE_90),
    "square": photograph("astronaut"),  # 512 x 512
    "odd": photograph("astronaut").crop((3, 5, 336, 506)),
    "strip": photograph("coffee").crop((100, 100, 197, 399)),
    "small": photograph("rocket").resize((31, 20)),
    "exact": photograph("coffee").resize((64, 64)),
}


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize(
    ("resize", "crop", "how"),
    [
        (256, (224, 224), "bilinear"),
        (224, (224, 224), "bicubic"),
        (97, (96, 81), "bilinear"),
        (64, (64, 64), "nearest"),
        (64, (64, 99), "bilinear"),  # wider than a portrait: padded
        (64, (65, 68), "bilinear"),
    ],
)
def test_input_is_torchvisions(photo: str, resize: int, crop: tuple[int, int], how: str) -> None:
    theirs = tv.Compose(
        [tv.Resize(resize, tv.InterpolationMode(how)), tv.CenterCrop(crop), tv.ToTensor(), tv.Normalize(MEAN, STD)]
    )
    transform = Transform(resize, crop, MEAN, STD, how)
    expected = theirs(PHOTOS[photo])[None]
    ours = to_input(prepare(PHOTOS[photo], transform).seen, transform)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (90, 90), (250, 20)])
@pytest.mark.parametrize(("resize", "crop"), [(64, (64, 64)), (80, (64, 48)), (32, (32, 32))])
def test_box_is_where_the_crop_lies(size: tuple[int, int], resize: int, crop: tuple[int, int]) -> None:
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ramp = np.stack([x * 255 / width, y * 255 / height, 0 * x], 2)  # a pixel's colour is its place
    picture = prepare(Image.fromarray(ramp.astype(np.uint8)), Transform(resize, crop, MEAN, STD))
    x0, y0, x1, y1 = picture.box
    seen = np.asarray(picture.seen, np.float64)
    rows, columns = (np.arange(n)[2:-2] + 0.5 for n in crop)  # at the borders resampling has only one side
    place_x, place_y = x0 + columns * (x1 - x0) / crop[1] - 0.5, y0 + rows * (y1 - y0) / crop[0] - 0.5
    np.testing.assert_allclose(seen[2:-2, 2:-2, 0].mean(0), place_x * 255 / width, atol=1.2)
    np.testing.assert_allclose(seen[2:-2, 2:-2, 1].mean(1), place_y * 255 / height, atol=1.2)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 64), st.integers(16, 64), st.integers(0, 40))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_any_size_is_prepared(width: int, height: int, crop_h: int, crop_w: int, margin: int) -> None:
    assume(max(width, height) <= 100 * min(width, height))
    transform = Transform(min(crop_h, crop_w) + margin, (crop_h, crop_w), MEAN, STD)
    image = Image.new("RGB", (width, height), "white")
    picture = prepare(image, transform)
    assert picture.original is image
    assert picture.seen.size == (crop_w, crop_h)
    x0, y0, x1, y1 = picture.box
    scale = min(width, height) / transform.resize
    # As large as the crop, and in the middle, but for the rounding to whole pixels of the scaled picture.
    assert (x1 - x0, y1 - y0) == pytest.approx((crop_w * scale, crop_h * scale), rel=1 / transform.resize)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((width / 2, height / 2), abs=scale)
    assert np.asarray(picture.seen)[crop_h // 2, crop_w // 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("long", "short", "fits"), [(100, 1, True), (101, 1, False), (700, 7, True), (701, 7, False)])
def test_strips_are_refused(long: int, short: int, fits: bool) -> None:
    for size in ((long, short), (short, long)):
        said = f"{size[0]} x {size[1]}, more than 100 times"
        with nullcontext() if fits else pytest.raises(UnprocessableImage, match=said):
            assert prepare(Image.new("RGB", size), Transform(16, (16, 16), MEAN, STD)).seen.size == (16, 16)
