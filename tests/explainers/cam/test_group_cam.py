import math

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.explainers.cam.group_cam import GroupCAM
from tests import oracles, tiny
from tests.explainers.conftest import NAMES, SOME, Watched, assert_close, assert_rectified, narrow_layer, tiny_input
from tests.oracles import Case

TOLERANCE = 3e-4  # gains are differences of nearly equal logits


def blurred(x: Tensor) -> Tensor:
    """Blur (1, C, H, W) by a Gaussian of 20 pixels at 224, with edges continued, as SciPy does."""
    from scipy.ndimage import gaussian_filter1d

    deviation = 20 / 224 * min(x.shape[2:])
    found = x.double().numpy()
    for axis in (2, 3):
        found = gaussian_filter1d(found, deviation, axis=axis, mode="nearest", truncate=4.0)
    return torch.from_numpy(np.ascontiguousarray(found)).float()


def gains(case: Case) -> tuple[list[float], list[Tensor]]:
    """Return each group's gain over the blurred picture, and its map in 0..1, one after the other."""
    a, g = oracles.maps_and_gradients(case.network, case.x, case.layer, case.target)
    count = min(case.params.get("groups", 32), len(a))
    weights, size = g.mean((1, 2)), (case.x.shape[2], case.x.shape[3])
    hidden, score = blurred(case.x), case.params.get("score", "logit")
    maps, shown, start = [], [], 0
    for group in range(count):
        channels = math.ceil((len(a) - start) / (count - group))  # the first ones are larger, where they are not equal
        run = range(start, start + channels)
        start += channels
        m = oracles.unit_range(oracles.weighted_sum(weights[run], a[run]).clamp_min(0))
        h = oracles.unit_range(oracles.enlarge(m, size))
        shown.append(case.x * h + hidden * (1 - h))
        maps.append(m)
    nothing, *found = oracles.scores_of(case.network, [hidden, *shown], case.target, score).tolist()
    return [one - nothing for one in found], maps


def weighted(case: Case, found: tuple[list[float], list[Tensor]]) -> Tensor:
    """Add the groups' maps by their gains."""
    total = oracles.weighted_sum(*found)
    return total if case.params.get("relu") is False else total.clamp_min(0)


def oracle(case: Case) -> Tensor:
    """ReLU(sum_l w_l M_l), group after group."""
    return weighted(case, gains(case))


@pytest.mark.oracle("group-cam")
@pytest.mark.parametrize(
    ("subject", "params"),
    [(name, {}) for name in NAMES] + [(name, {"groups": 5, "score": "probability"}) for name in SOME],
    indirect=["subject"],
)
def test_equals_the_definition(subject, params):
    x = oracles.photograph("chelsea", 64)  # a forward for every group
    layer, params = narrow_layer(subject, 64), {"relu": False, **params}  # all may lose against the blurred picture
    found = subject.explain(GroupCAM(layer=layer, **params), x, [281, 7])
    for m, target, w in zip(found.maps, (281, 7), found.details["gains"], strict=True):
        case = Case(subject.plain, x, layer, target, params)
        expected = gains(case)
        assert_close(m.array, weighted(case, expected), TOLERANCE)
        assert_close(torch.tensor(w), torch.tensor(expected[0]), TOLERANCE)


def test_its_map_is_what_is_positive_of_the_signed_one(small):
    subject, x = small(tiny.classifier), tiny_input()
    signed, rectified = (subject.explain(GroupCAM(layer="relu1", relu=relu), x, [2]).maps[0] for relu in (False, True))
    assert_rectified(rectified.array, signed.array, TOLERANCE)
    assert (signed.kind, rectified.kind) == ("signed", "positive")


def test_a_group_that_says_nothing_for_the_class_takes_no_row(small):
    """One channel a group: those of a negative weight are empty, and those that never answer."""
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(GroupCAM(groups=12), x, [0, 3])
    weights = subject.plain.fc.weight[[0, 3]]
    empty = [[k for k, gain in enumerate(one) if gain == 0] for one in found.details["gains"]]
    dead = oracles.layer_output(subject.plain, x, "relu2")[0].flatten(1).eq(0).all(1)
    assert empty == [[k for k in range(12) if w[k] <= 0 or dead[k]] for w in weights]
    assert any(dead)
    assert found.avoided == sum(map(len, empty))


def test_sketches_tell_of_all_targets_and_end_with_the_map(small):
    subject, x = small(tiny.classifier), tiny_input()
    watched = Watched(subject)
    found = GroupCAM(layer="relu1", groups=4).explain(watched, x, Targets(subject.facts, [1, 2]))
    (shown,) = watched.shown
    assert torch.equal(shown[-1], found.maps[0].array)
    assert shown[0].eq(0).all()  # of the blurred picture alone
