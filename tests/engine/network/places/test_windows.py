"""Two windows tell to the pixel where the first and the last cell look."""

import pytest
import torch
from torch.nn import functional as F

from service.engine.network.places.windows import Window, in_place, pair, spans, unread

SIDE = 64


def _windows(before, kernel, stride, padding):
    """Return the windows of two cells of a convolution behind something, by rows, and how many cells there are."""
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.rand(4, 3, kernel, kernel, generator=torch.Generator().manual_seed(1)) + 0.1
    maps = F.conv2d(before(x), weight, stride=stride, padding=padding)
    found = []
    for i in pair(maps.shape[2]):
        (gradient,) = torch.autograd.grad(maps[0, :, i, i].sum(), x, retain_graph=True)
        rows, columns = spans(gradient, (i, i))
        assert rows == columns
        found.append(rows)
    return *found, maps.shape[2]


def _blanked(x):
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 4:-4, 4:-4] = 1
    return x * mask


KERNELS = [(3, 1, 1), (3, 2, 1), (7, 2, 3), (4, 4, 0), (8, 8, 0), (5, 1, 0)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_blanked_stays_where_it_is(kernel) -> None:
    for before in (lambda x: x, _blanked, lambda x: F.interpolate(x, (48, 48), mode="bilinear")):
        assert in_place(*_windows(before, *kernel), SIDE) is True


@pytest.mark.parametrize("kernel", KERNELS[:2])
def test_what_is_cut_off_moves_the_rest_by_pixels(kernel) -> None:
    for before in (
        lambda x: x[..., 3:-3, 3:-3],
        lambda x: F.interpolate(x[..., 4:-4, 4:-4], (SIDE, SIDE), mode="bilinear"),
        lambda x: x[..., 3:, 3:],
    ):
        assert in_place(*_windows(before, *kernel), SIDE) is False


def test_windows_that_are_cut_by_the_picture_or_differ_tell_nothing() -> None:
    assert in_place(Window(2, 0, 20), Window(5, 30, 50), 8, 64) is None
    assert in_place(Window(2, 12, 20), Window(5, 50, 64), 8, 64) is None
    assert in_place(Window(2, 12, 20), Window(5, 30, 50), 8, 64) is None
    assert in_place(Window(2, 12, 20), Window(5, 13, 21), 8, 64) is None


def test_what_a_score_does_not_depend_on() -> None:
    gradient = torch.zeros(1, 3, 8, 9)
    assert unread(gradient) is None
    assert spans(gradient, (0, 0)) is None
    gradient[0, 1, 2:7, 3] = -1
    gradient[0, 2, 4, 8] = 1
    assert unread(gradient) == (2, 1, 3, 0)
