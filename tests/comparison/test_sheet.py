import pytest

from service.answer import Needs
from service.comparison.sheet import sheet
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


def test_a_sheet_of_nothing_says_what_it_is_of(tiny) -> None:
    found = compare(tiny, needs=NEEDS, methods=["ram"])
    assert sheet(found).getextrema() != ((255, 255),) * 3
