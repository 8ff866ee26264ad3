"""From what is asked of a network, and what its source knows of it, to a model's specification."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.errors import CatalogError, did_you_mean
from service.images import Transform, photographs
from service.models.identity import canonical
from service.models.labels import read_labels
from service.models.networks.forms import served, undisturbed
from service.models.networks.lively import lively
from service.models.networks.remedies import refusal
from service.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, KEYS, preparing
from service.models.sources import Network, Wish
from service.models.spec import ModelSpec
from service.tasks import TASKS, task


def make(name: str, network: Network, wish: Wish, given: Mapping[str, Any], words: str) -> ModelSpec:
    """Return a model's specification.

    Args:
        name: of the model.
        network: what its source knows.
        wish: what was asked of the source.
        given: the catalogue's keys, which win over what the source knows; None where they are not given.
        words: where network and weights come from, for people.

    Raises:
        CatalogError: what does not go together; the message begins with the key.
    """
    prepared = preparing({key: given.get(key) for key in KEYS}, network.preprocessing)
    transform = prepared.transform
    meant = given.get("task") or network.task
    if meant is not None and meant not in TASKS:
        listed = " or ".join(filter(None, (", ".join(repr(t) for t in list(TASKS)[:-1]), repr(list(TASKS)[-1]))))
        whose = "Input should be" if given.get("task") else f"the source says {meant!r}; served are"
        raise CatalogError(f"task: {whose} {listed} (got {meant!r}){did_you_mean(meant, TASKS)}")
    said: list[str] = []

    def build() -> nn.Module:
        said[:] = network.said
        with undisturbed():
            built = network.build(said)
        module, changes = served(built, name)
        said.extend(changes)
        return lively(module, _pictures(transform)) if wish.weights == "random" else module

    scale, output = given.get("scale") or network.scale, given.get("output")
    output = network.output if output is None else output

    def identity(module: nn.Module) -> bytes:
        return canonical([network.identity(module), transform.as_json(), meant or "classification", scale, output])

    return ModelSpec(
        name=name,
        build=build,
        refusal=partial(refusal, name, transform),
        transform=transform,
        task=task(meant or "classification"),
        labels=_labels(given, network, wish.folder),
        source=words,
        task_known=meant is not None,
        scale=scale,
        output=output,
        assumed=prepared.assumed + network.said,
        identity=identity,
        said=said,
    )


def _labels(given: Mapping[str, Any], network: Network, folder: Path) -> tuple[str, ...]:
    if given.get("labels") is not None:
        return read_labels(folder / given["labels"])
    return tuple(network.labels) if given.get("task") in (None, network.task) else ()


def _pictures(transform: Transform) -> Tensor:
    """Return the package's photographs, as they are and mirrored upside down, as inputs (N, C, H, W)."""
    x = photographs(transform)
    return torch.cat([x, x.flip(2)])


def broken(name: str, mistake: str) -> ModelSpec:
    """Return the specification of a model that cannot be set up: it fails to load, and says why."""

    def build() -> nn.Module:
        raise CatalogError(mistake)

    transform = Transform(224, (224, 224), IMAGENET_MEAN, IMAGENET_STD)
    return ModelSpec(name, build, transform, task("classification"), mistake=mistake, task_known=False)
