"""What an answer says is what the plain network makes of the same pictures."""

import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.ask import Ask
from service.comparison import numbers
from service.comparison.numbers import A_MAP, CONTROLS, ENDS, ROAD, Trial, rows
from service.contract import Map, Target
from service.engine.scheduler.run import Run
from service.errors import ModelOutput
from service.faithfulness import curves
from service.faithfulness.curves import Scene
from service.faithfulness.gain import controls, gains
from tests.comparison.conftest import PNG, compare
from tests.plain import PlainProbe
from tests.tiny import classifier


@pytest.fixture(scope="module")
def trial(tiny) -> Trial:  # type: ignore[no-untyped-def]
    plan = tiny.pipeline.plan(Ask.predict({"model": "tiny"}, PNG))
    run = Run()
    seen = tiny.pipeline.see(plan, run)
    return Trial(plan, tiny.device, run, seen.x, (Target(1), Target(3), Target(0)), None)


def test_gains_are_those_of_the_plain_network(trial, monkeypatch) -> None:
    monkeypatch.setattr(curves, "LEAST_ODDS", 1e-3)  # the network is small
    facts = trial.facts
    plain = PlainProbe(classifier(), facts, facts.task.evidence(facts.task.whole, trial.targets))
    scene = Scene.of(plain, trial.x, trial.scene.blanks, odds=True)
    values = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    maps = [Map("one", values, "signed", target) for target in trial.targets]
    expected = gains(scene, controls(scene), [(one, i) for i, one in enumerate(maps)])
    found = trial.gains(maps)
    assert any(one.gains for one in found)
    for one, other in zip(found, expected, strict=True):
        assert one.gains == pytest.approx(other.gains, rel=1e-2, abs=1e-2)
        assert one.reasons == other.reasons


def test_maps_of_no_target_say_so(trial) -> None:
    values = torch.rand(8, 8)
    none, other = trial.gains([Map("a", values), Map("b", values, target=Target(2))])
    assert "no target" in (none.reason or "")
    assert "another target" in (other.reason or "")


def test_a_network_without_an_answer_to_what_is_hidden_leaves_the_maps(tiny, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The method has explained the picture; that nothing can be measured is said beside its map."""

    def silent(*_, **__):  # type: ignore[no-untyped-def]
        raise ModelOutput("outputs are infinite")

    for where in ("of", "curves"):  # of the picture hidden, or of a part of it
        monkeypatch.setattr(Scene, where, silent)
        found = compare(tiny, methods=["grad-cam"], targets=[1])
        (one,) = found.entries[0].faithfulness
        assert (one.gain.blur, one.gain.mean) == (None, None)
        assert "outputs are infinite" in (one.gain.reason or "")
        assert found.controls[0].random.blur is None
        monkeypatch.undo()


def test_rows_are_bounded() -> None:
    assert rows(0) <= 560
    assert rows(12) - rows(0) == 12 * 60


def test_rows_are_counted_as_documented() -> None:
    assert (ENDS, CONTROLS, A_MAP, ROAD) == (3, 540, 60, 10)


def test_rows_are_those_that_are_asked_for(tiny, trial, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(Scene, "too_little", lambda scene, name, target: None)  # the most that there may be
    run = Run()
    other = replace(trial, device=tiny.device, run=run, x=trial.x.flip(3))
    found = Map("one", torch.rand(8, 8), "signed", trial.targets[0])
    other.gains([found])
    assert run.done == rows(1)
    other.road(found)
    assert run.done == rows(1) + ROAD


def test_what_is_silent_is_known_without_assertions_too(trial, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """`python -O` leaves out what only an `assert` looks at."""
    bare = types.ModuleType("bare")
    monkeypatch.setitem(sys.modules, "bare", bare)
    exec(compile(Path(numbers.__file__).read_text(), "bare", "exec", optimize=1), bare.__dict__)

    def silent(*_, **__):  # type: ignore[no-untyped-def]
        raise ModelOutput("outputs are infinite")

    monkeypatch.setattr(Scene, "of", silent)
    other = bare.Trial(trial.plan, trial.device, trial.run, trial.x, trial.targets, None)
    assert other.silent == "of the picture with something hidden, outputs are infinite"
