"""The tree of errors is what its drawing says, and each error tells what to do."""

import inspect
import re

import pytest

from service import errors
from service.errors import CatalogError, InvalidParameter, ServiceError, did_you_mean, one_suggestion, quoted

CLASSES = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)}
KINDS = [cls for cls in CLASSES.values() if issubclass(cls, ServiceError) and cls is not ServiceError]


def _drawn():
    """Return the docstring's tree as {class: (its parent or None, its status or None)}."""
    found, parent = {}, None
    for line in errors.__doc__.splitlines():
        if node := re.fullmatch(r"(?P<branch>[├└]── )?(?P<name>[A-Z]\w+)(?: +(?P<status>\d{3}))?(?: {2}.*)?", line):
            if not node["branch"]:
                parent = None
            found[node["name"]] = parent, int(node["status"]) if node["status"] else None
            parent = parent or node["name"]
    return found


def test_the_tree_is_as_it_is_drawn():
    drawn = _drawn()
    assert drawn.keys() == CLASSES.keys()
    for name, (parent, status) in drawn.items():
        assert CLASSES[name].__bases__ == (CLASSES[parent] if parent else Exception,)
        if status is not None:
            assert CLASSES[name].status == status
    assert all(drawn[cls.__name__][1] for cls in KINDS)


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
def test_a_kind_of_error_is_described(cls):
    assert 400 <= cls.status < 600
    assert re.fullmatch("[a-z]+(-[a-z]+)*", cls.type)  # the last part of a URN
    assert re.fullmatch(r"[A-Z][^.]*", cls.title)
    assert cls.__doc__.endswith(".")


def test_types_and_titles_tell_errors_apart():
    for told in ("type", "title"):
        assert len({getattr(cls, told) for cls in KINDS}) == len(KINDS)
    # Whatever is no error of ours is shown as a defect: the base's own type is that of no other.
    assert [cls for cls in KINDS if cls.type == ServiceError.type] == [errors.InternalError]


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
def test_what_passes_says_when_to_come_back(cls):
    told = cls("why").retry_after_s
    assert (told is not None and told >= 1) if cls.status == 503 else told is None
    assert cls("why", retry_after_s=7).retry_after_s == 7
    assert cls("why", retry_after_s=0).retry_after_s == 0


def test_every_kind_that_a_caller_meets_has_a_remedy():
    """In the list that documents are written from: each once, by its status, but for the one that nobody reads."""
    listed = list(errors.by_status())
    assert [status for status, _ in listed] == sorted({cls.status for cls in KINDS} - {errors.Cancelled.status})
    for status, kinds in listed:
        assert {cls.status for cls in kinds} == {status}
        assert all(cls.remedy and not cls.remedy.endswith(".") for cls in kinds)
    found = [cls for _, kinds in listed for cls in kinds]
    assert sorted(found, key=KINDS.index) == [cls for cls in KINDS if cls is not errors.Cancelled]


def test_an_error_says_what_and_where():
    error = InvalidParameter.at("/params/window", "too large")
    assert str(error) == error.detail == "too large"
    assert [tuple(one) for one in error.errors] == [("/params/window", "too large")]
    assert ServiceError("why").errors == ()
    assert not issubclass(CatalogError, ServiceError)  # it ends the start, and no caller meets it


@pytest.mark.parametrize(
    ("word", "known", "count", "said"),
    [
        ("layer5", ["layer4", "conv1"], 1, "; did you mean 'layer4'?"),
        ("APPLE", ["banana", "apple"], 1, "; did you mean 'apple'?"),
        ("apple", ["BANANA", "APPLE"], 1, "; did you mean 'APPLE'?"),
        ("cat", ["cats", "car", "dog"], 2, "; did you mean 'cats' or 'car'?"),
        ("cat", ["cats", "car", "dog"], 1, "; did you mean 'cats'?"),
        ("zebra", ["layer4", "conv1"], 1, ""),
        ("module.bn", ["layer4", "bn"], 1, "; did you mean 'bn'?"),
        ("", ["layer4"], 1, ""),
        ("anything", [], 1, ""),
    ],
)
def test_the_nearest_word_is_offered(word, known, count, said):
    assert did_you_mean(word, iter(known), count=count) == said
    then = did_you_mean(word, iter(known), count=count, then="known are some")
    assert then == (f"{said} Known are some" if said else "; known are some")


def test_the_nearest_of_one_word_alone_is_offered_where_more_would_take_too_long() -> None:
    def said() -> str:
        return did_you_mean("layer5", ["layer4"], then="known are layer4")

    with one_suggestion():
        assert did_you_mean("b" * 129, ["layer4"]) == ""  # which nothing was looked for
        with one_suggestion():
            assert "'layer4'" in said()
        assert said() == "; known are layer4"
    assert "'layer4'" in said()


def test_what_is_within_a_list_is_not_repeated() -> None:
    """It may be of any depth and size, and a box of four numbers is told."""
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    assert quoted(deep) == "[[...]]"
    assert quoted({"a": deep, "b": {}}) == "{'a', 'b'}"
    assert quoted([{"a": deep}]) == "[{...}]"
    assert quoted([1, 2.5, "x", None]) == "[1, 2.5, 'x', None]"
    assert quoted([0] * 9) == "[0, 0, 0, 0, 0, 0, 0, 0, ...]"
    assert len(quoted(["b" * 10**6] * 8)) < 120
