"""A data set of pictures on Ray Data. Skipped where Ray is missing; `.ci/parts/ray` brings it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidParameter
from service.settings import Settings
from tests.api.test_contract import PNG
from tests.conftest import CATALOG, encoded, photograph
from tests.house import ROOT
from tests.test_cli import TINY, run

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data")
pytestmark = [pytest.mark.filterwarnings("ignore")]  # of Ray's own making

from service.deploy import ray_data  # noqa: E402  # needs Ray

SETTINGS = Settings(catalog=CATALOG, device="cpu", tune=False)
ASK: dict[str, Any] = {"targets": [2], "params": {"window": 8, "stride": 8}}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Any:
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "HEATLENS_TUNE": "false"}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, of which the last two are broken."""
    found = tmp_path_factory.mktemp("pictures")
    cat = photograph("chelsea")
    for i in range(10):
        (found / f"{i:02}.png").write_bytes(encoded(cat.rotate(30 * i).resize((61, 40))))
    (found / "10.png").write_bytes(b"no picture")
    (found / "11.png").write_bytes(PNG[:80])
    return found


def test_a_row_a_picture_and_broken_ones_are_rows(folder: Path) -> None:
    rows = ray_data.explain(ray_data.pictures(str(folder)), "occlusion", settings=SETTINGS, **ASK).take_all()
    by = {Path(row["path"]).name: row for row in rows}
    assert sorted(by) == sorted(path.name for path in folder.iterdir())
    for name, row in by.items():
        if name in ("10.png", "11.png"):
            assert json.loads(row["error"])["status"] in (415, 422)
            assert (row["map"], row["png"]) == (b"", b"")
            continue
        assert row["error"] == ""
        assert row["png"].startswith(b"\x89PNG")
        found = np.frombuffer(row["map"], "<f4").reshape(json.loads(row["shape"]))
        assert found.shape == (1, 32, 32)
        assert json.loads(row["usage"])["forwards"] > 0


def test_rows_are_the_pipelines_own(folder: Path) -> None:
    local = ray_data.Explain("occlusion", ASK, 2, SETTINGS)
    paths = sorted(folder.iterdir())[:3]
    own = local({"path": list(map(str, paths)), "bytes": [path.read_bytes() for path in paths]}).to_pydict()
    rows = ray_data.explain(ray_data.pictures([*map(str, paths)]), "occlusion", settings=SETTINGS, **ASK).take_all()
    for row in rows:
        i = own["path"].index(row["path"])
        a, b = (np.frombuffer(one, "<f4") for one in (row["map"], own["map"][i]))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert row["sha256"] == own["sha256"][i]


def test_the_command_does_the_rest_and_only_the_rest(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """By Ray's own checkpoints; what is not the pictures' own fault is not written, and is tried again."""
    monkeypatch.chdir(folder.parent)
    (folder / "gone.png").symlink_to("nowhere")
    words = ["explain", "occlusion", "-o", str(tmp_path / "out"), "--ray", "auto", *TINY, "-t", "banana"]
    words += ["-p", "window=8", "-p", "stride=8"]
    try:
        first = run(*words, f"{folder.name}/0[0-4].png")
        second = run(*words, folder.name)
    finally:
        (folder / "gone.png").unlink()
    assert (first.exit_code, "5 pictures: 5 done, 0 failed, 0 there already" in first.stderr) == (0, True), first.output
    assert second.exit_code == 1
    assert "13 pictures: 5 done, 3 failed, 5 there already" in second.stderr
    for name, said in (("10.png", ""), ("11.png", ""), ("gone.png", "tried again by the next run")):
        assert any(f"{folder.name}/{name}: " in line and said in line for line in second.stderr.splitlines()), name
    rows = ray.data.read_parquet(str(tmp_path / "out" / ray_data.MAPS)).take_all()
    assert sorted(row["path"] for row in rows) == sorted(f"{folder.name}/{i:02}.png" for i in range(12))
    assert {row["model"].partition(" ")[0] for row in rows} == {"tiny", ""}
    assert {np.frombuffer(row["map"], "<f4").size for row in rows} == {32 * 32, 0}
    other = run(*[word.replace("stride=8", "stride=4") for word in words], folder.name)
    assert other.exit_code == 1
    assert all(f'"stride": {n}' in other.stderr for n in (4, 8)), other.stderr


def test_a_wrong_question_is_told_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(InvalidParameter, match="unknown field"):
        ray_data.explain(ray_data.pictures(str(folder)), "cam", params={"leyer": "x"})
