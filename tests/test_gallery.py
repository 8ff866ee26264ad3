"""The gallery: every method that applies, drawn as an answer would be."""

import io

import numpy as np
import pytest
from PIL import Image

from service.api.formats import PNG as PNG_FORMAT
from service.ask import Ask
from service.engine.scheduler.run import Run
from service.errors import InvalidParameter, UnsupportedMediaType
from service.explainers.base import registry
from service.gallery import CAPTION, COLUMNS, GAP, SIDE, gallery
from service.pipeline import applicability
from service.rendering import fit
from tests.conftest import encoded, photograph

PHOTO = encoded(photograph("chelsea"))
OTHER = encoded(photograph("coffee"))
QUICK = {
    "extremal-perturbation": {"steps": 10},
    "filters": {"steps": 2, "channels": [0, 1, 2]},
    "occlusion": {"window": 16},
}


def panel(sheet: Image.Image, i: int) -> Image.Image:
    x = GAP + i % COLUMNS * (SIDE + GAP)
    y = GAP + i // COLUMNS * (SIDE + CAPTION + GAP) + CAPTION
    return sheet.crop((x, y, x + SIDE, y + SIDE))


def test_every_method_has_its_panel(tiny):
    """Family by family, behind the picture as the model sees it."""
    started: list[str] = []
    sheet = gallery(tiny.pipeline, PHOTO, OTHER, QUICK, started.append)
    assert started == sorted(registry(), key=lambda name: registry()[name].family)
    lines = -(-(1 + len(started)) // COLUMNS)
    assert sheet.size == (COLUMNS * (SIDE + GAP) + GAP, lines * (SIDE + CAPTION + GAP) + GAP)
    seen = tiny.pipeline.see(tiny.pipeline.plan(Ask(None, model="tiny", pictures=(PHOTO,))), Run()).picture.seen
    assert panel(sheet, 0).tobytes() == fit(seen, SIDE).tobytes()
    blank = Image.new("RGB", (SIDE, SIDE), "white").tobytes()
    panels = [panel(sheet, i).tobytes() for i in range(1 + len(started))]
    assert blank not in panels
    assert panels[0] not in panels[1:]
    assert len(set(panels)) > len(panels) / 2  # some are equal at the last layer of such a network


@pytest.mark.parametrize("method", ["grad-cam", "saliency"])
def test_a_panel_is_the_picture_of_an_answer(tiny, method):
    names: list[str] = []
    sheet = gallery(tiny.pipeline, PHOTO, None, QUICK, names.append)
    plan = tiny.pipeline.plan(Ask.explain(method, {"model": "tiny"}, PHOTO))
    answer = tiny.pipeline.work(plan, Run(), PNG_FORMAT.needs)
    drawn = Image.open(io.BytesIO(PNG_FORMAT.encode(answer))).convert("RGB")
    found = panel(sheet, 1 + names.index(method))
    assert np.array_equal(np.asarray(found), np.asarray(fit(drawn, SIDE)))


def test_some_methods_are_drawn_in_the_order_asked_for(tiny):
    started = []
    gallery(tiny.pipeline, PHOTO, None, QUICK, started.append, ("saliency", "grad-cam"))
    assert started == ["saliency", "grad-cam"]


def test_without_another_picture_other_models_methods_are_left_out(tiny):
    started: list[str] = []
    gallery(tiny.pipeline, PHOTO, None, QUICK, started.append)
    reasons = applicability(tiny.store.get(None).facts)
    assert sorted(started) == [name for name, reason in reasons.items() if reason is None]
    assert "ram" not in started


def test_parameters_are_the_methods_own(tiny):
    wide = gallery(tiny.pipeline, PHOTO, None, QUICK, lambda _: None)
    fine = gallery(tiny.pipeline, PHOTO, None, QUICK | {"occlusion": {"window": 4, "stride": 4}}, lambda _: None)
    changed = [i for i in range(len(registry())) if panel(wide, i).tobytes() != panel(fine, i).tobytes()]
    assert len(changed) == 1
    with pytest.raises(InvalidParameter, match="did you mean 'window'"):
        gallery(tiny.pipeline, PHOTO, None, QUICK | {"occlusion": {"windw": 4}}, lambda _: None)


def test_mistakes_are_told(tiny):
    with pytest.raises(UnsupportedMediaType):
        gallery(tiny.pipeline, b"no picture", None, QUICK, lambda _: None)
