"""The instrument runs, and writes what it should."""

import json
import math

import pytest

from tests.bench.__main__ import SECTIONS, main


@pytest.mark.filterwarnings("ignore")  # the peers'
def test_latency_section_in_quick_mode(tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert main(["--quick", "--only", "latency", "--rounds", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["machine"]["cpus"] >= 1
    assert found["machine"]["torch"]
    assert found["options"]["quick"] is True
    peers = {(row["name"].split(",")[0].split(" ")[0], row["against"]) for row in found["rows"]}
    assert peers >= {
        ("grad-cam", "pytorch-grad-cam"),
        ("grad-cam", "torch-cam"),
        ("score-cam", "pytorch-grad-cam"),
        ("score-cam", "torch-cam"),
        ("occlusion", "captum"),
        ("saliency", "captum"),
    }
    for row in found["rows"]:
        assert row["ratio"] > 0
        assert not row["failed"]
        assert row["name"].startswith("score-cam auto") or math.isfinite(row["agreement"]["max_abs"])
        assert all(times for times in row["rounds"].values())
    table = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| latency") for line in table) == len(found["rows"])


def test_a_disagreement_fails(monkeypatch, tmp_path):
    from tests.bench.measure import Row

    monkeypatch.setitem(SECTIONS, "http", lambda options, folder: iter([Row("http", "x", 1.0, "ms", failed="no")]))
    assert main(["--quick", "--only", "http"]) == 1


def test_a_broken_section_fails_and_leaves_the_others(monkeypatch, capsys):
    from tests.bench.measure import Row

    def broken(options, folder):
        raise RuntimeError("no server")

    monkeypatch.setitem(SECTIONS, "http", broken)
    monkeypatch.setitem(SECTIONS, "mixed", lambda options, folder: iter([Row("mixed", "x", 1.0, "ms")]))
    assert main(["--quick", "--only", "http", "mixed"]) == 1
    assert "| mixed: x |" in capsys.readouterr().out
