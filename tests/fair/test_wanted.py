"""What a method works out by itself ends where nobody waits for it."""

import threading

import numpy as np
import pytest
import torch

from service.contract import still_wanted, wanted
from service.explainers.features.factors import factorised
from service.explainers.gradient.xrai import grown, ranked
from service.explainers.perturbation.extremal_perturbation import Spread
from service.explainers.perturbation.hsic import dependence
from service.explainers.segments import slic


class Gone(Exception):
    pass


def gone() -> None:
    raise Gone


def test_who_waits_is_known_within_the_block_and_its_thread_alone() -> None:
    asked: list[str] = []
    still_wanted()
    with wanted(lambda: asked.append("outer")):
        still_wanted()
        with wanted(lambda: asked.append("inner")):
            still_wanted()
            other = threading.Thread(target=still_wanted)
            other.start()
            other.join()
        with pytest.raises(Gone), wanted(gone):
            still_wanted()
        still_wanted()
    still_wanted()
    assert asked == ["outer", "inner", "outer"]


SPREAD = Spread((8, 8), 2, 4.0, torch.device("cpu"))
GRID = torch.ones(SPREAD.grid)
SMOOTH = SPREAD(GRID)
SEGMENTS = [np.array([0, 1]), np.array([2, 3])]


@pytest.mark.parametrize(
    "work",
    [
        lambda: SPREAD(GRID),
        lambda: SPREAD.gradient(GRID, SMOOTH, torch.ones_like(SMOOTH.mask)),
        lambda: grown(torch.zeros(4, 4, dtype=torch.int64), 1),
        lambda: ranked(np.ones((2, 2)), SEGMENTS, 1),
        lambda: slic(torch.zeros(3, 8, 8), 2),
        lambda: factorised(torch.ones(3, 4), 2),
        lambda: dependence(torch.ones(4, 2), torch.arange(4.0)),
    ],
)
def test_loops_whose_length_parameters_choose_look(work) -> None:
    work()
    with pytest.raises(Gone), wanted(gone):
        work()
