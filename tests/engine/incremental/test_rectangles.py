"""Rectangles are copied as slices would be, value by value."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.incremental.rectangles import CleanMap, channels_last, cut, lines, paste, places
from tests.engine.incremental.checks import noise


def test_a_clean_map_has_its_border():
    x = noise(1, 2, 3, 5, 4)  # its channels have two axes
    found = CleanMap.of(x, -7.0, (1, 2), (3, 0))
    assert found.values.shape == (1 + 5 + 3, 2 + 4 + 0, 6)
    assert found.nbytes == 4 * 9 * 6 * 6
    inside = torch.zeros(9, 6, dtype=torch.bool)
    inside[1:6, 2:6] = True
    assert (found.values[~inside] == -7).all()
    for y in range(5):
        for x_ in range(4):
            assert torch.equal(found.values[1 + y, 2 + x_], x[0, :, :, y, x_].flatten())


@st.composite
def cuts(draw):
    bounds = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    before = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    size = tuple(draw(st.integers(1, b + p)) for b, p in zip(bounds, before, strict=True))
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    alike = draw(st.booleans())
    starts = [
        [draw(st.integers(-p, b - s)) for b, p, s in zip(bounds, before, size, strict=True)]
        for _ in range(1 if alike else sum(lengths))
    ]
    return bounds, before, size, lengths, np.array(starts * (sum(lengths) if alike else 1), np.int64)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cuts())
def test_rectangles_are_cut_from_each_rows_own_map(given):
    bounds, before, size, lengths, start = given
    maps = [CleanMap.of(noise(1, 3, *bounds, seed=i), 5.0, before, (0, 0)) for i in range(len(lengths))]
    found = cut(maps, lengths, lines(maps[0], start, size), size)
    owners = [clean for clean, length in zip(maps, lengths, strict=True) for _ in range(length)]
    assert found.shape == (sum(lengths), *size, 3)
    for row, clean, (y, x) in zip(found, owners, (start + np.array(before)).tolist(), strict=True):
        assert torch.equal(row, clean.values[y : y + size[0], x : x + size[1]])


@st.composite
def pastes(draw):
    bounds, size = (tuple(draw(st.integers(1, 6)) for _ in range(2)) for _ in range(2))
    rows, alike = draw(st.integers(1, 4)), draw(st.booleans())
    offsets = [
        [draw(st.integers(-s, b)) for b, s in zip(bounds, size, strict=True)] for _ in range(1 if alike else rows)
    ]
    return bounds, size, np.array(offsets * (rows if alike else 1), np.int64)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pastes())
def test_patches_are_pasted_and_what_lies_outside_is_dropped(given):
    bounds, size, offset = given
    into, patch = noise(len(offset), *bounds, 2), noise(len(offset), *size, 2, seed=1)
    expected = into.clone()
    for row, (y, x) in enumerate(offset.tolist()):
        for i in range(size[0]):
            for j in range(size[1]):
                if 0 <= y + i < bounds[0] and 0 <= x + j < bounds[1]:
                    expected[row, y + i, x + j] = patch[row, i, j]
    paste(into, patch, places(offset, bounds, size, into.device))
    assert torch.equal(into, expected)


@pytest.mark.parametrize("axes", [(4,), (2, 3)])
def test_channels_come_last_however_many_axes_they_have(axes):
    x = noise(2, *axes, 3, 5)
    found = channels_last(x)
    assert torch.equal(found[1, 2, 4], x[1, ..., 2, 4].flatten())
    assert found.shape == (2, 3, 5, x[0, ..., 0, 0].numel())
