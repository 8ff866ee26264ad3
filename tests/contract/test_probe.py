"""Rows that are built when they are needed, and traces that are cut and put together again."""

import itertools

import pytest
import torch

from service.contract import INPUT, Boxes, Pairs, Rows, Trace, fingerprint

H, W = 6, 9
IMAGE = torch.randn(1, 3, H, W, generator=torch.Generator().manual_seed(0))
FILLING = torch.randn(3, H, W, generator=torch.Generator().manual_seed(1))
BOXES = [(0, 0, 2, 1), (4, 2, 4, 5), (0, 0, 9, 6), (7, 3, 9, 6)]  # a corner, nothing, everything, the other corner


def _boxed() -> torch.Tensor:
    """The picture, and it with each box filled, pixel by pixel."""
    rows = IMAGE.repeat(1 + len(BOXES), 1, 1, 1)
    for row, (x0, y0, x1, y1) in enumerate(BOXES, 1):
        for y, x in itertools.product(range(H), range(W)):
            if x0 <= x < x1 and y0 <= y < y1:
                rows[row, :, y, x] = FILLING[:, y, x]
    return rows


@pytest.mark.parametrize("cut", range(1, len(BOXES) + 2))
def test_boxes_are_filled_however_they_are_cut(cut):
    rows, before = Boxes.on(IMAGE, FILLING, BOXES), IMAGE.clone()
    assert rows.count == 1 + len(BOXES)
    built = [rows.build(i, min(i + cut, rows.count)) for i in range(0, rows.count, cut)]
    assert torch.equal(torch.cat(built), _boxed())
    assert torch.equal(IMAGE, before)


def test_boxes_do_not_follow_the_callers_list():
    boxes = list(BOXES)
    rows = Boxes.on(IMAGE, FILLING, boxes)
    boxes.clear()
    assert torch.equal(rows.build(0, rows.count), _boxed())


def test_rows_that_are_there_are_sliced():
    x = torch.arange(5.0).view(5, 1, 1, 1)
    rows = Rows.of(x, key="k")
    assert (rows.count, rows.key) == (5, "k")
    assert rows.build(1, 3).flatten().tolist() == [1, 2]


def test_pairs_are_sliced_together():
    x = torch.arange(5.0).view(5, 1, 1, 1)
    pairs = Pairs.beside(x, x + 10)
    assert pairs.count == 5
    assert pairs.build(1, 3).flatten().tolist() == [1, 2]
    assert pairs.references(1, 3).flatten().tolist() == [11, 12]


def test_a_fingerprint_tells_pictures_apart_by_their_values():
    other = IMAGE.clone()
    other[0, 0, 0, 0] += 1e-6
    assert fingerprint(IMAGE) != fingerprint(other)
    strided = IMAGE.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert not strided.is_contiguous()
    assert fingerprint(strided) == fingerprint(IMAGE)


def _trace(first: int, count: int) -> Trace:
    """Rows whose values are their numbers; gradients differ by column, too."""
    row = torch.arange(first, first + count, dtype=torch.float32)
    return Trace(
        outputs=row.view(-1, 1).expand(-1, 4),
        activations={"conv": row.view(-1, 1, 1, 1).expand(-1, 2, 3, 3)},
        objective=torch.stack([row, 10 * row], 1),
        gradients={INPUT: torch.stack([row, 10 * row]).view(2, -1, 1, 1, 1).expand(-1, -1, 3, 2, 2)},
        first=first,
        references=-row.view(-1, 1).expand(-1, 4),
    )


def test_a_trace_in_pieces_is_the_whole_one():
    whole, joined = _trace(0, 7), Trace.joined([_trace(0, 3), _trace(3, 1), _trace(4, 3)])
    assert joined.first == 0
    assert torch.equal(joined.outputs, whole.outputs)
    assert torch.equal(joined.references, whole.references)
    assert torch.equal(joined.objective, whole.objective)
    assert torch.equal(joined.activations["conv"], whole.activations["conv"])
    assert torch.equal(joined.gradients[INPUT], whole.gradients[INPUT])


def test_totals_of_pieces_add_up_to_those_of_the_whole():
    def total(piece):
        assert piece.activations
        return piece.activations["conv"].sum(0), piece.gradients[INPUT].sum(1)

    whole = _trace(0, 7).totalled(total)
    joined = Trace.joined([_trace(0, 3).totalled(total), _trace(3, 4).totalled(total)])
    for a, b in zip(joined.totals, whole.totals, strict=True):
        assert torch.equal(a, b)
    assert (dict(joined.activations), dict(joined.gradients)) == ({}, {})  # whose memory a total is to save
    assert torch.equal(joined.outputs, _trace(0, 7).outputs)
    one = _trace(0, 3)
    assert one.totalled(None) is one
