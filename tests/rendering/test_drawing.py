"""Drawings of maps, pixel by pixel, and arrays on the wire."""

import cmap
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.images import Transform, prepare
from service.rendering import Heat, OutputOptions, colours, drawing
from tests.conftest import photograph

PICTURE = prepare(photograph("chelsea").resize((90, 60)), Transform(32, (32, 32), (0, 0, 0), (1, 1, 1)))
RAMP = np.linspace(-1, 3, 16, dtype=np.float32).reshape(4, 4)
GREY = OutputOptions(colormap="gray")


def floats(*values: float) -> npt.NDArray[np.float32]:
    return np.array([values], np.float32)


def shade(values: npt.NDArray[np.float32], signed: bool = False) -> list[int]:
    """Draw values in grey, where the colour is the scaled value itself."""
    drawn = colours(values, signed=signed, colormap="gray")
    assert (drawn == drawn[..., :1]).all()
    return drawn[..., 0].ravel().tolist()


# Colours


@pytest.mark.parametrize(
    ("values", "signed", "expected"),
    [
        ((0, 1, 2), False, [0, 128, 255]),  # minimum to maximum
        ((-6, -5, -4), False, [0, 128, 255]),
        ((-1, 0, 1), True, [0, 128, 255]),  # zero in the middle,
        ((-1, 0, 4), True, [96, 128, 255]),  # also where the sides differ
        ((1, 2, 4), True, [159, 191, 255]),
        ((0, 0, 0), False, [0, 0, 0]),  # flat ones
        ((5, 5, 5), False, [0, 0, 0]),
        ((0, 0, 0), True, [128, 128, 128]),
        ((-2, -2, -2), True, [0, 0, 0]),
        ((1e-38, 2e-38, 3e-38), False, [0, 128, 255]),
    ],
)
def test_scaling(values: tuple[float, ...], signed: bool, expected: list[int]) -> None:
    assert shade(floats(*values), signed) == pytest.approx(expected, abs=1)


def test_default_colours() -> None:
    low, high = (np.rint(cmap.Colormap("inferno").lut(256)[i, :3] * 255).tolist() for i in (0, 255))
    assert colours(floats(0, 1), signed=False, colormap=None)[0].tolist() == [low, high]
    blue, white, red = colours(floats(-1, 0, 1), signed=True, colormap=None)[0].astype(int)
    assert min(white) > 240
    assert blue[2] > blue[0] + 50
    assert red[0] > red[2] + 50


def test_one_bright_pixel_does_not_darken_a_large_map() -> None:
    values = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (100, 1))
    values[0, 0] = 1000
    drawn = np.array(shade(values)).reshape(100, 100)
    assert drawn[0, 0] == 255
    assert drawn[50, 99] >= 254
    assert max(shade(values[:10])[1:]) == 0  # a small one keeps it: there a pixel is a share of the picture
    alone = np.zeros((100, 100), np.float32)
    alone[3, 4] = 1  # but where there is nothing else, it shows
    assert np.argmax(shade(alone)) == 304
    assert max(shade(alone)) == 255


def test_all_colour_maps_draw() -> None:
    names = sorted(cmap.Catalog().unique_keys())
    assert len(names) > 100
    for name in names:
        options = OutputOptions(colormap=name)
        drawn = colours(floats(-1, 0, 1), signed=True, colormap=options.colormap)
        assert (drawn.shape, drawn.dtype) == ((1, 3, 3), np.uint8)
    steps = np.rint(np.asarray(cmap.Colormap("tab10").lut())[:, :3] * 255)  # ten colours, and none between
    ends = colours(floats(0, 1), signed=False, colormap="tab10")[0]
    assert ends.tolist() == [steps[0].tolist(), steps[9].tolist()]


@pytest.mark.parametrize("name", ["", "viridiss", "a:b", "\0", "x" * 65])
def test_unknown_colour_map(name: str) -> None:
    with pytest.raises(ValidationError, match=r"some are viridis|at most 64"):
        OutputOptions(colormap=name)


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=12), st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_shades_keep_the_order_of_values(values: list[float], signed: bool) -> None:
    drawn = np.array(shade(floats(*values), signed))
    assert (np.diff(drawn[np.argsort(values, kind="stable")]) >= 0).all()
    if len(set(values)) > 1:
        assert drawn.max() == 255 or signed
        assert drawn.min() == 0 or signed


def test_flat_and_all_negative() -> None:
    """A constant that is not zero is a finding where zero means something: each place counts the same."""
    for kind, values, flat, negative in (
        ("signed", (0, 0), True, False),
        ("signed", (-1, -1), False, True),
        ("signed", (1, 1), False, False),
        ("signed", (-2, 0), False, True),
        ("positive", (1, 1), True, False),
        ("positive", (0, 1), False, False),
    ):
        heat = Heat(floats(*values), kind)
        assert (heat.flat, heat.all_negative) == (flat, negative)
    assert not Heat(floats(-1, 1), "signed").all_negative


def test_regions_are_signed_where_one_speaks_against() -> None:
    for values, kind in (((0, 1, 2), "positive"), ((-1, 1, 2), "signed")):
        heats = [Heat(floats(*values), of, "nearest") for of in ("regions", kind)]
        one, other = (np.asarray(drawing.heatmap(heat, PICTURE, OutputOptions())) for heat in heats)
        assert (one == other).all()


# Heatmap and overlay


@pytest.mark.parametrize("kind", ["positive", "signed"])
def test_input_size(kind: str) -> None:
    heat = Heat(RAMP, kind)
    alone = drawing.heatmap(heat, PICTURE, OutputOptions())
    assert alone.size == (32, 32)
    over = {o: drawing.overlay(heat, PICTURE, OutputOptions(opacity=o)) for o in (0.0, 0.5, 1.0)}
    assert over[0.0].tobytes() == PICTURE.seen.tobytes()
    assert over[1.0].tobytes() == alone.convert("RGB").tobytes()
    mean = (np.asarray(PICTURE.seen, int) + np.asarray(alone.convert("RGB"))) / 2
    assert np.abs(np.asarray(over[0.5]) - mean).max() <= 1


def test_original_size() -> None:
    heat, options = Heat(RAMP, "positive"), OutputOptions(size="original", opacity=1)
    assert PICTURE.original.size == (90, 60)
    assert PICTURE.box == (15.0, 0.0, 75.0, 60.0)
    alone = np.asarray(drawing.heatmap(heat, PICTURE, options))
    assert alone.shape == (60, 90, 4)
    assert (alone[:, 15:75, 3] == 255).all()
    assert (alone[:, :15, 3] == 0).all()
    assert (alone[:, 75:, 3] == 0).all()
    over, original = np.asarray(drawing.overlay(heat, PICTURE, options)), np.asarray(PICTURE.original)
    assert (over[:, :15] == original[:, :15]).all()
    assert (over[:, 75:] == original[:, 75:]).all()
    assert (over[:, 15:75] == alone[:, 15:75, :3]).all()
    clear = drawing.overlay(heat, PICTURE, OutputOptions(size="original", opacity=0))
    assert clear.tobytes() == PICTURE.original.tobytes()


def test_heat_lies_where_the_model_saw_it() -> None:
    values = np.zeros((4, 4), np.float32)
    values[3, 0] = 1  # lower left
    options = OutputOptions(size="original", opacity=1, colormap="gray")
    over = np.asarray(drawing.overlay(Heat(values, "positive", "nearest"), PICTURE, options))[..., 0]
    assert (over[45:60, 15:30] == 255).all()
    assert (over[:45, 15:75] == 0).all()


# Grids, projections, kernels


def test_grid_layout() -> None:
    maps = np.stack([np.linspace(0, 10.0**i, 9, dtype=np.float32).reshape(3, 3) for i in range(5)])
    sheet = np.asarray(drawing.heatmap(Heat(maps, "grid"), PICTURE, GREY))
    factor = 64 // 9  # 3 columns of 3 pixels, towards twice the input's 32
    step = 3 * factor + 2
    assert sheet.shape == (2 * step + 2, 3 * step + 2, 3)
    expected = np.full(sheet.shape[:2], 255, np.uint8)
    tile = np.array(shade(maps[0])).reshape(3, 3).repeat(factor, 0).repeat(factor, 1)  # each is scaled on its own
    for i in range(5):
        y, x = 2 + i // 3 * step, 2 + i % 3 * step
        expected[y : y + 3 * factor, x : x + 3 * factor] = tile
    assert (sheet == expected[..., None]).all()
    assert drawing.overlay(Heat(maps, "grid"), PICTURE, GREY) is None


def test_projection_is_grey_at_zero() -> None:
    values = np.zeros((3, 32, 32), np.float32)
    values[0, 8:16, 8:16], values[1, 8:16, 8:16] = 2, -2
    for heat in (Heat(values, "picture"), Heat(values * 1e-6, "picture")):
        drawn = np.asarray(drawing.heatmap(heat, PICTURE, OutputOptions()))
        assert drawn[0, 0].tolist() == [127, 127, 127]
        assert drawn[10, 10].tolist() == [255, 0, 127]
    blank = drawing.heatmap(Heat(values * 0, "picture"), PICTURE, OutputOptions())
    assert set(blank.tobytes()) == {127}


def test_projection_is_drawn_beside_its_patch() -> None:
    values = np.zeros((3, 32, 32), np.float32)
    values[:, 4, 6] = 1
    sheet = drawing.overlay(Heat(values, "picture", patch=(4, 2, 12, 10)), PICTURE, OutputOptions())
    assert sheet.size == (2 * 112 + 4, 112)
    drawn = np.asarray(sheet)
    assert (drawn[28:42, 28:42] == 255).all()  # pixel (2, 2) of the patch, 14 times as large
    assert (drawn[:28, :112] == 127).all()
    assert (drawn[:, 112:116] == 255).all()
    seen = np.asarray(PICTURE.seen)[2:10, 4:12].repeat(14, 0).repeat(14, 1)
    assert (drawn[:, 116:] == seen).all()
    assert drawing.overlay(Heat(values, "picture"), PICTURE, OutputOptions()) is None


def test_kernel_and_filter_without_a_picture() -> None:
    kernel = Heat(np.array([-1, 0, 1], np.float32).reshape(3, 1, 1).repeat(3, 1).repeat(3, 2), "picture")
    assert drawing.heatmap(kernel, None, OutputOptions()).size == (111, 111)
    assert drawing.heatmap(kernel, None, OutputOptions()).getpixel((50, 50)) == (0, 127, 255)
    painted = Heat(np.array([0, 0.5, 1.5], np.float32).reshape(3, 1, 1).repeat(8, 1).repeat(8, 2), "rgb")
    assert drawing.heatmap(painted, None, OutputOptions()).getpixel((3, 3)) == (0, 128, 255)


@pytest.mark.parametrize("size", ["input", "original"])
@pytest.mark.parametrize(
    ("kind", "shape"), [("positive", (4, 4)), ("signed", (32, 32)), ("grid", (5, 4, 7)), ("rgb", (3, 9, 5))]
)
def test_a_drawings_pixels_are_known_before_it_is_drawn(kind, shape, size) -> None:
    heat, options = Heat(np.ones(shape, np.float32), kind), OutputOptions(size=size)
    alone, over = drawing.heatmap(heat, PICTURE, options), drawing.overlay(heat, PICTURE, options)
    for one in (alone, over or alone):
        assert one.width * one.height == drawing.extent(kind, shape, PICTURE, options)


def test_a_colour_map_may_be_spelt_in_capitals_of_which_nothing_is_kept():
    """The catalogue keeps what it was asked for under each spelling, and callers make up as many as they like."""
    spelt = {"VIRIDIS", "ViRiDiS", "vIrIdIs"}
    for name in spelt:
        np.testing.assert_array_equal(drawing.table(OutputOptions(colormap=name).colormap), drawing.table("viridis"))
        np.testing.assert_array_equal(drawing.table(f"{name}_r"), drawing.table("viridis")[::-1])
    assert not spelt & cmap.Colormap.catalog()._loaded.keys()
