"""Targets: what they make of a table, and who decides on them."""

import dataclasses

import pytest
import torch

from service.contract import Facts, Target, Targets
from service.tasks import TASKS, task

# Of these tasks targets need no look at the picture first: the others have readouts of their own.
TABLES = [name for name in TASKS if not task(name).looks]
TABLE = torch.tensor([[1.0, 5.0, 2.0], [9.0, 0.0, 3.0]])


def _facts(name: str = "classification") -> Facts:
    return Facts("net", task(name), 3, (32, 32), (0, 0, 0), (1, 1, 1), {}, None, None, 0)


def test_a_target_takes_its_column():
    assert Target(2)(TABLE).tolist() == [2, 3]
    assert Target(2)(TABLE[0]).item() == 2
    assert Target(1)(TABLE.expand(4, 2, 3)).shape == (4, 2)


def test_a_target_of_terms_is_linear():
    """A contrast of two outputs; its sign turns with its weights."""
    contrast, turned = Target(0, ((0, 1.0), (2, -1.0))), Target(0, ((0, -1.0), (2, 1.0)))
    assert contrast(TABLE).tolist() == [-1, 6]
    assert torch.equal(turned(TABLE), -contrast(TABLE))
    assert torch.equal(contrast(2 * TABLE + 1), 2 * contrast(TABLE))
    assert torch.equal(Target(1, ((1, 1.0),))(TABLE), Target(1)(TABLE))
    assert contrast(TABLE.double()).dtype == torch.float64


def test_named_targets_stay_and_others_are_the_pictures():
    named = Targets(_facts(), [2, Target(1)])
    assert (len(named), named.chosen(TABLE)) == (2, (Target(2), Target(1)))
    free = Targets(_facts())
    assert (len(free), free.chosen(TABLE)) == (1, (Target(1),))  # of the first row, which is the picture itself
    assert free.chosen(TABLE[1]) == (Target(0),)
    assert Targets(_facts("regression")).chosen(TABLE) == (Target(0), Target(1), Target(2))
    assert Targets(_facts(), []).chosen(TABLE) == ()


def test_once_decided_other_rows_do_not_decide_anew():
    decided = Targets(_facts()).fixed(TABLE)
    assert decided.chosen(TABLE[1:]) == (Target(1),)
    assert decided.columns(TABLE[1:]).tolist() == [[0.0]]


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_targets_values_in_their_order(name):
    targets = Targets(_facts(name), [2, 0])
    assert targets.columns(TABLE).tolist() == [[2, 1], [3, 9]]
    assert torch.equal(targets.scores(TABLE), targets.columns(TABLE))


def test_the_pictures_target_is_chosen_by_outputs_whatever_score_is_explained():
    """Of a task whose scores are in another order than its outputs."""

    class Distances(type(task("classification"))):  # type: ignore[misc]
        def scores(self, outputs: torch.Tensor, kind: str) -> torch.Tensor:
            return -outputs

    free = Targets(dataclasses.replace(_facts(), task=Distances()))
    assert free.scores(TABLE).tolist() == [[-5], [0]]
    assert torch.equal(Targets(_facts()).scores(TABLE, "probability"), TABLE.softmax(-1)[:, 1:2])


@pytest.mark.parametrize("name", TABLES)
def test_what_a_task_chooses_is_as_many_as_it_said(name):
    facts = _facts(name)
    assert len(facts.task.default(TABLE[0])) <= facts.task.most_by_default(facts)
    assert len(Targets(facts)) == facts.task.most_by_default(facts)
