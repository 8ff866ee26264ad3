"""Decoding and drawing in the thread that asks: the steps that it is made of, in a place of the room."""

from dataclasses import replace

import numpy as np
import pytest

from service.codec import inside as module
from service.codec.inside import DECODING, DRAWING, Canvas, Inside
from service.errors import Cancelled, TooLarge
from service.images import decode, normalised, prepare
from service.rendering import OutputOptions, encoders
from service.rendering.files import files
from tests.codec.pictures import FILES, LARGE, LIMITS, RGB, TRANSFORMS, heats

ANY = {"max_bytes": 2**24, "max_pixels": 10**8}


def nothing() -> None:
    """Nobody has gone."""


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_is_seen_is_cut_and_normalised(name: str) -> None:
    transform = TRANSFORMS[name]
    image = decode(FILES["transparent"], **ANY, alpha="a" in transform.channels, window=transform.window)
    expected = prepare(image, transform)
    picture, x = Inside(LIMITS, 1).see(FILES["transparent"], transform, nothing)
    assert (picture.size, picture.box, picture.warnings) == (expected.size, expected.box, expected.warnings)
    assert picture.seen.tobytes() == expected.seen.tobytes()
    assert (picture.original, picture.alpha) == (None, None)
    np.testing.assert_array_equal(x, normalised(expected, transform))


def test_a_large_picture_holds_room_while_it_is_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, held = Inside(LIMITS, 1), []
    step = module.prepare
    monkeypatch.setattr(module, "prepare", lambda *given: held.append(codec.room.held) or step(*given))
    picture, _ = codec.see(LARGE.getvalue(), RGB, nothing)
    with codec.drawing(Canvas(picture, LARGE.getvalue(), RGB), nothing) as draw:
        draw(heats()[0], OutputOptions(size="original"), "best", encoders.jpeg)
    assert held == [2000 * 1500 * DECODING, 2000 * 1500 * DRAWING]
    assert (codec.room.held, set(codec.room._inside.values()), codec.pids) == (0, {0}, [])


def test_drawing_is_on_what_is_laid_there() -> None:
    codec, heat = Inside(LIMITS, 1), heats()[0]
    picture, _ = codec.see(FILES["jpeg"], RGB, nothing)
    whole = prepare(decode(FILES["jpeg"], **ANY), RGB)
    for file, on, size in ((None, picture, "input"), (FILES["jpeg"], whole, "original")):
        output = OutputOptions(size=size)
        with codec.drawing(Canvas(picture, file, RGB), nothing) as draw:
            assert draw(heat, output, "asked", encoders.png) == files(heat, on, output, "asked", encoders.png)
            assert draw(heat, output, "none", encoders.png) == (None, None)


def test_who_has_gone_is_not_worked_for() -> None:
    def gone() -> None:
        raise Cancelled("the caller has gone")

    codec = Inside(LIMITS, 1)
    with pytest.raises(Cancelled):
        codec.see(FILES["jpeg"], RGB, gone)
    with pytest.raises(Cancelled), codec.drawing(Canvas(None, None, RGB), gone):
        pytest.fail("it was drawn")
    left = [3]  # looks until the caller has gone, in the middle of a drawing

    def going() -> None:
        left[0] -= 1
        if left[0] < 0:
            gone()

    picture, _ = codec.see(LARGE.getvalue(), RGB, nothing)
    with pytest.raises(Cancelled), codec.drawing(Canvas(picture, LARGE.getvalue(), RGB), going) as draw:
        draw(heats()[0], OutputOptions(size="original"), "best", encoders.png)
    assert left[0] == -1
    with pytest.raises(TooLarge):
        Inside(replace(LIMITS, max_pixels=9599), 1).see(FILES["jpeg"], RGB, nothing)
    codec.close()
