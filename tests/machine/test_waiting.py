"""Threads sleep between loops where cores are shared, unless the operator has another opinion."""

import json
import os
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.machine import waiting
from service.machine.waiting import Surroundings, Waiting, choose, settle
from service.settings import Settings


@pytest.mark.parametrize(
    ("around", "policy", "reason"),
    [
        (Surroundings(8, 8), "default", "not shared"),
        (Surroundings(8, 8, quota=8.0), "default", "not shared"),
        (Surroundings(8, 8, quota=2.0), "passive", "limit of 2 of 8 cores"),
        (Surroundings(8, 8, quota=7.5, load=0.0), "passive", "limit of 7.5 of 8 cores"),
        (Surroundings(8, 8, load=8.0), "default", "not shared"),
        (Surroundings(8, 8, load=8.1), "passive", "load of 8.1 on 8 cores"),
        (Surroundings(2, 64, load=8.0), "default", "not shared"),  # the load is the whole machine's
        (Surroundings(8, 8, quota=2.0, load=99.0, own={"OMP_WAIT_POLICY": "active"}), "own", "OMP_WAIT_POLICY=active"),
        (Surroundings(8, 8, quota=2.0, own={"GOMP_SPINCOUNT": "0"}), "own", "GOMP_SPINCOUNT=0"),
    ],
)
def test_cores_that_are_shared_are_not_spun_on(around, policy, reason) -> None:
    found = choose(around)
    assert found.policy == policy
    assert reason in found.reason


@pytest.fixture
def remembered(monkeypatch):
    monkeypatch.setattr(waiting, "_chosen", None)


def test_an_operators_own_value_wins(tmp_path, monkeypatch, remembered) -> None:
    (tmp_path / "cpu.max").write_text("1000 100000")
    environment = {"OMP_WAIT_POLICY": "ACTIVE"}
    assert settle(environment, tmp_path).policy == "own"
    assert environment == {"OMP_WAIT_POLICY": "ACTIVE"}


def test_what_is_loaded_cannot_be_told_any_more(tmp_path, remembered) -> None:
    (tmp_path / "cpu.max").write_text("1000 100000")
    environment: dict[str, str] = {}
    assert "torch" in sys.modules
    found = settle(environment, tmp_path)
    assert (found.policy, environment) == ("default", {})
    assert "PyTorch was loaded" in found.reason


def test_systems_without_a_load_are_not_asked_for_one(tmp_path, monkeypatch) -> None:
    monkeypatch.delattr("os.getloadavg", raising=False)
    assert Surroundings.here({}, tmp_path).load is None


def test_a_command_decides_before_pytorch_is_there(tmp_path) -> None:
    (tmp_path / "cpu.max").write_text("1000 100000")
    script = (
        "import json, os, sys; from pathlib import Path; from service.machine import waiting; "
        "found = waiting.settle(root=Path(sys.argv[1])); "
        "print(json.dumps([found.policy, os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules]))"
    )
    clean = {name: value for name, value in os.environ.items() if name not in waiting._OWN}
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, env=clean
    )
    assert json.loads(ran.stdout) == ["passive", "PASSIVE", False]


def test_every_command_decides(monkeypatch) -> None:
    from click.testing import CliRunner

    from service.cli import main

    asked: list[bool] = []
    monkeypatch.setattr(waiting, "settle", lambda: asked.append(True))
    assert CliRunner().invoke(main, ["methods"]).exit_code == 0
    assert asked == [True]


def test_version_says_what_was_chosen(monkeypatch) -> None:
    monkeypatch.setattr(waiting, "_chosen", Waiting("passive", "a limit"))
    app = create_app(Settings(device="cpu", tune=False, model=("lesion-count",)))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/version").json()["waiting"] == {"policy": "passive", "reason": "a limit"}
