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

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data")
pytestmark = [pytest.mark.filterwarnings("ignore")]  # of Ray's own making

from service.deploy import ray_data  # noqa: E402  # needs Ray

SETTINGS = Settings(catalog=CATALOG, device="cpu", tune=False)
ASK: dict[str, Any] = {"targets": [2], "params": {"window": 8, "stride": 8}}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Any:
    ray.init(
        num_cpus=3,
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
    own = local({"path": list(map(str, paths)), "bytes": [path.read_bytes() for path in paths]})
    rows = ray_data.explain(ray_data.pictures([*map(str, paths)]), "occlusion", settings=SETTINGS, **ASK).take_all()
    for row in rows:
        i = own["path"].index(row["path"])
        a, b = (np.frombuffer(one, "<f4") for one in (row["map"], own["map"][i]))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert row["sha256"] == own["sha256"][i]


def test_a_second_run_does_the_rest_and_only_the_rest(folder: Path, tmp_path: Path) -> None:
    """By Ray's own checkpoints, for which a row's `path` is what it is called."""
    context = ray.data.DataContext.get_current()
    config = ray.data.checkpoint.CheckpointConfig
    paths = sorted(map(str, folder.iterdir()))
    context.checkpoint_config = config("path", str(tmp_path / "done"), delete_checkpoint_on_success=False)
    try:
        for i, some in enumerate((paths[:5], paths)):
            maps = ray_data.explain(ray_data.pictures(some), "cam", settings=SETTINGS)
            maps.write_parquet(str(tmp_path / f"run-{i}"))
    finally:
        context.checkpoint_config = None
    first, second = (ray.data.read_parquet(str(tmp_path / f"run-{i}")).take_all() for i in range(2))
    assert sorted(row["path"] for row in first) == paths[:5]
    assert sorted(row["path"] for row in second) == paths[5:]


def test_a_wrong_question_is_told_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(InvalidParameter, match="unknown field"):
        ray_data.explain(ray_data.pictures(str(folder)), "cam", params={"leyer": "x"})
