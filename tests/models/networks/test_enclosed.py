"""What functions and objects of a network hold counts in its version, and modules there are told."""

from collections.abc import Callable
from functools import partial, wraps
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.models.identity import digest
from service.models.networks import enclosed

ALL = torch.ones(3)


class Holder:
    """No module, and has some."""

    def __init__(self, module: nn.Module) -> None:
        self.deeper = {"not": "seen"}
        self.module = module
        self.again = self


class Ending(nn.Module):
    """A network that ends in a function."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self.fc, self.end = nn.Linear(3, 3), end
        self.loud: Callable[[Tensor], Tensor] = lambda x: self.fc(x) * 2
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(3))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.fc(x))


def _closure(value: Tensor) -> nn.Module:
    return Ending(lambda y: y * value)


def _default(value: Tensor) -> nn.Module:
    def end(y: Tensor, *, by: Tensor = value) -> Tensor:
        return y * by

    return Ending([end])


def _partial(value: Tensor) -> nn.Module:
    return Ending(partial(torch.mul, value))


def _decorated(value: Tensor) -> nn.Module:
    def scaled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        @wraps(function)
        def inner(y: Tensor) -> Tensor:
            return function(y) * value

        return inner

    return Ending({"end": scaled(torch.relu)})


def _class(value: Tensor) -> nn.Module:
    class Inner(Ending):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * value

    return Inner(nn.Identity())


def _forward(value: Tensor) -> nn.Module:
    network = nn.Linear(3, 3)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    network.forward = MethodType(lambda self, x: x * value, network)  # type: ignore[method-assign]
    return network


def _hook(value: Tensor) -> nn.Module:
    network = Ending(nn.Identity())
    network.register_forward_hook(lambda module, given, output: output * value)
    return network


def _object(value: Tensor) -> nn.Module:
    holder = Holder(nn.Identity())
    holder.deeper = {"value": value}  # type: ignore[dict-item]
    return Ending(holder)


def _array(value: Tensor) -> nn.Module:
    table = value.numpy().copy()
    return Ending(lambda y: y * torch.from_numpy(table))


def _global(value: Tensor) -> nn.Module:
    ALL.copy_(value)
    return Ending(lambda y: y * ALL)


@pytest.mark.parametrize(
    "made", [_closure, _default, _partial, _decorated, _class, _forward, _hook, _object, _array, _global]
)
def test_the_version_counts_what_functions_and_objects_hold(made: Callable[[Tensor], nn.Module]) -> None:
    values = torch.ones(3), torch.ones(3), torch.tensor([1.0, 1.0, 1.5])
    first, again, other = (digest(made(value.clone())) for value in values)
    assert first == again != other
    (found,) = enclosed.arrays(made(values[2])).values()
    assert isinstance(found, Tensor | np.ndarray)


def test_what_is_a_parameter_is_not_told_twice() -> None:
    network = Ending(None)
    network.end = lambda y: y @ network.fc.weight
    assert enclosed.arrays(network) == {}
    assert enclosed.hidden(network) == []


def test_modules_behind_functions_and_in_objects_are_told() -> None:
    network = Ending(None)
    inner = nn.Linear(3, 3)
    assert enclosed.hidden(network) == []
    network.fc.holder = Holder(nn.Linear(1, 1))
    network.call = Holder(nn.Conv2d(1, 1, 1)).module.forward
    network.known = [Holder(network.fc)]
    assert enclosed.hidden(network) == ["call", "fc.holder.module"]
    network.inner = {"a": (Holder(nn.Identity()), 1)}
    network.end = lambda y: inner(y)
    assert enclosed.hidden(network) == ["call", "end.inner", "fc.holder.module", "inner.a.0.module"]
