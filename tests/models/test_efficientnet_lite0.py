"""The embedded classifier, with its real weights, on real photographs."""

import numpy as np
import pytest

from service.answer import Needs
from service.ask import Ask
from service.engine.scheduler.run import Run
from service.explainers.cam.cam import CAM
from service.explainers.cam.grad_cam import GradCAM
from service.explainers.perturbation.occlusion import Occlusion
from tests.conftest import encoded, photograph

EXPECTED = {
    "chelsea": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee": {"espresso", "cup", "coffee mug"},
    "rocket": {"missile", "space shuttle", "projectile"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_sees_what_is_there(embedded, name):
    plan = embedded.pipeline.plan(Ask(None, pictures=(encoded(photograph(name)),), top_k=3))
    answer = embedded.pipeline.work(plan, Run(), Needs())
    found = [prediction.label for prediction in answer.predictions]
    assert found[0] in EXPECTED[name], found
    assert sum(prediction.probability for prediction in answer.predictions) <= 1


@pytest.mark.parametrize("explainer", [CAM(), GradCAM(), Occlusion(window=64, stride=32)], ids=lambda e: e.name)
def test_looks_at_the_cup_and_not_at_the_table(embedded, explainer):
    """A cup pasted to one side of a plain picture is what makes it a cup, by every method."""
    cup = photograph("coffee").crop((100, 0, 500, 400)).resize((112, 144))
    table = photograph("coffee").crop((0, 380, 20, 400)).resize((256, 256))
    for left in (16, 128):
        picture = table.copy()
        picture.paste(cup, (left, 56))
        plan = embedded.pipeline.plan(Ask(explainer, targets=("espresso",), pictures=(encoded(picture),)))
        answer = embedded.pipeline.work(plan, Run(), Needs())
        values = np.clip(answer.maps[0].heat.array, 0, None)
        half = values.shape[1] // 2
        left_half, right_half = values[:, :half].sum(), values[:, -half:].sum()
        assert (left_half > 1.5 * right_half) if left == 16 else (right_half > 1.5 * left_half)
