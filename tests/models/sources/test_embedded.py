"""The networks that ship with the service can be asked for, with their own weights only."""

from pathlib import Path

import pytest

from service.errors import CatalogError
from service.models.catalogue import requested
from service.models.sources.embedded import EMBEDDED, SOURCE
from service.settings import EMBEDDED_MODELS


def test_settings_and_source_agree() -> None:
    assert tuple(EMBEDDED) == EMBEDDED_MODELS == tuple(SOURCE.names())


@pytest.mark.parametrize("name", EMBEDDED)
def test_nothing_of_them_is_assumed(name: str) -> None:
    spec = requested((name,), None)[0][name]
    assert (spec.assumed, spec.task_known, spec.transform.fit) == ((), True, "crop")


@pytest.mark.parametrize("weights", ["random", "w.pth"])
def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").touch()
    with pytest.raises(CatalogError, match="lesion-count is embedded with its weights; write --model lesion-count"):
        requested((f"lesion-count={weights}",), None)
