"""What a network keeps is found wherever modules keep things, and can be put back."""

from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from service.engine.network.forms.past import Past
from service.models.networks.forms import served


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.BatchNorm1d(3)
        self.tensor, self.count, self.name, self.nothing = torch.zeros(3), 3, "a", None
        self.listed, self.named, self.queue = [torch.ones(2)], {"a": 1}, deque([1, 2])
        self.several = {1, 2}


def _append(holder):
    holder.listed.append(torch.zeros(1))


CHANGES = {
    "tensor": lambda holder: holder.tensor.add_(1),
    "count": lambda holder: setattr(holder, "count", 4),
    "name": lambda holder: setattr(holder, "name", "b"),
    "nothing": lambda holder: setattr(holder, "nothing", torch.ones(1)),
    "listed": _append,
    "named": lambda holder: holder.named.update(b=2),
    "queue": lambda holder: holder.queue.append(3),
    "several": lambda holder: holder.several.add(3),
    "later": lambda holder: setattr(holder, "later", 1),
    "inner.running_mean": lambda holder: holder.inner.running_mean.add_(1),
    "inner.mask": lambda holder: holder.inner.register_buffer("mask", torch.ones(1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_and_put_back(name) -> None:
    holder = Holder()
    held = holder.listed, holder.tensor, holder.inner.running_mean
    past = Past(holder)
    assert past.changed() is None
    CHANGES[name](holder)
    assert past.changed() == name
    past.restore()
    assert past.changed() is None
    assert all(a is b for a, b in zip(held, (holder.listed, holder.tensor, holder.inner.running_mean), strict=True))
    assert not hasattr(holder, "later")
    assert not holder.tensor.any()
    assert len(holder.queue) == 2


FIRST, SEEN = [None], None


class Object:
    def __init__(self) -> None:
        self.value, self.deeper = None, {"there": [{}]}

    def keep(self, x) -> None:
        self.value = x


class Beside(nn.Module):
    """Keeps what it is given, beside itself."""

    seen: ClassVar = {}

    def __init__(self) -> None:
        super().__init__()
        self.object, self.space = Object(), SimpleNamespace(n=0)
        self.table = {"inner": {}, "tensors": (torch.zeros(1),)}
        self.array = {"a": np.zeros(1)}
        self.again = self.object.itself = self.object
        held, first = {}, None

        def into_a_cell(x) -> None:
            nonlocal first
            first = x

        self.into_a_cell, self.into_a_closure = into_a_cell, lambda x: held.update(x=x)
        self.partial = partial(lambda x, held: held.append(x), held=[])
        self.bound = Object().keep

    def into_a_default(self, x, held=[]) -> None:  # noqa: B006
        held.append(x)

    def into_a_global(self, x) -> None:
        FIRST[0] = x

    def renamed(self, x) -> None:
        global SEEN
        SEEN = x


BESIDE = {
    "an object": (lambda net, x: setattr(net.object, "value", x), "object"),
    "in an object": (lambda net, x: net.object.deeper["there"][0].update(x=x), "object.deeper.there.0"),
    "a namespace": (lambda net, x: setattr(net.space, "n", net.space.n + 1), "space"),
    "a table in a table": (lambda net, x: net.table["inner"].update(x=x), "table.inner"),
    "a tensor in a tuple": (lambda net, x: net.table["tensors"][0].add_(x), "table.tensors.0"),
    "an array": (lambda net, x: net.array["a"].fill(float(x)), "array.a"),
    "a cell": (lambda net, x: net.into_a_cell(x), "into_a_cell.first"),
    "a closure": (lambda net, x: net.into_a_closure(x), "into_a_closure.held"),
    "a partial": (lambda net, x: net.partial(x), "partial.keywords.held"),
    "a bound object": (lambda net, x: net.bound(x), "bound.self"),
    "a default": (lambda net, x: net.into_a_default(x), "Beside.into_a_default.defaults.0"),
    "a class's": (lambda net, x: net.seen.update(x=x), "Beside.seen"),
    "a global": (lambda net, x: net.into_a_global(x), "Beside.into_a_global.FIRST"),
    "a global's name": (lambda net, x: net.renamed(x), "Beside.renamed.SEEN"),
}


@pytest.mark.parametrize("where", BESIDE)
def test_what_is_kept_in_objects_and_functions_is_found_and_put_back(where) -> None:
    network = Beside()
    change, address = BESIDE[where]
    past = Past(network)
    assert past.changed() is None
    change(network, torch.ones(1))
    assert past.changed() == address
    past.restore()
    assert past.changed() is None
    change(network, torch.ones(1))
    assert past.changed() == address
    past.restore()


def test_what_is_equal_or_of_a_library_is_no_change() -> None:
    network = Beside()
    network.config, network.rate = type("Config", (), {"__module__": "transformers.x"})(), Object()
    network.rate.value = 1e9
    past = Past(network)
    network.config.steps, network.rate.value = 1, float("1e9")
    network.object.deeper = network.object.deeper
    assert past.changed() is None


def test_the_same_again_is_no_change() -> None:
    holder = Holder()
    past = Past(holder)
    holder.count, holder.name = 3, "a"
    holder.register_forward_hook(lambda *_: None)
    holder.eval()
    assert past.changed() is None


@pytest.mark.parametrize("inside", [False, True])
def test_more_with_each_picture_grows(inside) -> None:
    holder = Beside() if inside else Holder()
    past = Past(holder)
    past.note()
    assert not past.grows
    holder.object.deeper["there"].append(torch.ones(1)) if inside else _append(holder)
    past.note()
    assert past.grows
    past.note()
    assert not past.grows


class Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen.add_(1)
        return x + self.seen


@pytest.mark.filterwarnings("ignore")  # that TorchScript is deprecated
@pytest.mark.parametrize("inside", [False, True])
def test_what_is_compiled_keeps_its_buffers_where_they_are_found(inside) -> None:
    scripted = torch.jit.script(Compiled())
    network = nn.Sequential(nn.Identity(), scripted) if inside else served(scripted, "m")[0]
    past = Past(network)
    network(torch.zeros(1))
    assert past.changed() == ("1.seen" if inside else "seen")
    past.restore()
    assert past.changed() is None
    assert float(network(torch.zeros(1))) == 1


def test_what_is_kept_is_a_problem_where_answers_depend_on_it() -> None:
    holder = Holder()
    past = Past(holder)
    assert past.problem(lambda: float("nan"), 1e-3) is None
    holder.count = 4
    assert past.problem(lambda: 0.0, 1e-3) is None
    for off in (0.5, float("nan")):
        holder.count = 4
        assert past.problem(lambda off=off: off, 1e-3)[0] == "repeatable"


def test_a_number_that_each_forward_changes_is_told_from_one_that_is_set() -> None:
    def forward() -> float:
        holder.width = 32
        holder.count += 1
        return 0.0

    holder = Holder()
    past = Past(holder)
    for _ in range(3):
        forward()
    assert past.problem(forward, 1e-3) is None
    assert past.counting == "count"
    holder.count = 3
    past = Past(holder)
    assert past.problem(lambda: 0.0, 1e-3) is None
    assert past.counting is None
