import pytest
from PIL import ImageDraw, ImageFont

from service.answer import Needs
from service.comparison.sheet import sheet
from service.faithfulness import curves
from service.rendering import encoders
from tests.comparison.conftest import compare

NEEDS = Needs(None, "best", encoders.png)


@pytest.mark.parametrize("metrics", [[], ["curves"]])
def test_a_sheet_shows_every_map_and_problem(tiny, metrics) -> None:
    found = compare(tiny, needs=NEEDS, methods=["saliency", "ram", "eigen-cam"], metrics=metrics)
    drawn = sheet(found)
    assert drawn.width == 3 * 236 + 12
    assert drawn.height > 224
    for i in range(3):  # each has something to see
        part = drawn.crop((12 + i * 236, 20, 12 + i * 236 + 224, drawn.height)).convert("L")
        assert part.getextrema()[0] < 128


def test_it_says_how_to_read_it(tiny, monkeypatch) -> None:
    """The legend is there where there is something to read, in lines that the drawing has room for."""
    monkeypatch.setattr(curves, "LEAST_ODDS", 0)  # the network hardly looks at this picture
    said: list[str] = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, *given, **more: (said.append(given[1]), text(self, *given, **more))
    )
    found = compare(tiny, needs=NEEDS, methods=["grad-cam"], metrics=["curves"], targets=[1])
    (numbers,) = found.entries[0].faithfulness
    assert numbers.gain.mean is not None
    drawn = sheet(found)
    told = " ".join(said)
    assert f"{found.controls[0].bell.mean:+.1f} (mean)" in told
    assert f"{numbers.gain.mean:+.1f} (mean)" in told
    assert "blue" in told
    assert "1 forward, 1 backward" in told
    assert all(ImageFont.load_default(12).getlength(line) <= drawn.width for line in said)


def test_a_sheet_of_nothing_says_what_it_is_of(tiny) -> None:
    found = compare(tiny, needs=NEEDS, methods=["ram"])
    assert sheet(found).getextrema() != ((255, 255),) * 3
