"""Numbers on demand: each is there, or says why not."""

from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from service.client import wire
from service.comparison import metrics
from service.contract import Explanation, Map, Target
from service.faithfulness.gain import Gain

ALL = list(get_args(wire.Metric))


def test_all_metrics_of_a_cam(compared) -> None:
    (one,) = compared(methods=["grad-cam"], metrics=ALL, box=[15, 5, 45, 35], targets=[3]).entries
    (found,) = one.metrics
    there = {name for name in ALL if getattr(found, name.replace("-", "_")) is not None}
    assert there | found.reasons.keys() == set(ALL)
    assert not there & found.reasons.keys()
    assert {"sparsity", "stability", "random-logit", "localisation", "road"} <= there
    assert 0 <= found.sparsity <= 1
    assert found.stability.largest > 0
    assert found.stability.seeds is None  # it draws nothing
    assert 0 <= found.random_logit <= 1
    assert found.localisation.area == pytest.approx((30 * 30) / (40 * 40), rel=0.15)


def test_only_what_is_asked_for_is_there(compared) -> None:
    (one,) = compared(methods=["saliency"], metrics=["sparsity"]).entries
    assert one.metrics[0].model_dump(exclude_unset=True).keys() == {"sparsity", "reasons"}


def test_a_method_without_targets_says_why(compared) -> None:
    (one,) = compared(methods=["eigen-cam"], metrics=ALL, box=[15, 5, 45, 35]).entries
    (found,) = one.metrics
    assert set(found.reasons) == set(ALL) - {"sparsity"}


def test_a_box_elsewhere_says_why(compared) -> None:
    (one,) = compared(methods=["saliency"], metrics=["localisation"], box=[900, 900, 950, 950]).entries
    assert "outside" in one.metrics[0].reasons["localisation"]


def test_methods_that_draw_have_a_spread_over_seeds(compared) -> None:
    asked = [{"method": "smooth-grad", "params": {"samples": 4}}]
    (one,) = compared(methods=asked, metrics=["stability"]).entries
    assert one.problem is None, one.problem
    assert one.metrics[0].stability.seeds > 0


@pytest.mark.parametrize("far", [1e9, 1e39, 1.7e308])
def test_a_box_beyond_all_numbers_of_the_network_is_all_of_the_picture(compared, far) -> None:
    (one,) = compared(methods=["saliency"], metrics=["localisation"], box=[0, 0, far, far]).entries
    assert (one.metrics[0].localisation.energy, one.metrics[0].localisation.area) == (1, 1)


def test_a_number_that_meets_a_defect_ends_no_other(compared, monkeypatch, caplog) -> None:
    def broken(of: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(metrics._MEASURES, "curves", broken)
    (one,) = compared(methods=["saliency"], metrics=["curves", "sparsity"]).entries
    assert one.metrics[0].reasons == {"curves": "the server met a defect of its own; its log holds the cause"}
    assert one.metrics[0].sparsity is not None
    assert "defect while measuring 'curves' of 'saliency'" in caplog.text


def test_a_map_moves_from_that_of_its_own_target() -> None:
    """A method may answer more than it is asked about: RAM has a map of each value."""
    values = [Target(0), Target(1)]
    found = Explanation([Map("ram", torch.full((2, 2), i + 1.0), "signed", target=t) for i, t in enumerate(values)])
    entry = metrics.Found("ram", explanation=found, again=lambda x, targets, seed: found)
    trial: Any = SimpleNamespace(
        x=torch.zeros(1, 3, 4, 4), facts=SimpleNamespace(std=(1.0,) * 3), targets=values, number=lambda t: t.index
    )
    asked: Any = None
    for i in range(2):
        of = metrics._Map(asked, entry, i, Gain(), trial, None)
        assert metrics._stability(of).largest == 0
