import pytest

from service.ask import Ask
from service.comparison.asking import SPREAD, Compare
from service.errors import InvalidParameter, UnknownMethod
from service.explainers.base import registry


def test_each_method_has_a_question_of_its_own() -> None:
    fields = {
        "methods": ["cam", {"method": "occlusion", "params": {"window": 8, "stride": 4}}, "eigen-cam"],
        "targets": [3],
    }
    asked = Compare.of(fields | {"timeout_s": 5, "priority": 2, "metrics": ["road"]}, b"picture")
    assert [name for name, _ in asked.asked] == ["cam", "occlusion", "eigen-cam"]
    first, second, third = (one for _, one in asked.asked)
    assert isinstance(first, Ask)
    assert isinstance(second, Ask)
    assert isinstance(third, Ask)
    assert second.method == registry()["occlusion"](window=8, stride=4)
    assert (first.targets, third.targets) == ((3,), ())  # it has none
    assert {one.pictures for one in (first, second, third)} == {(b"picture",)}
    assert (asked.timeout_s, asked.priority, asked.metrics) == (5, 2, {"road"})


def test_what_is_wrong_with_one_method_is_its_own() -> None:
    asked = Compare.of({"methods": ["cam", "grad-cm", {"method": "occlusion", "params": {"windw": 8}}]}, b"")
    _, unknown, wrong = (one for _, one in asked.asked)
    assert isinstance(unknown, UnknownMethod)
    assert "grad-cam" in unknown.detail
    assert isinstance(wrong, InvalidParameter)
    assert [one.pointer for one in wrong.errors] == ["/methods/2/params/windw"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"methods": []}, "/methods"),
        ({"metrics": ["stars"]}, "/metrics/0"),
        ({"metrics": ["localisation"]}, "/box"),
        ({"box": [5, 5, 5, 9]}, "/box"),
        ({"box": [5, 5, float("inf"), 9]}, "/box"),
        ({"params": {}}, "/params"),
        ({"output": {"colormap": "nothing of that name"}}, "/output/colormap"),
    ],
    ids=str,
)
def test_what_all_have_in_common_is_refused_by_field(fields, pointer) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidParameter) as found:
        Compare.of(fields, b"")
    assert [one.pointer for one in found.value.errors] == [pointer]


def test_the_spread_is_of_methods_that_there_are() -> None:
    families = {registry()[name].family for name in SPREAD}
    aimed = {cls.family for cls in registry().values() if cls.takes_targets}
    assert families == aimed
    assert len(set(SPREAD)) == len(SPREAD)
