"""Of a map's drawings those are made files of that are needed."""

import numpy as np
import pytest

from service.images import Transform, prepare
from service.rendering import Heat, OutputOptions, drawing, encoders
from service.rendering.files import ENCODERS, files, name_of
from tests.conftest import photograph

PICTURE = prepare(photograph("chelsea").resize((90, 60)), Transform(32, (32, 32), (0, 0, 0), (1, 1, 1)))
HEAT = Heat(np.linspace(-1, 3, 16, dtype=np.float32).reshape(4, 4), "signed")
OUTPUT = OutputOptions()


@pytest.mark.parametrize("name", ENCODERS)
def test_files_are_of_what_is_asked_for(name: str) -> None:
    encode = ENCODERS[name]
    alone, over = encode(drawing.heatmap(HEAT, PICTURE, OUTPUT)), encode(drawing.overlay(HEAT, PICTURE, OUTPUT))
    assert files(HEAT, PICTURE, OUTPUT, "asked", encode) == (alone, over)
    assert files(HEAT, PICTURE, OUTPUT, "best", encode) == (None, over)
    assert files(HEAT, PICTURE, OutputOptions(overlay=False), "asked", encode) == (alone, None)
    assert files(HEAT, PICTURE, OutputOptions(overlay=False), "best", encode) == (alone, None)


@pytest.mark.parametrize(("pictures", "encode"), [("none", encoders.png), ("best", None), ("asked", None)])
def test_nothing_is_drawn_for_nobody(pictures, encode, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("heatmap", "overlay", "best"):
        monkeypatch.setattr(drawing, name, lambda *_: pytest.fail("it was drawn"))
    assert files(HEAT, PICTURE, OUTPUT, pictures, encode) == (None, None)


def test_encoders_are_known_by_name() -> None:
    assert [name_of(encode) for encode in (encoders.png, encoders.jpeg, encoders.webp)] == ["png", "jpeg", "webp"]
    assert name_of(lambda drawing: b"") is None
