"""Cells look at their own places in convolutions of every kind, and elsewhere where the picture was moved before."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from service.engine.network.places.grids import changed
from service.engine.network.places.looking import ROWS, own_places, probed

SIZE = 64, 57
ELSEWHERE = False, "unread"
AT_HOME = True, None


def _probed(size=SIZE):
    return probed(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)))


def _convolved(x, kernel, stride=1, padding=0, channels=8):
    weight = torch.randn(channels, x.shape[1], kernel, kernel, generator=torch.Generator().manual_seed(kernel))
    return F.conv2d(x, weight, stride=stride, padding=padding)


def _kernels() -> Iterator[tuple[int, int, int]]:
    """Yield kernels, strides and paddings: all that look at no more than their kernel beside the picture."""
    for kernel in (1, 2, 3, 5, 8, 11, 31):
        for stride in {1, 2, 3, 4, kernel // 2, kernel} - {0}:
            for padding in {0, (kernel - 1) // 2, kernel // 2}:
                yield kernel, stride, padding


def test_convolutions_look_at_their_own_places() -> None:
    x = _probed()
    for kernel, stride, padding in _kernels():
        for maps in (
            once := _convolved(x, kernel, stride, padding),
            once.relu(),
            _convolved(once, 3, 2, 1),
            _convolved(once.relu(), 3) if min(once.shape[2:]) > 2 else once,
            once - once.mean((1, 2, 3), keepdim=True),  # which all of the picture counts for
        ):
            assert own_places(maps, SIZE, grid=True) in AT_HOME, (kernel, stride, padding)
            assert own_places(maps, SIZE, grid=False) in AT_HOME, (kernel, stride, padding)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "area", "bicubic"])
@pytest.mark.parametrize("side", [5, 8, 16, 20, 32, 90])
def test_a_picture_of_another_size_keeps_its_places(mode, side) -> None:
    for size in ((64, 64), SIZE):
        x = F.interpolate(_probed(size), (side, side), mode=mode)
        for kernel, stride in ((1, 1), (3, 1), (3, 2), (4, 4)):
            maps = _convolved(x, kernel, stride, (kernel - 1) // 2)
            assert own_places(maps, size, grid=True) in AT_HOME, (size, kernel, stride)


def test_a_fine_grid_is_known_to_be_in_its_place() -> None:
    assert own_places(_convolved(_probed(), 3, 2, 1), SIZE, grid=True) is True
    masked = _probed()
    masked[..., :7] = 0  # what lies there is not read, and all else is where it was
    assert own_places(_convolved(masked, 3, 2, 1), SIZE, grid=True) is True


MOVES = {
    "cropped": lambda x: x[..., 8:-8, 8:-8],
    "cropped a little": lambda x: x[..., 5:-5, 5:-5],
    "cropped and resized": lambda x: F.interpolate(x[..., 6:-6, 6:-6], x.shape[2:], mode="bilinear"),
    "its left part": lambda x: x[..., :40],
    "its lower part": lambda x: x[..., 24:, :],
    "padded": lambda x: F.pad(x, (10,) * 4),
    "padded with its edge": lambda x: F.pad(x, (10,) * 4, mode="replicate"),
    "padded and resized": lambda x: F.interpolate(F.pad(x, (12,) * 4), x.shape[2:], mode="bilinear"),
    "padded on one side": lambda x: F.pad(x, (16, 0, 0, 0)),
    "rolled to the right": lambda x: x.roll(8, 3),
    "rolled up": lambda x: x.roll(-8, 2),
    "rolled by half": lambda x: x.roll((28, 32), (3, 2)),
    "shifted": lambda x: F.pad(x, (-9, 9, 0, 0)),
    "mirrored": lambda x: x.flip(3),
    "zoomed": lambda x: F.grid_sample(
        x, F.affine_grid(torch.eye(2, 3)[None].repeat(len(x), 1, 1) * 0.7, x.shape, False), align_corners=False
    ),
}


@pytest.mark.parametrize("kernel", [(3, 1, 1), (3, 2, 1), (5, 1, 0), (4, 4, 0)])
@pytest.mark.parametrize("name", MOVES)
def test_a_picture_that_was_moved_is_elsewhere(name, kernel) -> None:
    """Whatever moved it: no network in here is known to the test that finds it."""
    assert own_places(_convolved(MOVES[name](_probed()), *kernel), SIZE, grid=True) in ELSEWHERE


def test_windows_side_by_side_look_where_their_middle_is() -> None:
    """As outlook attention unfolds them: nine numbers a channel, of which a few channels must not all be one corner."""
    x = _convolved(_probed((64, 64)), 4, 4, channels=64)  # 16 x 16
    maps = F.unfold(x, 3, padding=1, stride=2).unflatten(2, (8, 8))  # (9, 576, 8, 8)
    assert own_places(maps, (64, 64), grid=True) in AT_HOME


def test_a_coarse_grid_of_a_blanked_margin_may_be_elsewhere() -> None:
    """Cells of an eighth cannot tell it from one that was cut off."""
    masked = _probed((64, 64))
    masked[..., :7, :], masked[..., -9:, :], masked[..., :7], masked[..., -9:] = 0, 0, 0, 0
    assert own_places(_convolved(masked, 8, 8), (64, 64), grid=True) == "unread"


def test_few_cells_that_look_at_none_of_a_margin() -> None:
    """Patches of an eighth of the picture, from a crop by one patch on each side, and from a picture padded by one."""
    x = _probed((64, 64))
    assert own_places(_convolved(x[..., 8:-8, 8:-8], 8, 8), (64, 64), grid=True) in ELSEWHERE
    assert own_places(_convolved(F.pad(x, (8,) * 4), 8, 8), (64, 64), grid=True) in ELSEWHERE
    assert own_places(_convolved(x, 8, 8), (64, 64), grid=True) is None


def test_what_tells_nothing() -> None:
    x = _probed()
    maps = _convolved(x[..., 8:-8, 8:-8], 3)
    assert own_places(maps[: ROWS - 1], SIZE, grid=True) is None
    assert own_places((maps[:, :1] - maps[0, 0].median()).relu(), SIZE, grid=True) is None
    assert own_places(torch.zeros_like(maps), SIZE, grid=True) is None
    assert own_places(maps.half(), SIZE, grid=True) is None
    assert own_places(maps * torch.inf, SIZE, grid=True) is None
    tokens = F.unfold(x, 8, stride=8).unflatten(1, (8, 24)).mT.flatten(1, 1)  # axes of patches and of their numbers
    assert own_places(tokens, SIZE, grid=False) is None


def test_rows_are_a_picture_its_squares_and_its_margins() -> None:
    x = torch.zeros(1, 2, 32, 48)
    rows = probed(x)
    assert len(rows) == ROWS
    assert torch.equal(rows[:-2], changed(x))
    touched = rows[-2:, 0].ne(0)
    assert touched[0].sum() == 32 * 48 - 30 * 45
    assert touched[0, :2].all()
    assert touched[0, :, :3].all()
    assert touched[1].sum() == 32 * 48 - 28 * 42
    assert touched[1, -4:].all()
    assert touched[1, :, -6:].all()
    assert rows.unique().tolist() == [0, 2]  # corners are changed once
