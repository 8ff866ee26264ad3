"""Answers are values; of pictures there is what was needed, made once, and no more."""

import numpy as np
import pytest
import torch
from PIL import Image

from service.answer import Needs, Shown, shown
from service.contract import Map, Target
from service.images import Picture, Transform, prepare
from service.rendering import OutputOptions, drawing, encoders
from service.rendering.files import Encode, Files, Pictures, files
from tests.conftest import photograph

PICTURE = prepare(photograph("chelsea").resize((90, 60)), Transform(32, (32, 32), (0, 0, 0), (1, 1, 1)))
HEAT = Map("some", torch.linspace(-1, 3, 16).view(4, 4), "signed", target=Target(1), layer="conv1")
GRID = Map("grid", torch.rand(5, 3, 3, generator=torch.Generator().manual_seed(0)), "grid", channels=(0, 1, 2, 3, 4))


def made(found: Map, needs: Needs, picture: Picture | None = PICTURE, **output: object) -> Shown:
    def draw(heat: drawing.Heat, output: OutputOptions, pictures: Pictures, encode: Encode | None) -> Files:
        return files(heat, picture, output, pictures, encode)

    return shown(found, None, OutputOptions(**output), needs, draw)


def drawn(draw: str, found: Map, **output: object) -> bytes:
    """Return what a drawing is as a file, made on its own."""
    heat = drawing.Heat(found.array.numpy(), found.kind)
    return encoders.png(getattr(drawing, draw)(heat, PICTURE, OutputOptions(**output)))


def test_numbers_are_there_without_any_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("heatmap", "overlay", "best"):
        monkeypatch.setattr(drawing, name, lambda *_: pytest.fail("it was drawn"))
    found = made(HEAT, Needs())
    np.testing.assert_array_equal(found.heat.array, HEAT.array)
    assert (found.heat.low, found.heat.high, found.heat.flat, found.heat.all_negative) == (-1, 3, False, False)
    assert (found.heatmap, found.overlay) == (None, None)
    with pytest.raises(ValueError, match="no picture"):
        _ = found.picture


@pytest.mark.parametrize("heatmap", [True, False])
@pytest.mark.parametrize("overlay", [True, False])
def test_pictures_that_are_asked_for(heatmap: bool, overlay: bool) -> None:
    needs = Needs(pictures="asked", encode=encoders.png)
    found = made(HEAT, needs, heatmap=heatmap, overlay=overlay, opacity=0.25)
    assert found.heatmap == (drawn("heatmap", HEAT) if heatmap else None)
    assert found.overlay == (drawn("overlay", HEAT, opacity=0.25) if overlay else None)
    assert made(GRID, needs, heatmap=heatmap, overlay=overlay).overlay is None  # which lies on no picture


@pytest.mark.parametrize(
    ("found", "output", "which"),
    [
        (HEAT, {}, "overlay"),
        (HEAT, {"overlay": False}, "heatmap"),
        (HEAT, {"heatmap": False}, "overlay"),
        (HEAT, {"overlay": False, "heatmap": False}, "overlay"),
        (GRID, {}, "heatmap"),
        (GRID, {"heatmap": False}, "heatmap"),
    ],
)
def test_the_best_picture(found: Map, output: dict[str, bool], which: str) -> None:
    answered = made(found, Needs(pictures="best", encode=encoders.png), **output)
    assert answered.picture == getattr(answered, which) == drawn(which, found)
    assert [answered.heatmap, answered.overlay].count(None) == 1


def test_without_a_picture_there_is_nothing_to_lie_over() -> None:
    found = made(GRID, Needs(pictures="best", encode=encoders.png), picture=None)
    assert found.overlay is None
    assert found.picture == found.heatmap


def test_files_are_what_the_format_makes_of_a_drawing() -> None:
    seen: list[Image.Image] = []

    def encode(image: Image.Image) -> bytes:
        seen.append(image)
        return b"%dx%d" % image.size

    answered = made(HEAT, Needs(pictures="asked", encode=encode), size="original")
    assert (answered.heatmap, answered.overlay) == (b"90x60", b"90x60")
    assert len(seen) == 2


def test_arrays_are_plain_float32_on_the_host() -> None:
    found = torch.rand(4, 6, dtype=torch.float64, requires_grad=True).T
    array = made(Map("some", found), Needs()).heat.array
    assert (array.dtype, array.flags.c_contiguous, array.shape) == (np.float32, True, (6, 4))
