"""Several methods on one picture: each for itself, on the same targets, in as few rows as promised."""

import pytest
import torch

from service.answer import Needs
from service.client import wire
from service.comparison.asking import Compare
from service.comparison.comparing import Comparing, plan
from service.comparison.numbers import Trial
from service.contract import Explanation, Map, Rows
from service.engine.scheduler.run import Run
from service.errors import Cancelled, DeadlineExceeded, InvalidParameter, UnknownModel
from service.explainers.base import Explainer
from service.explainers.cam.grad_cam import GradCAM
from service.explainers.gradient.saliency import Saliency
from service.faithfulness.controls import bell
from service.pipeline import Bound, Pipeline
from service.rendering import encoders
from tests.comparison.conftest import FEW, NEEDS, PNG, compare


def test_every_method_has_its_maps_and_numbers(compared) -> None:
    found = compared()
    assert [one.method for one in found.entries] == FEW
    cam, saliency, eigen = found.entries
    for one in (cam, saliency):
        (numbers,) = one.faithfulness
        assert (numbers.gain.blur is None) <= ("blur" in (numbers.gain.reason or ""))
        assert one.metrics == (None,)
    (numbers,) = eigen.faithfulness
    assert (numbers.gain.blur, numbers.gain.mean) == (None, None)
    assert "no target" in (numbers.gain.reason or "")
    assert all(one.cost is not None and one.cost.forwards >= 1 for one in found.entries)
    (controls,) = found.controls
    assert controls.target == cam.answer.maps[0].target


def test_methods_are_asked_about_the_same_target(compared) -> None:
    found = compared(targets=[3, 1])
    for one in found.entries[:2]:
        assert [shown.target.index for shown in one.answer.maps] == [3, 1]
    assert [one.target.index for one in found.controls] == [3, 1]
    for one in found.agreement:
        assert one.methods == [0, 1]
        assert one.spearman[0][1] == one.spearman[1][0]
        assert one.spearman[0][0] == 1


def test_what_fails_is_an_entry_and_not_the_end(compared, monkeypatch) -> None:
    def broken(self, probe, image, targets):  # type: ignore[no-untyped-def]
        raise ZeroDivisionError

    monkeypatch.setattr(Saliency, "explain", broken)
    found = compared(methods=["ram", "nothing", "saliency", {"method": "occlusion", "params": {"window": 0}}, "cam"])
    kinds = [one.problem.type if one.problem is not None else None for one in found.entries]
    assert kinds == ["not-applicable", "unknown-method", "internal-error", "invalid-parameter", None]
    assert found.entries[3].problem.errors[0].pointer == "/methods/3/params/window"
    assert found.entries[4].faithfulness


def test_what_does_not_fit_the_layer_is_said_by_its_place(compared) -> None:
    (one,) = compared(methods=[{"method": "grad-cam", "params": {"layer": "nowhere"}}]).entries
    assert one.problem.type == "invalid-parameter"


@pytest.mark.parametrize(
    ("fields", "error"), [({"targets": [99]}, InvalidParameter), ({"model": "nobody"}, UnknownModel)], ids=str
)
def test_what_all_have_in_common_ends_all(compared, fields, error) -> None:
    with pytest.raises(error):
        compared(**fields)


def test_a_comparison_without_a_picture_is_refused(tiny) -> None:
    with pytest.raises(InvalidParameter) as found:
        plan(tiny.pipeline, Compare.of({"methods": FEW}))
    assert found.value.errors[0].pointer == "/image"


def test_asked_again_no_row_is_computed(tiny) -> None:
    fields = {"methods": ["grad-cam", "layer-cam", "occlusion"], "targets": [2]}
    first, again = Run(), Run()
    compare(tiny, first, **fields)
    one = compare(tiny, again, **fields)
    assert first.usage.forwards <= 2 + 560 + 60 * 3 + sum(entry.cost.forwards for entry in one.entries) + 10**3
    traced = sum(entry.cost.forwards for entry in one.entries if entry.cost.backwards)
    assert again.usage.forwards <= traced + 1  # no row of a table, but the gradients'


def test_methods_of_their_own_are_chosen_where_none_is_named(tiny) -> None:
    found = compare(tiny, methods=None)
    assert len(found.entries) >= 8
    assert not [one.method for one in found.entries if one.problem is not None]
    assert "ram" not in [one.method for one in found.entries]


def test_a_caller_who_has_gone_ends_it(tiny) -> None:
    run = Run()
    run.cancelled.set()
    with pytest.raises(Cancelled):
        compare(tiny, run)


def test_what_was_done_counts_where_measuring_fails(tiny, monkeypatch) -> None:
    def late(trial, maps):  # type: ignore[no-untyped-def]
        trial.run.usage.count(10_000, 0, 10_000, 0.0)
        raise DeadlineExceeded("its time is up")

    monkeypatch.setattr(Trial, "gains", late)
    run = Run()
    with pytest.raises(DeadlineExceeded):
        compare(tiny, run)
    assert run.usage.forwards >= 10_000


def test_what_was_done_counts_where_targets_are_not_in_the_picture(tiny, monkeypatch) -> None:
    """The network's task is made one that has to look at the picture for its targets."""

    def failing(self, plan, seen, probe):  # type: ignore[no-untyped-def]
        if plan.ask.method is None:
            return Bound(plan.targets)
        probe.run.usage.count(10_000, 0, 10_000, 0.0)
        raise InvalidParameter("it is not in the picture")

    monkeypatch.setattr(type(tiny.store.get("tiny").facts.task), "looks", True)
    monkeypatch.setattr(Pipeline, "bind", failing)
    run = Run()
    with pytest.raises(InvalidParameter, match="it is not in the picture"):
        compare(tiny, run)
    assert run.usage.forwards >= 10_000


def test_progress_counts_up_to_what_was_expected(tiny) -> None:
    run, told = Run(), []
    run.progress = lambda: told.append(run.done)
    planned = plan(tiny.pipeline, Compare.of({"methods": FEW}, PNG))
    run.expected = planned.passes
    compare(tiny, run, targets=[4])
    assert told == sorted(told)
    assert 0 < run.done <= planned.passes == run.expected


# Planted failures: what a method may do wrong, and which number tells


def _planted(monkeypatch, make):  # type: ignore[no-untyped-def]
    """Let Grad-CAM answer with another map for each target."""

    def explain(self: Explainer, probe, image, targets):  # type: ignore[no-untyped-def]
        outputs = probe.scores(Rows.of(image))[0]
        maps = [Map(self.name, make(image, target), "signed", target) for target in targets.chosen(outputs)]
        return Explanation(maps, {}, outputs)

    monkeypatch.setattr(GradCAM, "explain", explain)


def test_a_method_that_ignores_the_class_is_caught(compared, monkeypatch) -> None:
    _planted(monkeypatch, lambda image, target: image[0].mean(0))
    (one,) = compared(methods=["grad-cam"], metrics=["random-logit"]).entries
    assert one.metrics[0].random_logit == pytest.approx(1)


def test_a_constant_is_caught(compared, monkeypatch) -> None:
    _planted(monkeypatch, lambda image, target: torch.ones(7, 7))
    (one,) = compared(methods=["grad-cam"], metrics=["random-logit", "sparsity", "curves"]).entries
    assert "flat" in one.faithfulness[0].gain.reason
    assert "flat" in one.metrics[0].reasons["random-logit"]
    assert one.metrics[0].curves is None


def test_one_that_peeks_at_the_centre_is_no_better_than_the_bell(compared, monkeypatch) -> None:
    _planted(monkeypatch, lambda image, target: bell((image.shape[2], image.shape[3])).float())
    found = compared(methods=["grad-cam"], targets=[1])
    gain, beside = found.entries[0].faithfulness[0].gain, found.controls[0].bell
    assert isinstance(beside, wire.Pair)
    assert (gain.blur, gain.mean) == pytest.approx((beside.blur, beside.mean))


def test_targets_are_read_once_for_all_methods(tiny, monkeypatch) -> None:
    task = tiny.pipeline.store.get("tiny").facts.task
    read, times = type(task).read, []

    def counting(self, *args):  # type: ignore[no-untyped-def]
        times.append(args)
        return read(self, *args)

    monkeypatch.setattr(type(task), "read", counting)
    planned = plan(tiny.pipeline, Compare.of({"methods": ["grad-cam"] * 32, "targets": [3, 1]}, PNG))
    assert [[t.index for t in one.targets.given] for _, one in planned.entries] == [[3, 1]] * 32
    assert len(times) == 1


def test_more_targets_than_are_taken_are_the_requests_mistake(tiny) -> None:
    with pytest.raises(InvalidParameter, match="17 targets; at most 16") as found:
        plan(tiny.pipeline, Compare.of({"methods": ["eigen-cam"], "targets": [1] * 17}, PNG))
    assert found.value.errors[0].pointer == "/targets"


# What answers may have, all methods together

MAPS = {"method": "feature-maps", "params": {"layers": ["conv1"], "top_k": 4}}


@pytest.fixture
def bounded(tiny):  # type: ignore[no-untyped-def]
    """Return what compares within bounds."""

    def work(values: int, pixels: int, needs: Needs = NEEDS, **fields):  # type: ignore[no-untyped-def]
        settings = tiny.settings.model_copy(update={"max_answer_values": values, "max_answer_pixels": pixels})
        pipeline = Pipeline(settings, tiny.store, tiny.device)
        return Comparing(pipeline, plan(pipeline, Compare.of(fields, PNG), needs), Run()).work(needs)

    return work


def test_raw_values_of_all_methods_are_counted_by_the_plan(tiny, bounded) -> None:
    one = plan(tiny.pipeline, Compare.of({"methods": [MAPS]}, PNG)).entries[0][1]
    values = one.ask.method.values(one.model.facts, 0)
    asked = Needs(arrays="asked")
    assert len(bounded(3 * values, 10**6, asked, methods=[MAPS] * 3).entries) == 3
    for needs, output in ((asked, {}), (Needs(arrays="all"), {"array": "none"})):
        with pytest.raises(InvalidParameter, match=f"{3 * values:,} raw values, and at most {3 * values - 1:,}") as met:
            bounded(3 * values - 1, 10**6, needs, methods=[MAPS] * 3, output=output)
        assert [error.pointer for error in met.value.errors] == ["/output/array"]
    assert len(bounded(1, 10**6, asked, methods=[MAPS] * 3, output={"array": "none"}).entries) == 3


def test_what_no_plan_knows_is_counted_as_it_is_drawn(bounded) -> None:
    """A method whose maps no longer fit is an entry with its problem; those before it stand."""
    size = 16 * 16  # of a map of the default layer
    found = bounded(2 * size, 10**6, Needs(arrays="asked"), methods=["grad-cam"] * 3, targets=[1]).entries
    assert [one.problem is None for one in found] == [True, True, False]
    assert found[2].problem.errors[0].pointer == "/output/array"
    drawn = Needs(pictures="asked", encode=encoders.png)
    found = bounded(10**6, 4 * 32 * 32, drawn, methods=["grad-cam", "saliency", "cam"], targets=[1]).entries
    assert [one.problem is None for one in found] == [True, True, False]
    assert found[2].problem.errors[0].pointer == "/output"


# What is a method's own


def test_a_number_format_that_one_method_refuses_is_refused_by_it_alone(compared) -> None:
    bound = {"method": "score-cam", "params": {"error_bound": 0.1}}
    cam, score = compared(methods=["grad-cam", bound], precision="bf16").entries
    assert cam.problem is None
    assert [error.pointer for error in score.problem.errors] == ["/precision"]
    with pytest.raises(InvalidParameter, match="fp16 needs a CUDA device"):  # which no method can have
        compared(methods=["grad-cam", bound], precision="fp16")


def test_what_is_found_while_explaining_is_named_by_its_place(compared) -> None:
    methods = [
        "cam",
        {"method": "deconvnet", "params": {"position": [99, 99]}},
        {"method": "grad-cam", "params": {"layer": "nowhere"}},
    ]
    found = compared(methods=methods).entries
    assert [[error.pointer for error in one.problem.errors] for one in found[1:]] == [
        ["/methods/1/params/position"],
        ["/methods/2/params/layer"],
    ]


def test_the_number_format_of_rows_is_told(tiny) -> None:
    fields = {"methods": [{"method": "occlusion", "params": {"window": 8, "stride": 8}}], "targets": [1]}
    assert compare(tiny, **fields, precision="bf16").whole.usage.dtype == "bfloat16"
    assert compare(tiny, **fields, precision="fp32").whole.usage.dtype == "float32"
