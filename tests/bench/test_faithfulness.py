"""The measurement of all methods goes on where it was cut off, and its table is what its file says."""

from itertools import islice

from service.explainers.base import registry
from service.pipeline import applicability
from tests.bench.faithfulness import CROPS, NAMES, PARTS, Results, crops, steps, table


def _crop(bell, **methods):  # type: ignore[no-untyped-def]
    return {"bell": {"blur": bell, "mean": None}, "reason": None, "methods": methods}


def test_what_is_known_is_read_again_and_of_another_network_forgotten(tmp_path) -> None:
    file = tmp_path / "found.json"
    one = Results(file)
    one.of("a")
    one.crop("cat")["methods"]["cam"] = [1.5, None, 1]
    one.sanity["cam"] = {"verdict": "passes"}
    one.keep()
    again = Results(file)
    again.of("a")
    assert (again.crops, again.sanity) == (one.crops, one.sanity)
    again.of("b")
    assert (again.crops, again.sanity) == ({}, {})


def test_every_method_is_tried_once_on_each_crop_and_what_is_known_not_again(tiny, tmp_path) -> None:  # type: ignore[no-untyped-def]
    facts, results = tiny.store.get("tiny").facts, Results(tmp_path / "found.json")
    pictures = [(name, b"") for name in "abcdefghij"]
    results.crop("a")["methods"]["cam"] = [1.0, 1.0, 1]
    left = [(crop, name) for crop, _, names in steps(facts, pictures, results) for name in names]
    assert len(left) == len(set(left))
    assert ("a", "cam") not in left
    fit = [name for name, reason in applicability(facts).items() if reason is None]
    aimed = {name for name in fit if registry()[name].takes_targets and registry()[name].needs_image}
    assert {name for crop, name in left if crop == "b"} == aimed
    assert ("j", "cam") in left
    assert ("j", "rise") not in left  # the dear ones on few


def test_there_are_as_many_crops_as_promised() -> None:
    assert len(set(NAMES)) * len(set(PARTS.values())) >= CROPS
    names = [name for name, _ in islice(crops(None), 2)]
    assert names == ["astronaut, whole", "chelsea, whole"]


def test_the_table_is_of_medians_and_counts(tmp_path) -> None:
    results = Results(tmp_path / "found.json")
    results.crops = {
        "a": _crop(1.0, cam=[2.0, None, 1], rise=[0.5, None, 9]),
        "b": _crop(1.0, cam=[3.0, None, 3]),
        "c": _crop(None, cam=[None, None, 1]),
    }
    results.sanity = {"cam": {"verdict": "fails", "mprt": 0.7, "random_logit": 0.123, "cut": ["steps: 1"]}}
    lines = table(results).splitlines()
    assert lines[2] == "| *a bell in the middle* | +1.0 | - | - | 2 | - | - | - | 0 |"
    assert lines[3] == "| `cam` | +2.5 | - | 100 % | 2 | fails (cut) | 0.70 | 0.12 | 1 |"
    assert lines[4] == "| `rise` | +0.5 | - | 0 % | 1 | not yet tested | - | - | 9 |"
    assert lines[6].startswith("3 crops; on 1 of them")
