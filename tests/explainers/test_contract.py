"""What holds for every registered method, on every kind of network."""

import copy
import functools
import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from service.contract import INPUT, Attention, Explanation, LayerInfo, Layout, Rows, Targets
from service.engine.network.capture import uninstall
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import RowsWork
from service.errors import NotApplicable
from service.explainers.base import registry
from service.explainers.gradient.saliency import Saliency
from service.explainers.perturbation.extremal_perturbation import ExtremalPerturbation
from service.models.identity import digest
from service.pipeline import applicability
from tests.explainers.conftest import tiny_input
from tests.plain import PlainProbe

MODELS = ("tiny", "tiny-regression", "tiny-vgg", "tiny-functional", "tiny-tokens")
# Small enough for a test; everything else at its default.
HEADS = ("cam", "ram")  # look at the head's layer
PARAMS = {
    "blur-ig": {"steps": 4},
    "filters": {"steps": 3},
    "gradient-shap": {"samples": 5},
    "guided-ig": {"steps": 4},
    "integrated-gradients": {"steps": 2, "baseline": "black+blur"},
    "occlusion": {"window": 12, "stride": 8},
    "saliency": {"smooth_samples": 3},
    "smooth-grad": {"samples": 3},
    "var-grad": {"samples": 2},
    "xrai": {"steps": 2},
    "extremal-perturbation": {"steps": 10, "areas": (0.2, 0.5)},
    "hsic": {"samples": 40, "cells": 4},
    "kernel-shap": {"samples": 40, "count": 9},
    "lime": {"samples": 40, "count": 9},
    "partition-shap": {"evaluations": 60},
    "rise": {"masks": 30},
    "segment-ablation": {"count": 9},
    "sobol": {"designs": 4, "cells": 3},
}


def _explainer(name, facts):
    cls = registry()[name]
    params = dict(PARAMS.get(name, {}))
    if facts.default_layer is None and "layer" in cls.model_fields:
        params["layer"] = "patches"
    if facts.default_layer is None and "layers" in cls.model_fields:
        params["layers"] = ("patches",)
    return cls(**params)


def _run(context, model, name, device=None, run=None):
    explainer = _explainer(name, model.facts)
    explainer.require(model.facts)
    probe = ModelProbe(model, device or context.device, run or Run())
    return explainer.explain(probe, _input(explainer), _targets(model))


@dataclass(frozen=True)
class First:
    """What a method found on a model when it was first asked, and what that took and left."""

    explanation: Explanation
    run: Run
    before: Any
    after: Any


@functools.cache
def _first(context, model, name):
    before, run = _state(model), Run()
    return First(_run(context, model, name, run=run), run, before, _state(model))


def _input(explainer):
    return tiny_input() if explainer.needs_image else torch.empty(0, 3, 32, 32)


def _targets(model):
    return Targets(model.facts, None if model.facts.task.measures else [1, 3])


def _state(model):
    return (
        digest(model.module),
        [(n, p.requires_grad, p.grad is None) for n, p in model.module.named_parameters()],
        [
            (n, m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for n, m in model.module.named_modules()
        ],
    )


@pytest.fixture(params=[(name, model) for name in registry() for model in MODELS], ids="-".join)
def case(request, tiny):
    name, model = request.param
    loaded = tiny.store.get(model)
    if reason := applicability(loaded.facts)[name]:
        assert "use '" in reason.lower()  # what to use instead
        pytest.skip("does not apply, and says so")
    return name, loaded


LACKS = {
    "nothing": {},
    "a head": {"head": None},
    "a gradient": {"no_gradient": "none gets there", "head": None},
    "seen operators": {"opaque": "a part of it is compiled"},
    "ReLUs": {"rectifiers": 0},
}


@pytest.mark.parametrize("lacks", [*LACKS, "layers", "a default layer", "gradients at layers", "a chain of attentions"])
@pytest.mark.parametrize("model", MODELS)
def test_what_a_refusal_names_instead_applies_itself(tiny, model, lacks):
    facts = tiny.store.get(model).facts
    if lacks == "layers":
        facts = replace(facts, layers={}, default_layer=None, head=None)
    elif lacks == "a default layer":
        facts = replace(facts, default_layer=None, head=None)
    elif lacks == "gradients at layers":
        cut = {path: replace(info, gradient=False, projects=False) for path, info in facts.layers.items()}
        facts = replace(facts, layers=cut)
    elif lacks == "a chain of attentions":
        apart = LayerInfo("attention#2", "attention", (2, 4, 4), False)
        apart = replace(apart, attention=Attention(Layout("tokens", (2, 2)), (0, 1, 2, 3), follows=False))
        facts = replace(facts, layers={**facts.layers, apart.path: apart}, no_attention=None)
    else:
        facts = replace(facts, **LACKS[lacks])
    reasons = applicability(facts)
    for name, reason in reasons.items():
        if reason is not None:
            (named,) = re.findall(r"[uU]se ('[a-z0-9+-]+'(?: or '[a-z0-9+-]+')*)", reason)
            assert not [other for other in re.findall("'([^']+)'", named) if reasons[other] is not None], (name, reason)


def test_finite_and_of_the_documented_shape(tiny, case):
    name, model = case
    explanation = _first(tiny, model, name).explanation
    kind = explanation.maps[0].kind  # a regression's score may be negative where a class's probability is not
    assert kind == registry()[name].kind or (kind == "signed" and model.facts.task.measures)
    for m in explanation.maps:
        assert torch.isfinite(m.array).all()
        assert m.array.dtype == torch.float32
        assert not m.array.requires_grad
        dims = {"positive": 2, "signed": 2, "grid": 3, "picture": 3, "rgb": 3, "regions": 2}[m.kind]
        assert m.array.ndim == dims
        if m.kind == "positive":
            assert float(m.array.min()) >= 0
        if m.kind in ("grid", "regions"):
            assert m.interpolation == "nearest"
        if m.kind == "rgb":
            assert 0 <= float(m.array.min()) <= float(m.array.max()) <= 1
        assert m.layer is None or m.layer in model.facts.layers
    if registry()[name].needs_image:
        assert explanation.outputs.shape == (model.facts.outputs,)


@pytest.mark.parametrize("name", [name for name, cls in registry().items() if "seed" in cls.model_fields])
def test_what_another_seed_changes_is_an_estimate(tiny, name):
    model = tiny.store.get("tiny-vgg")
    explainer = _explainer(name, model.facts)
    found, other = (
        one.explain(ModelProbe(model, tiny.device, Run()), _input(one), _targets(model))
        for one in (explainer, explainer.model_copy(update={"seed": 1}))
    )
    same = all(torch.equal(a.array, b.array) for a, b in zip(found.maps, other.maps, strict=True))
    assert same or explainer.estimates() or not found.exact


def test_what_is_drawn_for_nothing_is_no_estimate():
    assert not Saliency().estimates()
    assert Saliency(smooth_samples=1).estimates()
    assert ExtremalPerturbation().estimates()
    assert not any(cls().estimates() for cls in registry().values() if cls.family in ("attention", "propagation"))


def test_a_plain_probe_gives_the_same(tiny, case):
    """Without thread, cache and batches: the engine's second truth."""
    name, model = case
    explainer = _explainer(name, model.facts)
    network = uninstall(copy.deepcopy(model.module))
    plain = explainer.explain(PlainProbe(network, model.facts), _input(explainer), _targets(model))
    found = _first(tiny, model, name).explanation
    assert len(plain.maps) == len(found.maps)
    for a, b in zip(found.maps, plain.maps, strict=True):
        assert (a.name, a.kind, a.target, a.layer, a.channel, a.patch) == (
            b.name,
            b.kind,
            b.target,
            b.layer,
            b.channel,
            b.patch,
        )
        torch.testing.assert_close(a.array, b.array, rtol=1e-4, atol=1e-5)
    assert plain.details.keys() == found.details.keys()
    assert plain.exact == found.exact


class Tracings(PlainProbe):
    """A plain probe that keeps which layers were differentiated."""

    def __init__(self, module, facts):
        super().__init__(module, facts)
        self.layers = set()

    def trace(self, rows, tracing, objective=None, *, total=None):
        trace = super().trace(rows, tracing, objective, total=total)
        self.layers |= {path for path in tracing.wrt if path != INPUT and self.facts.layers[path].spatial}
        return trace


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", registry())
def test_a_layer_that_no_gradient_gets_to_is_refused_by_whoever_needs_one(tiny, name, named):
    model = next(m for m in map(tiny.store.get, MODELS) if applicability(m.facts)[name] is None)
    fields = registry()[name].model_fields
    if not fields.keys() & {"layer", "layers"} and name not in HEADS:
        pytest.skip("it looks at no layer that is chosen")
    layers = {"layer": "bn1"} if "layer" in fields else {"layers": ("relu2", "bn1")} if "layers" in fields else {}
    explainer = registry()[name](**PARAMS.get(name, {}), **(layers if named else {}))
    network = uninstall(copy.deepcopy(model.module))
    probe = Tracings(network, model.facts)
    explainer.explain(probe, _input(explainer), _targets(model))
    assert ("bn1" in probe.layers) == (bool(probe.layers) and named)
    missing = "bn1" if named else model.facts.default_layer
    cut = {path: replace(info, gradient=path != missing) for path, info in model.facts.layers.items()}
    facts = replace(model.facts, layers=cut)
    needs = f"{re.escape(name)} needs a gradient at layer '{missing}'.*'score-cam'"
    with pytest.raises(NotApplicable, match=needs) if probe.layers else nullcontext():
        explainer.explain(PlainProbe(network, facts), _input(explainer), _targets(model))
    foretold = applicability(facts)[name]
    assert (foretold is not None) == (bool(probe.layers) and not named)


def _equal(found, expected):
    for a, b in zip(found.maps, expected.maps, strict=True):
        torch.testing.assert_close(a.array, b.array, rtol=1e-4, atol=1e-5)  # batches may be cut elsewhere


def test_repeatable(tiny, case):
    name, model = case
    _equal(_run(tiny, model, name), _first(tiny, model, name).explanation)


def test_leaves_the_model_untouched(tiny, case):
    name, model = case
    first = _first(tiny, model, name)
    assert first.after == first.before


def test_one_row_at_a_time_equals_many(tiny, case):
    name, model = case
    device = Device(torch.device("cpu"), max_batch_rows=1)
    found = _run(tiny, model, name, device)
    device.close()
    _equal(found, _first(tiny, model, name).explanation)


def test_cost_estimate_is_what_it_takes(tiny, case):
    """Admission and progress count on it."""
    name, model = case
    first = _first(tiny, model, name)
    used = first.run.usage
    estimate = _explainer(name, model.facts).passes(model.facts, len(_targets(model)))
    passes = used.forwards + 2 * used.backwards + used.avoided + first.explanation.avoided
    # Reviving dead filters takes passes that nobody foresees; a backward that stops at a layer is counted in full.
    assert passes <= estimate * (2 if name == "filters" else 1)
    assert estimate <= 2 * passes


def test_rows_beyond_the_model_never_exist_at_once(tiny):
    """`scores` asks for a batch of rows at a time, whatever their number."""
    asked = []
    model = tiny.store.get("tiny")

    def rows(i, j):
        asked.append(j - i)
        return torch.zeros(j - i, 3, 32, 32)

    out = tiny.device.submit(RowsWork(model, (3, 32, 32), Rows(1000, rows)), Run())
    assert out.shape == (1000, 5)
    assert max(asked) <= tiny.device.limits.max_rows
    assert sum(asked) == 1000
