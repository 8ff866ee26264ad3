"""The embedded classifier, with its real weights, on real photographs."""

import numpy as np
import pytest

from service.engine.scheduler.run import Run
from service.explainers.cam.cam import CAM
from service.explainers.cam.grad_cam import GradCAM
from service.explainers.perturbation.occlusion import Occlusion
from service.rendering import OutputOptions
from tests.conftest import encoded, photograph

EXPECTED = {
    "chelsea": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee": {"espresso", "cup", "coffee mug"},
    "rocket": {"missile", "space shuttle", "projectile"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_sees_what_is_there(embedded, name):
    answer = embedded.pipeline.predict(model=None, image=encoded(photograph(name)), top_k=3, run=Run())
    found = [prediction["label"] for prediction in answer.body["predictions"]]
    assert found[0] in EXPECTED[name], found
    assert sum(prediction["probability"] for prediction in answer.body["predictions"]) <= 1


@pytest.mark.parametrize("explainer", [CAM(), GradCAM(), Occlusion(window=64, stride=32)], ids=lambda e: e.name)
def test_looks_at_the_cup_and_not_at_the_table(embedded, explainer):
    """A cup pasted to one side of a plain picture is what makes it a cup, by every method."""
    cup = photograph("coffee").crop((100, 0, 500, 400)).resize((112, 144))
    table = photograph("coffee").crop((0, 380, 20, 400)).resize((256, 256))
    for left in (16, 128):
        picture = table.copy()
        picture.paste(cup, (left, 56))
        plan = embedded.pipeline.plan(explainer, targets=["espresso"])
        answer = embedded.pipeline.explain(plan, image=encoded(picture), output=OutputOptions(), run=Run())
        values = np.clip(answer.heats[0].array, 0, None)
        half = values.shape[1] // 2
        left_half, right_half = values[:, :half].sum(), values[:, -half:].sum()
        assert (left_half > 1.5 * right_half) if left == 16 else (right_half > 1.5 * left_half)
