"""The table runs a row at a time, and says what it has to."""

import json

import pytest

from tests.bench.table import __main__ as table
from tests.bench.table.line import Line
from tests.bench.table.sharing import jobs


@pytest.mark.parametrize(
    ("aim", "least", "met"),
    [(None, True, None), (2.0, True, True), (2.5, True, False), (2.0, False, True), (1.5, False, False)],
)
def test_a_line_is_the_median_of_its_rounds_held_against_its_aim(aim, least, met) -> None:
    line = Line("x", "1 s", "2 s", [9.0, 2.0, 1.0], [3.0, 4.0, 5.0], aim, least=least)
    assert (line.ratio, line.met) == (2.0, met)
    assert "| 2 x (1 to 9) | 4 x |" in str(line)


def test_one_row_runs_alone_and_is_written_down(tmp_path, monkeypatch, capsys) -> None:
    given = {}

    def one(asked):
        given["rounds"], given["quick"] = asked.rounds, asked.quick
        yield Line("half as long", "1 s", "2 s", [0.5], aim=0.5, least=False)

    monkeypatch.setattr(table, "ROWS", {"this": one, "that": jobs})
    file = tmp_path / "table.json"
    assert table.main(["this", "--quick", "--json", str(file)]) == 0
    assert given == {"rounds": 1, "quick": True}
    assert [row["met"] for row in json.loads(file.read_text())["rows"]] == [True]
    out = capsys.readouterr().out
    assert "cores" in out.splitlines()[0]  # the machine is named
    assert "| half as long |" in out


def test_a_missed_aim_and_a_broken_row_fail_and_leave_the_others(monkeypatch, capsys) -> None:
    def broken(asked):
        raise RuntimeError("no server")

    missed = Line("missed", "", "", [1.0], aim=2.0)
    monkeypatch.setattr(table, "ROWS", {"broken": broken, "missed": lambda asked: iter([missed])})
    assert table.main(["missed"]) == 1
    assert table.main(["broken", "missed"]) == 1
    assert "| missed |" in capsys.readouterr().out


def test_there_is_no_row_of_another_name(capsys) -> None:
    with pytest.raises(SystemExit):
        table.main(["nonsense"])
    assert "score-cam-fresh" in capsys.readouterr().err


def test_the_choice_of_a_batch_is_timed(tmp_path) -> None:
    from tests.bench.table.line import Asked

    assert [line.ratio > 0 for line in jobs(Asked(tmp_path, 1))] == [True, True]
