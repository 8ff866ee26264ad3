"""Measured quantities: one or several, upwards or downwards."""

import pytest

from service.errors import InvalidParameter
from tests.tasks.conftest import Trunk, pooled
from tests.tasks.methods import check_methods


@pytest.fixture(scope="module")
def subject(make):
    return make(Trunk(pooled), "regression", labels=("a", "b", "c", "d"))


def test_methods_upwards_and_downwards(subject, x) -> None:
    check_methods(subject, x, {"output": "c"}, lambda y: y[0, 2], "value")
    check_methods(subject, x, {"output": 2, "direction": "down"}, lambda y: -y[0, 2], "value")


def test_all_values_are_predicted_and_explained(subject, x) -> None:
    y = subject.plain(x)[0]
    found = subject.task.predictions(subject.answer(x), subject.facts, 2)
    assert [p.value for p in found] == pytest.approx(y.tolist(), rel=1e-4)
    assert [t.index for t in subject.task.default(y)] == [0, 1, 2, 3]
    (down,) = subject.task.read([{"output": 1, "direction": "down"}], subject.facts)
    assert subject.task.strength(down, y) == float(y[1])


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        (0, "/targets"),
        ("a", "/targets"),
        ({"output": 4}, "/targets/0/output"),
        ({"output": 0, "direction": "left"}, "/targets/0/direction"),
        ({"class": 0}, "/targets/0/class"),
        ({}, "/targets/0"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_field(subject, asked, pointer) -> None:
    with pytest.raises(InvalidParameter) as caught:
        subject.task.read([asked], subject.facts)
    assert caught.value.errors[0].pointer == pointer
