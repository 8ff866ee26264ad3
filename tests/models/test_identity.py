"""A model's version follows weights, source, arguments, code, preprocessing and task, and nothing else."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from service.models.catalogue import read_catalog, requested
from service.models.identity import _imports, code, digest, options, version
from service.models.spec import ModelSpec
from tests.models import nets


def version_of(spec: ModelSpec) -> str:
    network = spec.build()
    return version(network, spec.identity(network))


def entry(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "catalog.toml").write_text(f"[models.m]\n{text}")
    return version_of(read_catalog(folder / "catalog.toml")[0]["m"])


GOOD = "factory = 'tests.models.nets:small'\ninput_size = 32\n"


def test_every_value_counts() -> None:
    network = nets.small()
    before = digest(network)
    for name, value in network.state_dict().items():
        kept = value.clone()
        value += 1
        assert digest(network) != before, name
        value.copy_(kept)
    assert digest(network) == before


@pytest.mark.parametrize("name", ["quantised", "static", "extra", "scripted", "traced", "exported", "half"])
def test_odd_states_have_a_version(name: str) -> None:
    torch.manual_seed(0)
    first = digest(getattr(nets, name)())
    torch.manual_seed(0)
    assert digest(getattr(nets, name)()) == first
    torch.manual_seed(1)
    assert digest(getattr(nets, name)()) != first


def test_extra_state_counts() -> None:
    def made(secret: int) -> str:
        torch.manual_seed(0)
        return digest(nets.extra(secret))

    assert made(3) == made(3) != made(4)


def test_name_type_and_shape_count() -> None:
    class Held(nn.Module):
        def __init__(self, name: str, value: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer(name, value)

    values = [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(2, 3, dtype=torch.int32)]
    found = {digest(Held("a", value)) for value in values} | {digest(Held("b", values[0]))}
    assert len(found) == 5


@pytest.mark.parametrize(
    "other",
    [
        "factory = 'tests.models.nets:doubled'\ninput_size = 32\n",  # the same weights, and other code
        GOOD + "arguments = {classes = 3}\n",
        GOOD + "task = 'regression'\n",
        GOOD + "scale = 'probabilities'\n",
        GOOD + "output = 0\n",
        "factory = 'tests.models.nets:small'\ninput_size = 48\n",
        GOOD + "resize = 40\n",
        GOOD + "fit = 'squash'\n",
        GOOD + "interpolation = 'bicubic'\n",
        GOOD + "mean = 0.3\n",
        GOOD + "std = 0.3\n",
        GOOD + "range = [0, 255]\nmean = [124, 116, 104]\nstd = [58, 57, 57]\n",
        GOOD + "order = 'bgr'\n",
        GOOD + "window = [0, 4095]\n",
    ],
)
def test_what_changes_answers_changes_the_version(tmp_path: Path, other: str) -> None:
    assert entry(tmp_path, other) != entry(tmp_path, GOOD)


def test_place_and_name_do_not_count(tmp_path: Path) -> None:
    state = nets.small().state_dict()
    found = set()
    for place, name in (("a", "w.pth"), ("b", "other.pth")):
        (tmp_path / place).mkdir()
        torch.save(state, tmp_path / place / name)
        found.add(entry(tmp_path / place, f"{GOOD}weights = '{name}'\n"))
    assert len(found) == 1


NET = "from torch import nn\nfrom {helper} import width\ndef net(): return nn.Linear(4, width())\n"


def _written(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, net: str, helper: str) -> Callable[..., object]:
    folder.mkdir()
    (folder / f"{name}.py").write_text(net.format(helper=f"{name}_helper"))
    (folder / f"{name}_helper.py").write_text(helper)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    for module in (name, f"{name}_helper"):
        sys.modules.pop(module, None)
    importlib.invalidate_caches()
    found: Callable[..., object] = importlib.import_module(name).net
    return found


def test_code_of_a_factory_and_of_its_neighbours_counts_and_not_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = "def width(): return 3\n"
    cases = [(NET, helper), (NET, helper), (NET, helper + "# changed\n"), (NET + "# changed\n", helper)]
    found = [code([_written(tmp_path / str(i), monkeypatch, "identity_net", *texts)]) for i, texts in enumerate(cases)]
    assert found[0].keys() == {"identity_net", "identity_net_helper"}
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0] != found[3]


@pytest.mark.parametrize("net", ["from {helper} import WIDTH\n", "", "import {helper} as h\n"])
def test_a_plain_value_of_a_neighbour_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: str) -> None:
    text = f"{net}def net():\n    from {{helper}} import WIDTH\n    return WIDTH\n"
    found = []
    for i in (3, 3, 4):
        made = _written(tmp_path / f"{len(found)}", monkeypatch, "identity_value", text, f"WIDTH = {i}\n")
        assert made() == i
        found.append(code([made]))
    assert found[0] == found[1] != found[2]


def test_kinds_and_numbers_of_modules_count() -> None:
    class Named(nn.ReLU):
        def __init__(self, place: str, factors: tuple[float, ...] = (1.0, 2.0)) -> None:
            super().__init__()
            self.place, self.factors = place, factors

    one = options(nn.Sequential(nn.LeakyReLU(0.1), Named("a")))
    assert one == options(nn.Sequential(nn.LeakyReLU(0.1), Named("b")).eval())
    others = [(nn.LeakyReLU(0.2), Named("a")), (nn.ELU(0.1), Named("a")), (nn.LeakyReLU(0.1), Named("a", (1.0, 3.0)))]
    assert all(one != options(nn.Sequential(*other)) for other in others)


def test_libraries_do_not_count() -> None:
    from torchvision.models import resnet18

    assert code([resnet18, nn.Linear, Path, torch.save]) == {}


def test_both_spellings_of_a_source_are_one_model(tmp_path: Path) -> None:
    options = {
        version_of(requested((name,), None)[0]["squeezenet1_1"])
        for name in ("squeezenet1_1=random", "torchvision/squeezenet1_1=random")
    }
    entries = {
        entry(tmp_path, "torchvision = 'squeezenet1_1'\nweights = 'random'\n"),
        entry(tmp_path, "source = 'squeezenet1_1=random'\n"),
    }
    assert len(options | entries) == 1


def test_every_form_of_an_import_is_read() -> None:
    text = """
import json, urllib.parse as p
from . import identity, arguments as a
from ..engine import (
    store,
    turns as t,
)
from service.errors import CatalogError  # a name
def inside():
    from .networks import holding; return holding
"""
    module = ModuleType("service.models.any")
    module.__package__ = "service.models"
    for name in ("urllib.parse", "service.engine.store", "service.engine.turns"):
        importlib.import_module(name)
    assert {one.__name__ for one in _imports(module, text)} == {
        *("json", "urllib.parse", "service.models", "service.models.identity", "service.models.arguments"),
        *("service.engine", "service.engine.store", "service.engine.turns", "service.errors"),
        *("service.models.networks", "service.models.networks.holding"),
    }
