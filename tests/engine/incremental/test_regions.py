"""Regions hold what a change reaches, and no more than the recurrence says."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.incremental.recording.writing import write_down
from service.engine.incremental.regions import Region, reached
from tests import tiny
from tests.engine.incremental.checks import noise


def test_a_row_at_a_time_needs_the_size_that_the_recurrence_says():
    """Nakandala et al. 2019, section 3: side min(ceil((p + k - 1) / s), size)."""
    recording = write_down(tiny.classifier(), noise(2, 3, 32, 32))
    regions = reached(recording, recording.furthest, Region.of(np.array([[10, 12]]), (4, 4)))
    met = [(node.name, r.size) for node, r in zip(recording.nodes, regions, strict=True) if r]
    # conv 3: 4 + 2; pool 2 of [9, 15): [4, 8); conv 3: 4 + 2
    expected = [("conv2d", (6, 6)), ("max_pool2d", (4, 4)), ("conv2d", (6, 6))]
    assert [pair for pair in met if pair[0] in ("conv2d", "max_pool2d")] == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_regions_hold_all_that_a_change_reaches(data):
    """Rows whose rectangles begin alike may still differ in how far changes reach."""
    bound = data.draw(st.integers(1, 12))

    def region():
        ends = [sorted(data.draw(st.tuples(*[st.integers(0, bound)] * 2))) for _ in range(6)]
        pairs = np.array(ends).reshape(3, 2, 2)
        return Region.around(pairs[..., 0], pairs[..., 1], (bound, bound))

    parts = [region(), region()]
    for held in [*parts, Region.union(parts, (bound, bound))]:
        end = held.start + np.array(held.size)
        assert (held.start >= 0).all()
        assert (end <= bound).all()
        assert ((held.low >= held.start) & (held.high <= end))[held.low < held.high].all()
    for part in parts:
        assert (held.low <= part.low).all()
        assert (held.high >= part.high).all()
