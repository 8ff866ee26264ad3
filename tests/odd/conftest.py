"""One server on all odd networks."""

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from service.app import create_app
from service.engine.store import Store
from service.settings import Settings
from tests.conftest import serving_app
from tests.odd.cases import CASES, SIZE

SUFFIX = {"source_script": "pt", "source_export": "pt2", "source_export_of_two": "pt2"}
MAPS = ("masks", "masks_in_a_dict", "masks_coarse", "masks_of_probabilities")
BOXES = ("boxes", "boxes_in_a_tuple", "boxes_in_a_dict", "boxes_together")


def _entry(folder: Path, name: str) -> str:
    case = CASES[name]
    keys = [f"factory = 'tests.odd.nets:{case.factory or name}'", case.keys]
    if case.file is not None:
        file = folder / f"{name}.{SUFFIX.get(name, 'pth')}"
        content: Any = case.file()
        file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
        keys = [f"source = '{file.name}'"] if case.source else [*keys, f"weights = '{file.name}'"]
    said = "\n".join(keys)
    defaults = {"input_size": SIZE, "mean": 0.0, "std": 1.0}
    return f"[models.{name}]\n{said}\n" + "".join(f"{k} = {v}\n" for k, v in defaults.items() if f"{k} =" not in said)


@dataclass(frozen=True)
class Odd:
    """A server on odd networks."""

    client: httpx.Client
    store: Store

    def get(self, path: str) -> Any:
        """Return what a path answers."""
        return self.client.get(path).json()

    def post(self, path: str, model: str, image: bytes, **more: Any) -> httpx.Response:
        """Ask a model about a picture."""
        return self.client.post(path, json={"image": base64.b64encode(image).decode(), "model": model, **more})


@contextmanager
def served(folder: Path, names: Iterable[str], more: str = "") -> Iterator[Odd]:
    """Serve some of the cases, `plain` among them, and what else a catalogue may have."""
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "four.txt").write_text("a\nb\nc\nd\n")
    (folder / "catalog.toml").write_text("default = 'plain'\n" + "".join(_entry(folder, name) for name in names) + more)
    app = create_app(Settings(catalog=folder / "catalog.toml", device="cpu"))
    with serving_app(app) as client:
        yield Odd(client, app.state.context.store)


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    """Serve every case."""
    with served(tmp_path_factory.mktemp("odd"), CASES) as all_of_them:
        yield all_of_them
