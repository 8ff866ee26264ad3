import itertools

import pytest
import torch
from torch import Tensor

from service.contract import Target, Targets
from service.errors import InvalidParameter, NotApplicable
from service.explainers.cam.finer_cam import FinerCAM
from service.explainers.cam.grad_cam import GradCAM
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, module_layer, tiny_input
from tests.oracles import Case


def oracle(case: Case) -> Tensor:
    """Grad-CAM is linear in what is differentiated: the class's signed map, less the mean of the others' maps."""
    how = {"relu": True, "references": [], "similar": 3, "strength": 0.6, **case.params}
    with torch.no_grad():
        y = case.network(case.x)[0]
    nearest = sorted((c for c in range(len(y)) if c != case.target), key=lambda c: abs(float(y[c] - y[case.target])))
    others = [c for c in how["references"] if c != case.target] or nearest[: how["similar"]]

    def signed(target: int) -> Tensor:
        a, g = oracles.maps_and_gradients(case.network, case.x, case.layer, target)
        return oracles.weighted_sum(g.double().mean((1, 2)), a.double())

    found = signed(case.target) - how["strength"] * sum(signed(c) for c in others) / len(others)
    return (found.clamp_min(0) if how["relu"] else found).float()


@pytest.mark.oracle("finer-cam")
def test_equals_the_difference_of_signed_maps(subject, x):
    layer = module_layer(subject)
    # Signed: what sets a class apart may be nowhere, so that nothing is left of a rectified map.
    for params in ({"relu": False}, {"references": (5, 281, 17), "strength": 1.0, "relu": False}):
        found = subject.explain(FinerCAM(layer=layer, **params), x, [281, 7])
        for m, target in zip(found.maps, (281, 7), strict=True):
            assert_close(m.array, oracle(Case(subject.plain, x, layer, target, params)), 5e-5)


def test_without_strength_it_is_grad_cam(small):
    subject, x = small(tiny.classifier), tiny_input()
    one = subject.explain(FinerCAM(strength=0, relu=False), x, [1]).maps[0].array
    assert_close(one, subject.explain(GradCAM(relu=False), x, [1]).maps[0].array)


def test_the_nearest_classes_are_compared_with_unless_others_are_named(small):
    subject, x = small(tiny.classifier), tiny_input()
    y = subject.plain(x)[0].tolist()
    found = subject.explain(FinerCAM(similar=2), x, [1, 3])
    for target, references in zip((1, 3), found.details["references"], strict=True):
        assert target not in references
        rest = {*range(5)} - {target, *references}
        assert max(abs(y[c] - y[target]) for c in references) <= min(abs(y[c] - y[target]) for c in rest)
    assert subject.explain(FinerCAM(similar=16), x, [2]).details["references"] == [
        sorted({0, 1, 3, 4}, key=lambda c: abs(y[c] - y[2]))
    ]
    assert subject.explain(FinerCAM(references=(4, 2)), x, [2, 4]).details["references"] == [[4], [2]]


def test_the_default_target_is_compared_with_its_own_neighbours(small):
    subject, x = small(tiny.classifier), tiny_input()
    top = int(subject.plain(x).argmax())
    found, named = subject.explain(FinerCAM(), x), subject.explain(FinerCAM(), x, [top])
    assert found.maps[0].target.index == top
    assert found.details["references"] == named.details["references"]
    assert_close(found.maps[0].array, named.maps[0].array)


def test_a_contrast_is_not_compared_with_its_own_classes(small):
    subject, x = small(tiny.classifier), tiny_input()
    contrast = Target(1, ((1, 1.0), (2, -1.0)))
    found = FinerCAM(similar=16).explain(subject.probe(), x, Targets(subject.facts, [contrast]))
    assert sorted(found.details["references"][0]) == [0, 3, 4]


def test_what_cannot_be_compared_is_refused(small):
    subject, x = small(tiny.classifier), tiny_input()
    with pytest.raises(InvalidParameter, match="class 5 is out of range: classifier has outputs 0 to 4"):
        subject.explain(FinerCAM(references=(1, 5)), x, [0])
    with pytest.raises(InvalidParameter, match="nothing is left to compare class 1 with"):
        subject.explain(FinerCAM(references=(1,)), x, [0, 1])
    with pytest.raises(NotApplicable, match=r"finer-cam compares classes, and regression .*use 'grad-cam'"):
        FinerCAM.require(small(tiny.regression, task="regression").facts)


def test_a_contrast_is_compared_with_its_class_s_own_neighbours(small):
    subject, x = small(tiny.classifier), tiny_input()
    y, pairs = subject.plain(x)[0].tolist(), list(itertools.permutations(range(5), 2))
    contrasts = [Target(one, ((one, 1.0), (other, -1.0))) for one, other in pairs]
    found = subject.explain_plainly(FinerCAM(similar=1), x, contrasts).details["references"]
    for (one, other), references in zip(pairs, found, strict=True):
        assert references == [min({*range(5)} - {one, other}, key=lambda c: abs(y[c] - y[one]))]
