"""Pictures to inputs, held against torchvision's own transforms and against geometry."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv

from service.errors import UnprocessableImage
from service.images import Transform, normalised, prepare, to_input
from tests.conftest import photograph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
sweep = settings(max_examples=100, deadline=None, derandomize=True, database=None)


# To the model's input

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


@pytest.mark.parametrize(("centre", "first"), [("even", (2, 4)), ("down", (1, 3))])
def test_half_a_pixel_is_rounded_to_the_even_neighbour_or_down(centre: str, first: tuple[int, int]) -> None:
    """Three pixels too high and seven too wide, at one and a half, and three and a half."""
    pixels = np.arange(35 * 71, dtype=np.uint32).reshape(35, 71)
    picture = Image.fromarray(np.stack([pixels % 256, pixels // 256, 0 * pixels], 2).astype(np.uint8))
    seen = prepare(picture, Transform(35, (32, 64), MEAN, STD, centre=centre)).seen
    red, green, _ = seen.getpixel((0, 0))
    assert divmod(red + 256 * green, 71) == first


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
@sweep
def test_any_size_is_prepared_or_refused(width: int, height: int, crop_h: int, crop_w: int, margin: int) -> None:
    transform = Transform(min(crop_h, crop_w) + margin, (crop_h, crop_w), MEAN, STD)
    image = Image.new("RGB", (width, height), "white")
    if max(width, height) > 100 * min(width, height):
        with pytest.raises(UnprocessableImage, match=f"{width} x {height}, more than 100 times"):
            prepare(image, transform)
    else:
        picture = prepare(image, transform)
        assert picture.original is image
        assert picture.seen.size == (crop_w, crop_h)
        x0, y0, x1, y1 = picture.box
        scale = min(width, height) / transform.resize
        # As large as the crop, and in the middle, but for the rounding to whole pixels of the scaled picture.
        assert (x1 - x0, y1 - y0) == pytest.approx((crop_w * scale, crop_h * scale), rel=1 / transform.resize)
        assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((width / 2, height / 2), abs=scale)
        assert np.asarray(picture.seen)[crop_h // 2, crop_w // 2].tolist() == [255, 255, 255]


# The whole picture


@pytest.mark.parametrize("size", [(451, 300), (300, 451), (128, 128), (31, 20)])
@pytest.mark.parametrize(("resize", "crop"), [((64, 64), (64, 64)), ((48, 96), (48, 96)), ((73, 73), (64, 64))])
def test_squash_is_torchvisions(size: tuple[int, int], resize: tuple[int, int], crop: tuple[int, int]) -> None:
    photo = photograph("chelsea").resize(size)
    transform = Transform(resize, crop, MEAN, STD, fit="squash")
    theirs = tv.Compose([tv.Resize(resize), tv.CenterCrop(crop), tv.ToTensor(), tv.Normalize(MEAN, STD)])
    picture = prepare(photo, transform)
    torch.testing.assert_close(to_input(picture, transform), theirs(photo)[None], rtol=1e-5, atol=1e-5)
    if resize == crop:
        assert picture.box == pytest.approx((0, 0, *size))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (90, 90), (250, 20)])
@pytest.mark.parametrize("crop", [(64, 64), (48, 96)])
def test_pad_shows_all_of_a_picture_in_its_shape(size: tuple[int, int], crop: tuple[int, int]) -> None:
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ramp = Image.fromarray(np.stack([x * 255 / width, y * 255 / height, 0 * x], 2).astype(np.uint8))
    transform = Transform(crop, crop, (0.2, 0.4, 0.6), STD, fit="pad")
    picture = prepare(ramp, transform)
    x0, y0, x1, y1 = picture.box
    scale = (x1 - x0) / crop[1]
    assert (y1 - y0) / crop[0] == pytest.approx(scale, rel=0.1)  # but for the rounding to whole pixels
    assert x0 <= 0.5
    assert y0 <= 0.5
    assert x1 >= width - 0.5
    assert y1 >= height - 0.5
    seen = np.asarray(picture.seen, float)
    if size != (90, 90):
        corner = seen[0, 0] if x0 < -scale or y0 < -scale else seen[-1, -1]
        assert corner.tolist() == [51, 102, 153]  # the mean colour, which the network sees as zero
    rows, columns = crop[0] // 2, crop[1] // 2
    assert seen[rows, columns, 0] == pytest.approx(
        (x0 + (columns + 0.5) * scale) / width * 255, abs=255 * scale / width
    )


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (97, 96), (640, 20)])
@pytest.mark.parametrize("crop", [(64, 64), (48, 96), (96, 48)])
def test_a_rectangle_is_covered(width: int, height: int, crop: tuple[int, int]) -> None:
    """Without a margin the larger scale decides: no edge of the input is empty, and one axis is seen whole."""
    image = Image.new("RGB", (width, height), "white")
    picture = prepare(image, Transform(crop, crop, MEAN, STD))
    assert np.asarray(picture.seen).min() == 255
    x0, y0, x1, y1 = picture.box
    assert min((x1 - x0) / width, (y1 - y0) / height) <= 1.001
    assert max((x1 - x0) / width, (y1 - y0) / height) == pytest.approx(1, abs=0.02)


def test_order_range_and_channels() -> None:
    photo = photograph("chelsea").resize((64, 64))
    plain = Transform(64, (64, 64), (0.0,) * 3, (1.0,) * 3)
    rgb = to_input(prepare(photo, plain), plain)
    for change, expected in (
        ({"order": "bgr"}, rgb.flip(1)),
        ({"range": (0.0, 255.0)}, rgb * 255),
        ({"range": (-1.0, 1.0)}, rgb * 2 - 1),
        ({"order": "bgr", "mean": (0.1, 0.2, 0.3)}, rgb.flip(1) - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)),
        ({"mean": (0.0,) * 4, "std": (1.0,) * 4}, torch.cat([rgb, torch.ones(1, 1, 64, 64)], 1)),
    ):
        transform = replace(plain, **change)
        torch.testing.assert_close(to_input(prepare(photo, transform), transform), expected, atol=1e-4, rtol=1e-5)
    grey = replace(plain, mean=(0.5,), std=(0.5,))
    theirs = tv.Compose([tv.Grayscale(), tv.ToTensor(), tv.Normalize(0.5, 0.5)])(photo)
    torch.testing.assert_close(to_input(prepare(photo, grey), grey)[0], theirs)


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5,), (0.1, 0.2, 0.3, 0.4)])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_what_is_looked_up_is_what_arithmetic_gives(mean: tuple[float, ...], order: str) -> None:
    """To the bit: 256 values are worked out once and for all, in the same steps as each pixel was."""
    transform = Transform(64, (64, 48), mean, (0.229, 0.224, 0.225, 0.3)[: len(mean)], order=order)
    photo = photograph("chelsea").convert("RGBA")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    picture = prepare(photo, transform)
    seen = np.asarray(picture.seen.convert("L") if len(mean) == 1 else picture.seen, np.float32).reshape(64, 48, -1)
    seen = seen[..., ::-1] if transform.channels.startswith("bgr") else seen
    if len(mean) == 4:
        seen = np.concatenate([seen, np.asarray(picture.alpha, np.float32)[..., None]], 2)
    expected = (seen / np.float32(255) - np.array(mean, np.float32)) / np.array(transform.std, np.float32)
    found = normalised(picture, transform)
    assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1)[None])


def test_statistics_are_those_of_values_0_to_1() -> None:
    caffe = Transform(64, (64, 64), (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), range=(0.0, 255.0), order="bgr")
    mean, std = caffe.statistics
    assert mean == pytest.approx((104 / 255, 117 / 255, 123 / 255))
    assert std == pytest.approx((1 / 255,) * 3)
    assert caffe.channels == "bgr"


def test_alpha_is_cut_as_the_picture_is() -> None:
    image = Image.new("RGBA", (80, 40), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (40, 0, 80, 40))
    transform = Transform(32, (32, 32), (0.0,) * 4, (1.0,) * 4, "nearest")
    picture = prepare(image, transform)
    x = to_input(picture, transform)[0]
    assert x.shape == (4, 32, 32)
    assert x[3, :, :15].eq(1).all()
    assert x[3, :, 17:].eq(0).all()
    assert picture.seen.mode == picture.original.mode == "RGB"
    assert picture.original.getpixel((70, 20)) == (255, 255, 255)  # people see it on white


def test_a_picture_is_scaled_within_bounds() -> None:
    transform = Transform(4096, (224, 224), MEAN, STD)
    with pytest.raises(UnprocessableImage, match="scaled to 40,960 x 4,096 before the model sees its part"):
        prepare(Image.new("RGB", (100, 10)), transform)
