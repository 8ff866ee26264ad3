"""Outputs are named by index or label, in one way for all tasks."""

import pytest
import torch

from service.contract import Facts
from service.errors import InvalidParameter
from service.tasks import TASKS, base, task


def _facts(labels=("cat", "Dog", "dog", "0")):
    return Facts("mine", task("classification"), 4, (8, 8), (0.5,), (0.5,), {}, None, None, 0, labels=labels)


def test_indices_and_labels() -> None:
    assert base.index(3, "/targets/0", _facts()) == 3
    assert base.index("CAT", "/targets/0", _facts()) == 0
    assert base.index("0", "/targets/0", _facts()) == 3  # text is a label, whatever it looks like


@pytest.mark.parametrize(
    ("asked", "labels", "message"),
    [
        ("dog", ("cat", "Dog", "dog", "0"), r"stands for outputs \[1, 2\]"),
        ("cta", ("cat", "Dog", "dog", "0"), "did you mean 'cat'"),
        ("cat", (), "has no labels; give an index"),
        (-1, (), "outputs 0 to 3"),
        (4, (), "outputs 0 to 3"),
        (1.5, (), "neither an index nor a label"),
        (None, (), "neither an index nor a label"),
        (True, (), "neither an index nor a label"),
        ([1], (), "neither an index nor a label"),
    ],
)
def test_what_names_no_output_is_refused(asked, labels, message) -> None:
    with pytest.raises(InvalidParameter, match=message) as caught:
        base.index(asked, "/targets/7", _facts(labels))
    assert caught.value.errors[0].pointer == "/targets/7"


def test_every_task_has_its_name_and_the_scores_it_has() -> None:
    for name in TASKS:
        found = task(name)
        assert found.name == name
        assert found.kinds in (("logit", "probability"), ("value",))
        assert (found.scale is None) == (found.kinds == ("value",))
        assert found.looks == (name in ("segmentation", "detection", "embedding"))


def test_the_answer_itself_is_a_readout() -> None:
    raw = torch.randn(2, 3)
    assert base.Answer()(raw) is raw
    assert base.Answer().key == base.Answer().key


class Counted(str):
    """A text that counts how often its letters are made small."""

    times = 0

    def casefold(self) -> str:
        Counted.times += 1
        return super().casefold()


def test_labels_are_read_once_however_many_are_named() -> None:
    labels = tuple(Counted(f"Label {i}") for i in range(100))
    facts = _facts(labels)
    Counted.times = 0
    assert [base.index(f"LABEL {i % 100}", "/targets/0", facts) for i in range(500)] == [i % 100 for i in range(500)]
    assert Counted.times == len(labels)


def test_a_text_that_is_longer_than_any_label_is_none() -> None:
    Counted.times = 0
    with pytest.raises(InvalidParameter, match=r"mine has no label 'aaa.*\(1,000,000 characters\); an index will do"):
        base.index(Counted("a" * 1_000_000), "/targets/0", _facts())
    assert Counted.times == 0


@pytest.mark.parametrize("far", [1e39, 1.7e308, 10**30])
def test_a_box_ends_where_no_picture_is_any_more(far) -> None:
    x0, y0, x1, y1 = base.box([-far, 3, far, 5.5], "/box")
    assert (y0, y1) == (3, 5.5)
    assert -x0 == x1 > 10_000_000
    assert torch.tensor([x0, x1]).tolist() == [x0, x1]


@pytest.mark.parametrize(
    "number", [float("inf"), -float("inf"), float("nan"), 10**400], ids=["inf", "-inf", "nan", "int"]
)
def test_a_box_of_numbers_that_are_none_is_refused(number) -> None:
    with pytest.raises(InvalidParameter, match="not finite") as caught:
        base.box([0, 0, number, 1], "/box")
    assert caught.value.errors[0].pointer == "/box"


def test_a_fields_place_is_a_pointer_whatever_its_name() -> None:
    with pytest.raises(InvalidParameter, match="unknown field") as caught:
        base.fields({"class": 0, "a/b~c": 1}, "/targets/0", _facts(), "class")
    assert caught.value.errors[0].pointer == "/targets/0/a~1b~0c"
