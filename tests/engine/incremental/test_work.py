"""Boxes worked off as far as they reach answer what the network answers on the rows themselves."""

import pytest
import torch
from torch import nn

from service.contract import Boxes
from service.engine.incremental import Incremental
from service.engine.incremental.work import BoxesWork, plan_of
from service.engine.network.variants import EXACT
from tests import tiny
from tests.engine.incremental.checks import noise

GRID = tuple((x, y, min(x + 12, 32), min(y + 9, 32)) for y in range(0, 32, 8) for x in range(0, 32, 8))


@pytest.fixture
def network():
    return tiny.classifier()


def boxes_of(seed, boxes=GRID):
    return Boxes.on(noise(1, 3, 32, 32, seed=seed), noise(3, 32, 32, seed=seed + 10), boxes)


def assert_equal(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= EXACT * expected.abs().max()


@torch.inference_mode()
def test_pieces_of_several_pictures_are_answered_together(network):
    """At an edge boxes are smaller; the first row is the picture itself."""
    built = Incremental.of(network, noise(1, 3, 32, 32))
    plan, rows = built.plan((9, 12)), [boxes_of(seed) for seed in (1, 2, 3)]
    works = [BoxesWork(None, built, plan, each) for each in rows]
    assert len({work.key for work in works}) == 1
    cuts = [(0, 1), (3, 17), (0, 9)]
    found = works[0].together([work.build(i, j) for work, (i, j) in zip(works, cuts, strict=True)])
    for outputs, each, (i, j) in zip(found, rows, cuts, strict=True):
        assert_equal(outputs, network(each.build(i, j)))


@pytest.mark.parametrize("channels", [1, 2, 4])
@torch.inference_mode()
def test_pictures_have_as_many_channels_as_the_network_takes(channels):
    """The clean picture alone, too, which has no box."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 3, 1), tiny.classifier()).eval()
    built = Incremental.of(network, noise(2, channels, 32, 32))
    rows = Boxes.on(noise(1, channels, 32, 32, seed=1), noise(channels, 32, 32, seed=2), GRID)
    work = BoxesWork(None, built, built.plan((9, 12)), rows)
    found = work.together([work.build(0, 1), work.build(1, len(GRID) + 1)])
    assert_equal(torch.cat(found), network(rows.build(0, len(GRID) + 1)))


@torch.inference_mode()
def test_it_holds_what_it_said_until_its_last_row(network):
    built = Incremental.of(network, noise(1, 3, 32, 32))
    work = BoxesWork(None, built, built.plan((9, 12)), boxes_of(1))
    assert work.clean is None
    piece = work.build(0, 4)
    assert work.build(4, 6).clean is piece.clean is work.clean
    assert work.clean.nbytes == work.memory
    work.release()
    assert work.clean is None


def test_a_plan_has_the_size_of_the_largest_box_and_the_step_of_all_corners(network, monkeypatch):
    built = Incremental.of(network, noise(1, 3, 32, 32))
    monkeypatch.setattr("service.engine.incremental.work.PAYS", 0.0)
    plan = plan_of(built, boxes_of(1, ((0, 0, 8, 8), (4, 8, 12, 12))))
    assert (plan.window, plan.step) == ((8, 8), 4)
    plan = plan_of(built, boxes_of(1, ((0, 0, 8, 8), (28, 8, 32, 16))))  # moved inside, the second begins at x = 24
    assert (plan.window, plan.step) == ((8, 8), 8)


def test_plain_rows_are_taken_where_boxes_do_not_pay(network, monkeypatch):
    built = Incremental.of(network, noise(1, 3, 32, 32))
    assert plan_of(built, boxes_of(1, ())) is None
    monkeypatch.setattr("service.engine.incremental.work.PAYS", 1e9)
    assert plan_of(built, boxes_of(1)) is None
