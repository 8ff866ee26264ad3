"""Weights that no factory makes, files of them, and models that read these."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from service.models.catalogue import read_catalog
from service.models.spec import ModelSpec
from tests.models import nets

State = dict[str, torch.Tensor]


def trained(seed: int = 1, network: Callable[[], nn.Module] = nets.Small) -> State:
    """Return weights that no factory here makes."""
    torch.manual_seed(seed)
    state = network().state_dict()
    return {key: value + 0.25 if value.is_floating_point() else value + 3 for key, value in state.items()}


def prefixed(prefix: str, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {prefix + key: value for key, value in (trained() if state is None else state).items()}


def asked(folder: Path, factory: str = "small", weights: str = "w.pth", more: str = "") -> ModelSpec:
    text = f"[models.m]\nfactory = 'tests.models.nets:{factory}'\ninput_size = 32\nweights = '{weights}'\n{more}"
    (folder / "catalog.toml").write_text(text)
    return read_catalog(folder / "catalog.toml")[0]["m"]


def holds(network: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    found = network.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[key], value) for key, value in state.items())


def file(folder: Path, content: Any, name: str = "w.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name
