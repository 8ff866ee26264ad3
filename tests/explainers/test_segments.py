import itertools
import math

import numpy as np
import pytest
import torch
from skimage import color, measure, segmentation

from service.explainers.segments import components, cut, grid, lab, slic, squares
from service.process import ALL_THREADS, use_threads
from tests import oracles


def picture(name: str, size: int = 96) -> torch.Tensor:
    """Return a photograph in 0..1, (3, size, size)."""
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (oracles.IMAGENET_STD, oracles.IMAGENET_MEAN))
    return (oracles.photograph(name, size)[0] * std + mean).clamp(0, 1)


def slowly(p: torch.Tensor, count: int, compactness: float, rounds: int) -> np.ndarray:
    """SLIC pixel by pixel in double, on scikit-image's colours, its pieces found by scikit-image."""
    colours = color.rgb2lab(p.permute(1, 2, 0).double().numpy())
    h, w = colours.shape[:2]
    rows, columns = grid((h, w), count)
    points = {
        (y, x): np.array([*colours[y, x], y / h * rows * compactness, x / w * columns * compactness])
        for y in range(h)
        for x in range(w)
    }
    home = {(y, x): (y * rows // h, x * columns // w) for y, x in points}
    label, centres = dict(home), {}
    for _ in range(rounds):
        for cell in itertools.product(range(rows), range(columns)):
            own = [points[at] for at in points if label[at] == cell]
            centres[cell] = sum(own) / len(own) if own else np.full(5, np.inf)
        for at, (row, column) in home.items():
            near = [c for c in centres if abs(c[0] - row) <= 1 and abs(c[1] - column) <= 1]
            label[at] = min(near, key=lambda c: ((points[at] - centres[c]) ** 2).sum())
    numbers = np.array([[label[y, x][0] * columns + label[y, x][1] for x in range(w)] for y in range(h)])
    kept = np.full((h, w), -1)
    for number in np.unique(numbers):
        pieces = measure.label(numbers == number, connectivity=1)
        sizes = [(pieces == i).sum() for i in range(1, pieces.max() + 1)]
        kept[pieces == 1 + int(np.argmax(sizes))] = number
    while (kept < 0).any():
        before = kept.copy()
        for y, x in np.argwhere(before < 0):
            sides = [(y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)]
            there = [before[b, a] for b, a in sides if 0 <= b < h and 0 <= a < w and before[b, a] >= 0]
            if there:
                kept[y, x] = min(there, key=lambda n: ((points[y, x] - centres[divmod(n, columns)]) ** 2).sum())
    return np.unique(kept, return_inverse=True)[1].reshape(h, w)


@pytest.mark.parametrize(
    ("size", "count", "compactness"), [((24, 36), 12, 10.0), ((31, 17), 6, 3.0), ((20, 20), 9, 30)]
)
@pytest.mark.parametrize("kind", ["noise", "photograph"])
def test_superpixels_are_those_of_a_loop(size, count, compactness, kind):
    h, w = size
    p = picture("coffee", 36)[:, :h, :w] if kind == "photograph" else torch.rand(3, h, w, generator=_seeded())
    found = slic(p, count, compactness, rounds=4)
    assert found.tolist() == slowly(p, count, compactness, rounds=4).tolist()
    assert not torch.equal(found, squares(size, count))


@pytest.mark.parametrize("name", oracles.PHOTOGRAPHS)
@pytest.mark.parametrize("count", [10, 50, 200])
def test_superpixels_tell_colours_apart_as_well_as_scikit_images_do(name, count):
    p = picture(name, 128)
    theirs = segmentation.slic(p.permute(1, 2, 0).numpy(), count, compactness=10, start_label=0)
    ours, square = slic(p, count), squares((128, 128), count)
    assert 0.9 * count <= int(ours.max()) + 1 <= count
    left = [_left(p, labels) for labels in (ours, torch.from_numpy(theirs), square)]
    # Theirs may be more than were asked for: what is left of the variance falls about as the number grows.
    assert left[0] <= 1.1 * left[1] * max(1, (theirs.max() + 1) / (int(ours.max()) + 1))
    assert left[0] < 0.9 * left[2]


def _left(p: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of the colours' variance (CIELAB) that lies inside of the parts."""
    x = torch.from_numpy(color.rgb2lab(p.permute(1, 2, 0).numpy())).reshape(-1, 3).double()
    parts = [x[labels.flatten() == i] for i in range(int(labels.max()) + 1)]
    return float(sum(((part - part.mean(0)) ** 2).sum() for part in parts) / ((x - x.mean(0)) ** 2).sum())


@pytest.mark.parametrize("kind", ["slic", "squares"])
@pytest.mark.parametrize(("size", "count"), [((60, 90), 50), ((32, 32), 256), ((32, 32), 2), ((5, 3), 50), ((1, 9), 4)])
@pytest.mark.parametrize("noisy", [False, True])
def test_parts_are_connected_and_numbered_without_gaps(kind, size, count, noisy):
    p = torch.rand(3, *size, generator=_seeded()) if noisy else picture("chelsea", 90)[:, : size[0], : size[1]]
    labels = cut(p, kind, count)
    assert labels.shape == size
    assert labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    assert 2 <= int(labels.max()) + 1 <= count
    assert len(components(labels).unique()) == int(labels.max()) + 1


def test_a_flat_picture_is_cut_into_squares():
    flat = torch.full((3, 60, 48), 0.3)
    assert torch.equal(slic(flat, 20), squares((60, 48), 20))


def test_an_edge_between_colours_is_a_border():
    p = torch.zeros(3, 50, 50)
    p[0, :, 23:] = 1
    p[2, 31:] = 1
    labels = slic(p, 9)
    colours = [{tuple(c.tolist()) for c in p[:, labels == i].T} for i in range(int(labels.max()) + 1)]
    assert all(len(found) == 1 for found in colours)


def test_the_same_picture_is_cut_the_same_whatever_the_threads():
    p = picture("astronaut", 128)
    found = []
    for threads in (1, ALL_THREADS):
        use_threads(threads)
        found.append(slic(p, 50))
    assert torch.equal(*found)
    assert torch.equal(slic(p.clone().requires_grad_(), 50), found[0])


def test_what_is_beyond_a_pictures_values_is_clipped():
    p = picture("rocket", 40)
    wild = torch.where(p > 0.5, p + (p == 1) * 3, p - (p == 0) * 3)
    assert torch.equal(slic(wild, 12), slic(p, 12))


def test_pieces_are_those_of_scikit_image():
    labels = torch.randint(0, 3, (40, 30), generator=_seeded())
    spiral = torch.ones(11, 11, dtype=torch.int64)
    for i in range(0, 5, 2):
        spiral[i + 1 : 10 - i, i + 1 : 10 - i] = 1 - spiral[i, i]
        spiral[i + 1, i] = 0
    for one in (labels, spiral, torch.zeros(1, 1, dtype=torch.int64)):
        expected = torch.from_numpy(measure.label(one.numpy(), connectivity=1, background=-1))
        found = components(one)
        assert len({*zip(found.flatten().tolist(), expected.flatten().tolist(), strict=True)}) == int(expected.max())
        assert len(found.unique()) == int(expected.max())


def test_colours_are_scikit_images():
    rgb = torch.rand(3, 8, 9, generator=_seeded()) ** 3
    expected = torch.from_numpy(color.rgb2lab(rgb.permute(1, 2, 0).double().numpy())).permute(2, 0, 1)
    assert float((lab(rgb) - expected).abs().max()) < 0.05  # their constants have fewer digits


@pytest.mark.parametrize("size", [(224, 224), (64, 200), (7, 5), (1, 30), (2, 1)])
def test_a_grid_has_about_so_many_cells_about_square(size):
    for count in range(2, 257):
        rows, columns = grid(size, count)
        assert 1 <= rows <= size[0]
        assert 1 <= columns <= size[1]
        assert 2 <= rows * columns <= count
        cells = squares(size, count)
        assert int(cells.max()) + 1 == rows * columns
        if min(size) > 60 and count > 12:
            assert rows * columns >= 0.8 * count
            assert abs(math.log(size[0] / rows / (size[1] / columns))) < math.log(2)
            sizes = torch.bincount(cells.flatten())
            assert sizes.max() <= (size[0] // rows + 1) * (size[1] // columns + 1)
    assert grid((224, 224), 50) == (7, 7)
    assert grid((224, 224), 2) in ((1, 2), (2, 1))
    assert grid((1, 1), 5) == (1, 1)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
