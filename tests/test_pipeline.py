"""Four steps, each callable alone: plan, see, explain, answer."""

import base64
import io
import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from service import pipeline as module
from service.answer import Needs
from service.ask import Ask
from service.codec import inside
from service.contract import Explanation, Map, Target, still_wanted
from service.engine.scheduler.run import Run
from service.errors import Cancelled, InvalidParameter, NotApplicable, TooLarge, UnknownModel
from service.explainers.base import registry
from service.explainers.cam.cam import CAM
from service.explainers.cam.grad_cam import GradCAM
from service.explainers.cam.score_cam import ScoreCAM
from service.explainers.features.feature_maps import FeatureMaps
from service.explainers.features.filters import Filters
from service.explainers.perturbation.occlusion import Occlusion
from service.pipeline import PREDICTIONS, Pipeline, Seen, applicability
from service.rendering import OutputOptions
from service.rendering.encoders import png
from tests.conftest import encoded, photograph
from tests.tiny import model_of

PHOTO = photograph("chelsea").resize((61, 40))
PNG = encoded(PHOTO)
ALL = Needs(pictures="asked", encode=png)


def ask(method=None, **more) -> Ask:
    return Ask(method, **{"model": "tiny", "pictures": (PNG,)} | more)


@pytest.fixture
def pipeline(tiny) -> Pipeline:
    return tiny.pipeline


# Plan


def test_a_plan_decodes_nothing_and_asks_no_network(pipeline, monkeypatch):
    monkeypatch.setattr(inside, "decode", lambda *_, **__: pytest.fail("it was decoded"))
    monkeypatch.setattr(module, "ModelProbe", lambda *_: pytest.fail("the network was asked"))
    plan = pipeline.plan(ask(GradCAM(), targets=(3, "APPLE"), pictures=(b"no picture",)))
    assert plan.model is pipeline.store.get("tiny")
    assert plan.targets.given == (Target(3, asked=3), Target(0, asked="APPLE"))
    assert plan.passes == GradCAM().passes(plan.model.facts, 2)
    assert pipeline.plan(ask()).passes == 1


@pytest.mark.parametrize(
    ("asked", "error", "pointer"),
    [
        (ask(CAM(), model="none"), UnknownModel, None),
        (ask(model="none"), UnknownModel, None),
        (ask(CAM(), model="tiny-vgg"), NotApplicable, None),
        (ask(ScoreCAM(layer="nix")), InvalidParameter, "/params/layer"),
        (ask(GradCAM(), targets=(9,)), InvalidParameter, "/targets/0"),
        (ask(GradCAM(), targets=(0,) * 17), InvalidParameter, "/targets"),
        (ask(Filters(), targets=(0,), pictures=()), InvalidParameter, "/targets"),
        (ask(GradCAM(), precision="fp16"), InvalidParameter, "/precision"),
        (ask(ScoreCAM(error_bound=0.1), precision="bf16"), InvalidParameter, "/precision"),
        (ask(ScoreCAM(error_bound=0.1, score="logit")), InvalidParameter, "/params/error_bound"),
        (ask(GradCAM(), pictures=()), InvalidParameter, "/image"),
        (ask(pictures=()), InvalidParameter, "/image"),
        (ask(CAM(), model="tiny-vgg", pictures=()), NotApplicable, None),  # what no picture would mend comes first
    ],
)
def test_what_does_not_fit_is_refused_by_the_plan(pipeline, asked, error, pointer):
    with pytest.raises(error) as caught:
        pipeline.plan(asked)
    assert [one.pointer for one in caught.value.errors] == ([pointer] if pointer else [])


def test_precision_is_the_one_asked_for_or_the_best_that_is_tolerated(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.store.get("tiny"), "preferred", "bf16")
    for method, wanted, used in (
        (ScoreCAM(), None, "bf16"),
        (ScoreCAM(), "auto", "bf16"),
        (ScoreCAM(), "fp32", "fp32"),
        (ScoreCAM(error_bound=0.1), "auto", "fp32"),
        (GradCAM(), None, "fp32"),
        (GradCAM(), "bf16", "bf16"),
        (None, None, "fp32"),
        (None, "auto", "fp32"),
    ):
        assert pipeline.plan(ask(method, precision=wanted)).precision == used
    monkeypatch.setattr(pipeline, "settings", pipeline.settings.model_copy(update={"precision": "fp32"}))
    assert pipeline.plan(ask(ScoreCAM())).precision == "fp32"
    monkeypatch.setattr(pipeline, "settings", pipeline.settings.model_copy(update={"precision": "bf16"}))
    assert pipeline.plan(ask(ScoreCAM())).precision == "bf16"
    assert pipeline.plan(ask(ScoreCAM(error_bound=0.1))).precision == "fp32"


# See


def test_seeing_is_decoding_and_preparing(pipeline):
    run = Run()
    text = base64.b64encode(PNG).decode()
    plain, coded = (pipeline.see(pipeline.plan(ask(pictures=(sent,))), run) for sent in (PNG, text))
    assert plain.picture.size == PHOTO.size
    assert plain.picture.original is None  # it may be large, and is held for as long as the request waits
    assert (tuple(plain.x.shape), plain.x.dtype) == ((1, 3, 32, 32), torch.float32)
    assert torch.equal(plain.x, coded.x)
    assert run.usage.stages["decode"] > 0
    blank = pipeline.see(pipeline.plan(ask(Filters(), pictures=())), run)
    assert (blank.picture, tuple(blank.x.shape)) == (None, (0, 3, 32, 32))


def test_limits_are_the_settings(pipeline, tiny):
    plan = pipeline.plan(ask())
    for limit in ({"max_image_pixels": 61 * 40 - 1}, {"max_image_bytes": len(PNG) - 1}):
        bounded = Pipeline(tiny.settings.model_copy(update=limit), tiny.store, tiny.device)
        with pytest.raises(TooLarge):
            bounded.see(plan, Run())


def test_no_more_pictures_are_in_hand_than_there_are_cores(tiny, monkeypatch):
    """Each takes much memory while it is decoded or drawn."""
    monkeypatch.setattr(module, "cores", lambda: 2)
    pipeline = Pipeline(tiny.settings, tiny.store, tiny.device)
    plan, together, within, most = pipeline.plan(ask()), threading.Barrier(3), [], []
    prepare = inside.prepare

    def counting(*given):
        within.append(1)
        most.append(len(within))
        try:
            if len(most) <= 2:
                together.wait(60)  # two are inside, and the test knows of it
            return prepare(*given)
        finally:
            within.pop()

    monkeypatch.setattr(inside, "prepare", counting)
    threads = [threading.Thread(target=pipeline.see, args=(plan, Run())) for _ in range(6)]
    for thread in threads:
        thread.start()
    together.wait(60)
    for thread in threads:
        thread.join()
    assert len(most) == 6
    assert max(most) == 2


# Explain


def test_explaining_needs_an_input_and_no_picture(pipeline):
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run = Run()
    found = pipeline.explain(pipeline.plan(ask(GradCAM(), targets=(1,))), Seen(None, x), run)
    assert tuple(found.maps[0].array.shape) == (16, 16)
    with torch.inference_mode():
        expected = pipeline.store.get("tiny").module(x)[0]
    torch.testing.assert_close(found.outputs, expected)
    alone = pipeline.explain(pipeline.plan(ask()), Seen(None, x), Run())
    assert not alone.maps
    torch.testing.assert_close(alone.outputs, expected)


def test_what_a_method_knew_without_a_forward_is_counted(pipeline, monkeypatch):
    monkeypatch.setattr(Occlusion, "explain", lambda *_: Explanation((), avoided=7))
    run = Run()
    pipeline.explain(pipeline.plan(ask(Occlusion())), Seen(None, torch.zeros(1, 3, 32, 32)), run)
    assert run.usage.avoided == 7


# Answer


def test_a_method_that_works_by_itself_is_told_that_nobody_waits(pipeline, monkeypatch):
    run, plan = Run(), pipeline.plan(ask(GradCAM()))
    seen = pipeline.see(plan, run)

    def works(self, probe, image, targets):
        still_wanted()
        run.cancelled.set()
        still_wanted()

    monkeypatch.setattr(GradCAM, "explain", works)
    with pytest.raises(Cancelled):
        pipeline.explain(plan, seen, run)


def test_an_answer_is_made_of_an_explanation_whoever_made_it(pipeline):
    plan = pipeline.plan(ask(GradCAM(), targets=(1,)))
    outputs = torch.tensor([0.0, 2.0, 1.0, -1.0, 0.5])
    maps = (Map("one", torch.eye(4), target=Target(1)), Map("two", -torch.eye(4), "signed", target=Target(2)))
    explanation = Explanation(maps, {"some": 1}, outputs, exact=False)
    run = Run(id="mine")
    answer = pipeline.answer(plan, pipeline.see(plan, run), explanation, run, ALL)
    assert (answer.id, answer.method, answer.model.name, answer.details) == ("mine", "grad-cam", "tiny", {"some": 1})
    assert answer.model.version == plan.model.version
    assert [one.index for one in answer.predictions] == [1, 2, 4, 0, 3]
    assert [(one.target.index, one.target.label) for one in answer.maps] == [(1, "banana"), (2, "cherry")]
    probability = outputs.softmax(0)
    assert [one.target.score for one in answer.maps] == pytest.approx([float(probability[1]), float(probability[2])])
    np.testing.assert_array_equal(answer.maps[1].heat.array, -np.eye(4))
    assert (answer.image.width, answer.image.height) == PHOTO.size
    assert answer.usage.exact is False
    assert answer.usage.render_ms == run.usage.stages["render"] * 1e3 > 0
    assert answer.params == {"layer": "relu2", "relu": True}


def test_an_answer_is_bounded_before_it_is_drawn(tiny, monkeypatch):
    """By raw values, and by the pixels of all pictures; what is not sent does not count."""
    settings = tiny.settings.model_copy(update={"max_answer_values": 2 * 256, "max_answer_pixels": 4 * 32 * 32})
    pipeline = Pipeline(settings, tiny.store, tiny.device)
    needs = replace(ALL, arrays="asked")

    def work(method=GradCAM(), targets=(0, 1), needs=needs, **output):  # noqa: B008
        return pipeline.work(pipeline.plan(ask(method, targets=targets, output=OutputOptions(**output))), Run(), needs)

    work()
    work(targets=(0, 1, 2), array="none", overlay=False)
    work(targets=(0,), size="original", overlay=False)
    monkeypatch.setattr(module, "shown", lambda *_: pytest.fail("it was drawn"))
    for given, pointer in (
        ({"targets": (0, 1, 2), "overlay": False}, "/output/array"),
        ({"targets": (0, 1, 2), "array": "none"}, "/output"),
        ({"targets": (0, 1), "array": "none", "size": "original", "overlay": False}, "/output"),
        ({"targets": (0, 1, 2), "needs": replace(needs, arrays="all"), "array": "none"}, "/output/array"),
    ):
        with pytest.raises(InvalidParameter, match="at most") as caught:
            work(**given)
        assert [one.pointer for one in caught.value.errors] == [pointer]


def test_very_many_values_are_refused_by_the_plan(tiny):
    pipeline = Pipeline(tiny.settings.model_copy(update={"max_answer_values": 100}), tiny.store, tiny.device)
    for needs, refused in ((Needs(arrays="all"), True), (Needs(arrays="asked"), True), (Needs(), False), (None, False)):
        with pytest.raises(InvalidParameter, match="2,560 raw values") if refused else nullcontext():
            pipeline.plan(ask(FeatureMaps(layers=("conv1", "relu2"), channels=(0, 1))), needs)


@pytest.mark.parametrize("params", [{}, {"top_k": 3}, {"layers": ["conv1", "relu2"], "channels": [0, 5]}])
def test_feature_maps_know_how_many_values_there_will_be(pipeline, params):
    method = FeatureMaps(**params)
    plan = pipeline.plan(ask(method))
    maps = pipeline.explain(plan, pipeline.see(plan, Run()), Run()).maps
    assert method.values(plan.model.facts, 0) == sum(found.array.numel() for found in maps)


def test_drawing_ends_between_two_maps_where_nobody_waits(pipeline, monkeypatch):
    plan, run, drawn = pipeline.plan(ask(GradCAM(), targets=(0, 1, 2))), Run(), []
    seen = pipeline.see(plan, run)
    explanation, draw = pipeline.explain(plan, seen, run), module.shown

    def leaving(*given):
        drawn.append(1)
        run.cancelled.set()
        return draw(*given)

    monkeypatch.setattr(module, "shown", leaving)
    with pytest.raises(Cancelled):
        pipeline.answer(plan, seen, explanation, run, ALL)
    assert len(drawn) == 1
    monkeypatch.undo()
    assert len(pipeline.answer(plan, seen, explanation, Run(), ALL).maps) == 3  # the place is free again


def test_the_original_is_decoded_again_where_it_is_drawn_on(pipeline, monkeypatch):
    decoded, decode = [], inside.decode
    monkeypatch.setattr(inside, "decode", lambda *given, **more: decoded.append(1) or decode(*given, **more))
    for size, times in (("input", 1), ("original", 2)):
        plan = pipeline.plan(ask(GradCAM(), targets=(1,), output=OutputOptions(size=size)))
        answer = pipeline.work(plan, Run(), ALL)
        assert len(decoded) == times
        decoded.clear()
        expected = PHOTO.size if size == "original" else (32, 32)
        assert Image.open(io.BytesIO(answer.maps[0].overlay)).size == expected


def test_a_format_that_needs_the_first_map_gets_the_first_alone(pipeline):
    plan, run = pipeline.plan(ask(GradCAM(), targets=(1, 2, 3))), Run()
    seen = pipeline.see(plan, run)
    explanation = pipeline.explain(plan, seen, run)
    whole = pipeline.answer(plan, seen, explanation, run, ALL)
    first = pipeline.answer(plan, seen, explanation, run, replace(ALL, maps=1))
    assert len(whole.maps) == 3
    assert [one.overlay for one in first.maps] == [whole.maps[0].overlay]


def test_a_prediction_answers_as_many_as_are_asked_for(pipeline):
    answer = pipeline.work(pipeline.plan(ask(top_k=2)), Run(), ALL)
    assert (answer.method, answer.maps, len(answer.predictions)) == (None, (), 2)
    explained = pipeline.work(pipeline.plan(ask(GradCAM(), top_k=2)), Run(), ALL)
    assert len(explained.predictions) == min(PREDICTIONS, 5)
    assert explained.predictions[:2] == answer.predictions


@pytest.mark.parametrize("name", registry())
def test_all_steps_at_once_are_the_steps(pipeline, name):
    cls = registry()[name]
    params = {"filters": {"steps": 2, "channels": [0]}, "extremal-perturbation": {"steps": 10}}
    fields = {"model": model_of(name), "params": params.get(name, {})}
    plan = pipeline.plan(Ask.explain(name, fields, PNG if cls.needs_image else None))
    answer = pipeline.work(plan, Run(), ALL)
    run = Run()
    seen = pipeline.see(plan, run)
    steps = pipeline.answer(plan, seen, pipeline.explain(plan, seen, run), run, ALL)
    assert [one.heatmap for one in steps.maps] == [one.heatmap for one in answer.maps]
    assert [one.overlay for one in steps.maps] == [one.overlay for one in answer.maps]
    assert (steps.predictions, steps.params) == (answer.predictions, answer.params)


def test_a_question_is_expected_to_need_what_the_same_one_needed(pipeline):
    asked, other = ask(ScoreCAM(error_bound=1)), ask(ScoreCAM(error_bound=0.9))
    plan, run = pipeline.plan(asked), Run()
    assert plan.expected == plan.passes
    pipeline.explain(plan, pipeline.see(plan, run), run)
    assert run.done < plan.passes
    known = pipeline.plan(asked)
    assert (known.passes, known.expected) == (plan.passes, run.done)
    assert pipeline.plan(other).expected == plan.passes


# What is under way


def test_a_sketch_is_drawn_as_an_answer_is(pipeline):
    plan, run = pipeline.plan(ask(Occlusion(window=8, stride=8))), Run()
    seen = pipeline.see(plan, run)
    assert pipeline.sketch(plan, seen, run, ALL) is None
    run.sketch = lambda: None
    assert pipeline.sketch(plan, seen, run, ALL) is None
    explanation = pipeline.explain(plan, seen, run)
    run.sketch = lambda: replace(explanation, error_bound=0.25)
    answer = pipeline.answer(plan, seen, explanation, run, ALL)
    shown, error_bound = pipeline.sketch(plan, seen, run, ALL)
    assert [one.overlay for one in shown] == [one.overlay for one in answer.maps]
    assert error_bound == 0.25


# Health, and what applies


def test_the_check_is_a_row_through_the_default_model(pipeline):
    run = Run()
    pipeline.check(run)
    assert run.usage.forwards == 1


@pytest.mark.parametrize("model", ["tiny", "tiny-regression", "tiny-vgg", "tiny-functional", "tiny-tokens"])
def test_reasons_are_those_of_the_plan(pipeline, model):
    for name, reason in applicability(pipeline.store.get(model).facts).items():
        cls = registry()[name]
        fields = {"model": model} | ({"params": {"layer": "patches"}} if "layer" in cls.model_fields else {})
        if model != "tiny-tokens":
            fields.pop("params", None)
        if reason is not None:
            with pytest.raises(NotApplicable) as caught:
                pipeline.plan(Ask.explain(name, fields, PNG if cls.needs_image else None))
            assert caught.value.detail == reason
        elif not (model == "tiny-tokens" and "layers" in cls.model_fields):
            pipeline.plan(Ask.explain(name, fields, PNG if cls.needs_image else None))
