"""What an explanation method is, and how it is found.

A method is a frozen pydantic model: its fields are the request's `params` (bounds, defaults and documentation
stand once, in `Field`), and `explain` is the method itself. It sees a network only through a `Probe`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from service.contract import Explanation, Facts, Kind, Probe, Targets
from service.errors import InvalidParameter, UnknownMethod


class Explainer(BaseModel, ABC):
    """An explanation method: parameters as fields, the method in `explain`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    reference: ClassVar[str]
    requirement: ClassVar[str]
    cost: ClassVar[str]
    family: ClassVar[str]  # the folder it lies in
    kind: ClassVar[Kind]  # of its maps with default parameters
    needs_image: ClassVar[bool] = True
    takes_targets: ClassVar[bool] = True

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Raise `NotApplicable`, with the reason and an alternative, where the method has no meaning."""

    def tolerates_reduced_precision(self) -> bool:
        """Whether `Probe.scores` may use less than float32, where the maps were measured to agree."""
        return False

    def needs_float32(self) -> str | None:
        """Say why `Probe.scores` may not use less than float32, not even where a request asks for it; None: it may."""
        return None

    def estimates(self) -> bool:
        """Whether maps hang on what is drawn at random, so that another seed answers otherwise."""
        return "seed" in type(self).model_fields

    @abstractmethod
    def passes(self, facts: Facts, targets: int) -> int:
        """Return about how many passes the method will need: a row's forward is one, its backward two."""

    def values(self, facts: Facts, targets: int) -> int:
        """Return how many raw values the maps will have, where that may be very many; else 0: they are counted later.

        Raises:
            InvalidParameter: a layer that is asked for does not exist or has no maps.
        """
        return 0

    @abstractmethod
    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Explain what the network does with a picture.

        Args:
            probe: the network.
            image: (1, 3, H, W) on the network's device; (0, 3, H, W) for a method that needs none.
            targets: what to explain, for a method that takes targets.
        """

    def settled(self, facts: Facts) -> Self:
        """Return the same method with the score that this network has, where the request named none.

        Raises:
            InvalidParameter: it named one that the network's task does not have.
        """
        score, kinds = getattr(self, "score", None), facts.task.kinds
        if score is None or score in kinds:
            return self
        if "score" in self.model_fields_set:
            raise InvalidParameter.at(
                "/params/score", f"{facts.name} is a {facts.task.name} model, whose score is {' or '.join(kinds)}"
            )
        return self.model_copy(update={"score": kinds[0]})

    def resolved(self, facts: Facts) -> dict[str, Any]:
        """Return the parameters as used: defaults filled in, the chosen layers named."""
        params = self.model_dump(mode="json")
        if "layer" in params and params["layer"] is None:
            params["layer"] = facts.default_layer
        if "layers" in params and not params["layers"]:
            params["layers"] = [facts.default_layer]
        return params


class LayerExplainer(Explainer):
    """A method that looks at a layer with spatial maps."""

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a layer with spatial maps; where there is no default one, it has to be named."""
        facts.require_spatial(cls.name)


E = TypeVar("E", bound=type[Explainer])
_registry: dict[str, type[Explainer]] = {}


def explainer(name: str, *, reference: str, requirement: str, cost: str, kind: Kind = "positive") -> Callable[[E], E]:
    """Register a method under its wire name.

    Args:
        name: on the wire; its file and its test are called so, too.
        reference: paper and section.
        requirement: what a model has to have.
        cost: forwards and backwards.
        kind: of its maps with default parameters.
    """

    def register(cls: E) -> E:
        cls.name, cls.reference, cls.requirement, cls.cost = name, reference, requirement, cost
        cls.kind = kind
        cls.family = cls.__module__.split(".")[-2]
        if name in _registry:
            raise ValueError(f"two explainers are called {name!r}")
        _registry[name] = cls
        return cls

    return register


def identifier(name: str) -> str:
    """Return a method's name as files, tests and operations write it: `grad-cam++` is `grad_cam_plus_plus`."""
    return name.replace("+", "_plus").replace("-", "_")


def registry() -> Mapping[str, type[Explainer]]:
    """Return every method by name; the files of this folder's families are found, so a new method is one new file."""
    _find()
    return dict(sorted(_registry.items()))


@cache
def _find() -> None:
    package = importlib.import_module("service.explainers")
    for module in pkgutil.walk_packages(package.__path__, "service.explainers."):
        importlib.import_module(module.name)


def families() -> Mapping[str, str]:
    """Return every family of methods with the sentence that says what its methods have in common."""
    found = sorted({cls.family for cls in registry().values() if cls.__module__.startswith(f"{__package__}.")})
    return {name: inspect.getdoc(importlib.import_module(f"service.explainers.{name}")) or "" for name in found}


def method(name: str) -> type[Explainer]:
    """Return one method.

    Raises:
        UnknownMethod: there is none of that name.
    """
    methods = registry()
    if name not in methods:
        raise UnknownMethod.among(name, methods)
    return methods[name]
