"""Gain over random: on networks where the best order is known, and for maps that know nothing."""

from statistics import mean, stdev

import pytest
import torch

from service.faithfulness.controls import bell, control_orders, random_maps
from service.faithfulness.curves import Scene
from service.faithfulness.gain import controls, gains
from service.faithfulness.ordering import ranks
from tests.faithfulness.conftest import SIZE, Additive, a_map, weights


def _gain(there, *maps):  # type: ignore[no-untyped-def]
    return gains(there, controls(there), [(one, 0) for one in maps])


def test_the_right_order_has_the_largest_gain(image, scene) -> None:
    there = scene(Additive(weights()))
    parts = weights()[0] * image[0].sum(0)
    noise = [torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    best, worst, *others = _gain(there, *map(a_map, [parts, -parts, *(parts + spread for spread in noise), *noise]))
    for name in ("blur", "mean"):
        assert all(worst.gains[name] < one.gains[name] < best.gains[name] for one in others)
        assert best.gains[name] == pytest.approx(-worst.gains[name], abs=2.5)  # turned over; up to the randoms' mean


def test_random_maps_gain_nothing(scene) -> None:
    there = scene(Additive(weights()))
    found = _gain(
        there, *(a_map(torch.rand(7, 7, generator=torch.Generator().manual_seed(100 + i))) for i in range(30))
    )
    for name in ("blur", "mean"):
        values = [one.gains[name] for one in found]
        assert abs(mean(values)) < 1  # their mean is that of eight others
        assert sum(abs(value) <= 2 for value in values) >= 24


def test_the_bell_loses_where_a_corner_decides(scene) -> None:
    corner = torch.zeros(1, SIZE, SIZE)
    corner[0, :5, :5] = 1
    (found,) = controls(scene(Additive(corner)))
    assert all(found[name].bell < 0 for name in ("blur", "mean"))
    middle = torch.zeros(1, SIZE, SIZE)
    middle[0, 5:9, 5:9] = 1
    (found,) = controls(scene(Additive(middle)))
    assert all(found[name].bell > 1 for name in ("blur", "mean"))


def test_a_map_that_peeks_at_the_centre_is_the_bell(scene) -> None:
    there = scene(Additive(weights()))
    (found,) = _gain(there, a_map(bell((SIZE, SIZE)).float()))
    for name in ("blur", "mean"):
        assert found.gains[name] == pytest.approx(controls(there)[0][name].bell)


def test_gains_are_deviations_of_the_eight(scene) -> None:
    there = scene(Additive(weights()))
    values = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    (found,) = _gain(there, a_map(values))
    gaps = [one["mean"][0].gap for one in there.curves([*map(ranks, random_maps((SIZE, SIZE)))], ["mean"])]
    gap = there.curves([ranks(values)], ["mean"])[0]["mean"][0].gap
    assert found.gains["mean"] == pytest.approx((gap - mean(gaps)) / stdev(gaps))
    assert found.curves["mean"].gap == pytest.approx(gap)


def test_rows_are_few_and_asked_once(scene) -> None:
    there = scene(Additive(weights()))
    known = controls(there)
    maps = [(a_map(torch.rand(7, 7)), 0) for _ in range(12)]
    gains(there, known, maps)
    assert there.probe.rows == [3, 9 * 60, 12 * 60]
    gains(there, controls(there), maps)
    assert len(there.probe.rows) == 3


def test_maps_of_one_order_share_their_rows(scene) -> None:
    """Their unit, their zero and their last digits are no part of it."""
    there = scene(Additive(weights()), blanks={"mean": torch.zeros(1, 3, SIZE, SIZE)})
    known, (values, other) = controls(there), torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(3))
    alike = [values, 3 * values - 1, values.double().mul(1 / 49).float(), other, -values]
    found = gains(there, known, [(a_map(one), 0) for one in alike])
    assert there.probe.rows[2:] == [3 * 30]
    alone = [gains(there, known, [(a_map(one), 0)])[0] for one in alike]
    assert [one.gains["mean"] for one in found] == pytest.approx([one.gains["mean"] for one in alone])
    assert found[0].gains["mean"] == found[1].gains["mean"] != found[3].gains["mean"]


def test_a_map_with_what_is_no_number_is_no_order(scene) -> None:
    values = torch.rand(7, 7)
    values[3, 3] = torch.nan
    (found,) = _gain(scene(Additive(weights())), a_map(values))
    assert found.gains == {}
    assert "not a number" in (found.reason or "")


def test_a_constant_map_is_no_order(scene) -> None:
    flat, there = _gain(scene(Additive(weights())), a_map(torch.ones(7, 7)), a_map(torch.rand(7, 7)))
    assert (flat.gains, flat.curves) == ({}, {})
    assert "flat" in (flat.reason or "")
    assert there.reason is None
    assert set(there.gains) == {"blur", "mean"}


def test_what_tells_nothing_is_left_out_with_its_reason(image, scene) -> None:
    blanks = {"blur": image * 0.9999, "mean": torch.zeros_like(image)}
    there = scene(Additive(weights()), blanks=blanks)
    (found,) = _gain(there, a_map(torch.rand(7, 7)))
    assert set(found.gains) == set(found.curves) == {"mean"}
    assert (found.reason or "").startswith("blur: hiding the whole picture")
    assert there.probe.rows == [3, 9 * 30, 30]  # nothing is asked that would tell nothing


def test_each_target_has_its_own_controls(image, scene) -> None:
    """One that the network does not see takes nothing from the other; a map is held against its own target's."""
    two = torch.cat([weights(), weights() * 1e-6])
    there = scene(Additive(two))
    known = controls(there)
    assert (set(known[0]), set(known[1])) == ({"blur", "mean"}, set())
    parts = a_map(weights()[0] * image[0].sum(0))
    mine, its = gains(there, known, [(parts, 0), (parts, 1)])
    assert mine.gains["mean"] > 2
    assert (its.gains, its.curves) == ({}, {})
    assert (its.reason or "").count("hiding the whole picture") == 2


def test_a_network_that_sees_no_order_gives_no_one_a_gain(scene, image) -> None:
    """All pixels are alike and count the same: whichever go first, the score goes the same way."""
    there = scene(Additive(torch.ones(1, SIZE, SIZE)), blanks={"mean": torch.zeros_like(image)})
    alike = Scene.of(there.probe, torch.ones_like(image), there.blanks, odds=True)
    (found,) = _gain(alike, a_map(torch.rand(7, 7)))
    assert found.gains == {}
    assert found.reason == "mean: random orders of pixels all score the same"


def test_orders_that_are_kept_are_not_written_to(scene) -> None:
    before = [one.clone() for one in control_orders((SIZE, SIZE))]
    _gain(scene(Additive(weights())), a_map(torch.rand(7, 7)))
    assert all(torch.equal(a, b) for a, b in zip(before, control_orders((SIZE, SIZE)), strict=True))
