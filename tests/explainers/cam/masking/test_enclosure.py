"""What masks that were not tried could still change, against all that they could be on tiny maps, by brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.contract import Target
from service.explainers.cam.masking.enclosure import Certificate, telling_order

ONE = Target(0)


def _certificate(seed: int, masks: int = 6, pixels: int = 4, *, signed: bool = False, targets=(ONE,)):
    """Return a certificate of drawn maps, with their sums and counts."""
    random = torch.Generator().manual_seed(seed)
    sums = torch.rand(masks, pixels, generator=random, dtype=torch.float64) - (0.5 if signed else 0)
    counts = torch.randint(1, 4, (masks,), generator=random)
    return Certificate(sums, counts, targets), sums, counts


def _exact(sums: Tensor, counts: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map and what its weights are divided by, of scores (M,)."""
    e = f.double().exp()
    return (e @ sums).relu(), e @ counts.double()


@pytest.mark.parametrize("signed", [False, True])
@given(seed=st.integers(0, 2**32), tried=st.integers(1, 6))
def test_whatever_untried_masks_score_the_map_is_inside_and_the_ends_are_reached(signed, seed, tried):
    known, sums, counts = _certificate(seed, signed=signed)
    f = torch.rand(tried, 1, generator=torch.Generator().manual_seed(seed + 1))
    found = known.enclosure(f, torch.zeros(1))
    maps, divisors = zip(
        *(
            _exact(sums, counts, torch.cat([f[:, 0], torch.tensor(rest)]))
            for rest in itertools.product((0.0, 0.3, 1.0), repeat=6 - tried)
        ),
        strict=True,
    )
    for pixel in range(4):  # the largest and the least of a pixel are at corners of what can be
        values = [float(one[pixel]) for one in maps]
        assert float(found.low[0, pixel]) == pytest.approx(min(values), abs=1e-12)
        assert float(found.high[0, pixel]) == pytest.approx(max(values), abs=1e-12)
    assert found.divisor[0].tolist() == pytest.approx([float(min(divisors)), float(max(divisors))])
    (error,), (scale,) = found.errors, found.scale
    for exact, divisor in zip(maps, divisors, strict=True):
        factor = float(divisor) / float(found.divisor.mean())
        assert scale[0] - 1e-12 <= 1 / factor <= scale[1] + 1e-12
        within = error * float(exact.max() / divisor * factor) if math.isfinite(error) else math.inf
        assert float((found.maps[0] - exact / divisor * factor).abs().max()) <= within + 1e-12


@given(seed=st.integers(0, 2**32), bound=st.floats(0.001, 1), tried=st.integers(0, 40))
def test_as_many_masks_as_are_said_to_be_needed_are_enough_and_one_fewer_is_not_for_certain(seed, bound, tried):
    known, _, _ = _certificate(seed, 40, 9)
    f = torch.rand(40, 1, generator=torch.Generator().manual_seed(seed + 1))
    rounding = torch.full((1,), 1e-5)
    needed = known.needed(f[:tried], rounding, bound)
    assert needed >= tried
    if needed < 40:
        rest = torch.zeros(needed - tried, 1)  # the least that they can score: no map has a smaller maximum then
        assert max(known.enclosure(torch.cat([f[:tried], rest]), rounding).errors) <= bound + 1e-4
        assert max(known.enclosure(f[:needed], rounding).errors) <= bound + 1e-4
    if tried < needed - 1:
        rest = torch.zeros(needed - 1 - tried, 1)
        assert max(known.enclosure(torch.cat([f[:tried], rest]), torch.zeros(1)).errors) > bound - 1e-3


def test_a_contrast_is_no_less_than_its_losses_and_no_more_than_its_gains():
    contrast = Target(0, ((0, 1.0), (1, -0.5), (2, -0.5)))
    known, sums, _ = _certificate(0, targets=(ONE, contrast))
    assert (known.least.tolist(), known.most.tolist()) == ([0, -1], [1, 1])
    found = known.enclosure(torch.zeros(0, 2), torch.zeros(2))
    assert found.high[1].tolist() == pytest.approx((math.e * sums.sum(0)).tolist())
    assert found.low[1].tolist() == pytest.approx((sums.sum(0) / math.e).tolist())


def test_rounding_widens_what_is_known_and_tells_scores_that_are_none():
    known, _, _ = _certificate(0)
    f = torch.full((6, 1), 0.5)
    rounding = known.rounding(torch.tensor([[3.0, -40.0]]), torch.empty(0, 2))
    assert float(rounding) == pytest.approx(40 * 5e-5)
    exact, widened = known.enclosure(f, torch.zeros(1)), known.enclosure(f, rounding)
    assert bool((exact.high == exact.low).all())
    assert bool((widened.high > exact.high).all() & (widened.low < exact.low).all())
    assert known.holds(f, rounding)
    assert known.holds(torch.tensor([[1 + 1e-3]]), rounding)
    assert not known.holds(torch.tensor([[0.5], [1.01]]), rounding)
    assert not known.holds(torch.tensor([[-0.01]]), rounding)


def test_a_map_of_zeros_is_known_and_one_that_may_be_zero_is_not():
    zero = Certificate(torch.zeros(3, 4), torch.ones(3), (ONE,))
    assert zero.enclosure(torch.zeros(1, 1), torch.zeros(1)).errors == [0.0]
    either = Certificate(torch.tensor([[1.0], [-1.0]]), torch.ones(2), (ONE,))
    assert either.enclosure(torch.zeros(0, 1), torch.zeros(1)).errors == [math.inf]


def test_masks_that_tell_most_are_first_and_all_are_there_once():
    sums = torch.rand(50, 9, generator=torch.Generator().manual_seed(0)) ** 8
    order = telling_order(sums, torch.tensor(7))
    assert int(order[0]) == 7
    assert sorted(order.tolist()) == list(range(50))
    assert telling_order(torch.zeros(3, 4), torch.tensor(1)).unique().tolist() == [0, 1, 2]

    def width(order: Tensor, tried: int) -> float:
        return float(sums[order[tried:]].sum(0).max())

    by_strength = torch.cat([order[:1], sums.amax(1).argsort(descending=True)])
    by_strength = by_strength[torch.tensor([i == 0 or int(m) != 7 for i, m in enumerate(by_strength)])]
    assert all(width(order, tried) <= width(by_strength, tried) for tried in (10, 20, 30))
