"""Curves against a slow loop, and against what is known of an additive network."""

import numpy as np
import pytest
import torch
from torch import nn

from service.faithfulness.curves import STEPS, Curve, counts, hiding
from service.faithfulness.ordering import ranks
from tests.faithfulness.conftest import SIZE, Additive, weights


def _slowly(network, image, blank, values, inserts):  # type: ignore[no-untyped-def]
    """One pixel after the other, most important first, without ranks."""
    order = sorted(range(values.numel()), key=lambda i: -float(values.flatten()[i]))
    x = (blank if inserts else image).clone()
    other = image if inserts else blank
    at = {round(len(order) * k / 16): k for k in range(17)}
    scores = {}
    for n in range(len(order) + 1):
        if n in at:
            scores[at[n]] = float(network(x))
        if n < len(order):
            row, column = divmod(order[n], values.shape[1])
            x[0, :, row, column] = other[0, :, row, column]
    return [scores[k] for k in range(17)]


@pytest.mark.parametrize("name", ["blur", "mean"])
def test_curves_are_those_of_pixels_one_by_one(image, scene, name) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * (SIZE - 2) ** 2, 1)).eval()
    with torch.no_grad():
        there = scene(network, odds=False)
        values = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(2))
        found = there.curves([ranks(torch.zeros(SIZE, SIZE)), ranks(values)], ["blur", "mean"])[1][name][0]
        for inserts, curve in ((False, found.deletion), (True, found.insertion)):
            slow = np.array(_slowly(network, image, there.blanks[name], values, inserts))
            low, high = float(there.hidden[name]), float(there.shown)
            np.testing.assert_allclose(curve, (slow - low) / (high - low), atol=1e-4)


def test_an_additive_network_wants_its_own_weights_first(image, scene) -> None:
    """Where pixels add up, what goes takes its own part with it, so that the curve is a sum of sorted parts."""
    w = weights()
    there = scene(Additive(w))
    parts = (w[0] * image[0].sum(0)).double()
    found = there.curves([ranks(parts)], ["mean"])[0]["mean"][0]
    gone = torch.cat([torch.zeros(1), parts.flatten().sort(descending=True).values.cumsum(0)]) / parts.sum()
    expected = [float(gone[n]) for n in counts((SIZE, SIZE))]
    np.testing.assert_allclose(found.insertion, expected, atol=1e-6)
    np.testing.assert_allclose(found.deletion, [1 - one for one in expected], atol=1e-6)


def test_ends_are_the_picture_and_what_hides_it(image, scene) -> None:
    there = scene(Additive(weights()))
    found = there.curves([ranks(torch.rand(SIZE, SIZE))], ["blur"])[0]["blur"][0]
    assert (found.insertion[0], found.insertion[-1], found.deletion[0], found.deletion[-1]) == (0, 1, 1, 0)
    assert (found.shares[0], found.shares[-1]) == (0, 1)
    assert len(found.shares) == len(found.insertion) == len(found.deletion) == STEPS + 1


def test_areas_are_trapezoids() -> None:
    curve = Curve((0.0, 0.25, 1.0), (1.0, 0.5, 0.0), (0.0, 1.0, 1.0))
    assert (curve.deletion_area, curve.insertion_area) == (0.1875 + 0.1875, 0.125 + 0.75)
    assert curve.gap == curve.insertion_area - curve.deletion_area


def test_rows_are_the_same_however_they_are_cut(image) -> None:
    orders = [ranks(torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(i))) for i in range(3)]
    rows = hiding(image, [image / 2, torch.zeros_like(image)], orders, ("key",))
    whole = rows.build(0, rows.count)
    assert len(whole) == rows.count == 3 * 2 * 2 * 15
    assert torch.equal(whole, torch.cat([rows.build(i, min(i + 7, rows.count)) for i in range(0, rows.count, 7)]))
    last = orders[2] < counts((SIZE, SIZE))[15]
    assert torch.equal(whole[-1], torch.where(last, image[0], torch.zeros(())))


def test_rows_of_other_orders_and_pictures_are_others(image) -> None:
    one, other = ranks(torch.rand(SIZE, SIZE)), ranks(torch.rand(SIZE, SIZE))
    blanks = [torch.zeros_like(image)]
    keys = {
        hiding(image, blanks, [one], ("a",)).key,
        hiding(image, blanks, [other], ("a",)).key,
        hiding(image, [image / 3], [one], ("a",)).key,
        hiding(image, blanks, [one], ("b",)).key,
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("factor", "odds", "said"),
    [
        (1.0, True, None),
        (1e-4, True, "log-odds"),
        (1e-4, False, None),
        (-1.0, True, "log-odds"),
        (-1.0, False, "value"),
    ],
)
def test_where_hiding_all_changes_little_there_is_nothing_to_tell(scene, factor, odds, said) -> None:
    there = scene(Additive(weights() * factor), odds=odds)
    reason = there.too_little("mean", 0)
    assert (reason is None) == (said is None)
    assert said is None or said in (reason or "")
    assert there.usable("mean") == ([0] if said is None else [])


def test_a_value_that_moves_by_less_than_a_twentieth_is_too_little(scene) -> None:
    class Offset(Additive):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return super().forward(x) + 1e5

    assert "too little" in (scene(Offset(weights()), odds=False).too_little("mean", 0) or "")


def test_nothing_to_hide_takes_no_row(scene) -> None:
    there = scene(Additive(weights()))
    before = list(there.probe.rows)
    assert there.curves([], ["mean"]) == []
    assert there.curves([ranks(torch.rand(SIZE, SIZE))], []) == [{}]
    assert there.probe.rows == before == [3]
