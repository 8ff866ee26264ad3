"""All that a network holds is found, whatever its own methods say, and wherever it lies."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.models.identity import digest
from service.models.networks import holding
from service.models.networks.forms import served
from tests import tiny


class Usual(nn.Module):
    """A batch norm, a linear layer, a tied one, and a buffer that is no part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.5))
        self.fc = nn.Linear(4, 5)
        self.twin = nn.Linear(4, 5)
        self.twin.weight = self.fc.weight
        self.register_buffer("shift", torch.ones(5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.norm(x)).mean((2, 3))
        return self.fc(y) + self.twin(y) + self.shift


class Own(Usual):
    """The same, and each method of `nn.Module` has another meaning."""

    def parameters(self, groups: Any) -> Any:  # type: ignore[override]
        return [{"params": [], "lr": group} for group in groups]

    def named_parameters(self) -> Any:  # type: ignore[override]
        return {"fc": self.fc.weight}

    def buffers(self) -> Any:  # type: ignore[override]
        raise RuntimeError("none")

    named_buffers = children = named_children = named_modules = buffers  # type: ignore[assignment]
    get_submodule = get_parameter = requires_grad_ = zero_grad = buffers  # type: ignore[assignment]
    to = float = half = double = bfloat16 = cpu = cuda = type = buffers  # type: ignore[assignment]

    def modules(self) -> Any:
        return [self.fc]

    def state_dict(self, path: str) -> Any:  # type: ignore[override]
        return {"path": path}

    def train(self, mode: bool = True) -> "Own":
        self.norm.train(True)
        return self

    def _apply(self, fn: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("none")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.fc, name)

    def __len__(self) -> int:
        return 0


def seeded(make: Any) -> Any:
    torch.manual_seed(0)
    return make()


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_methods_of_its_own_hide_nothing() -> None:
    plain, own = seeded(Usual), seeded(Own)
    assert [path for path, _ in holding.modules(own)] == [path for path, _ in plain.named_modules()]
    assert list(holding.parameters(own)) == [name for name, _ in plain.named_parameters()]
    assert list(holding.buffers(own)) == [name for name, _ in plain.named_buffers()]
    assert list(holding.state(own)) == list(plain.state_dict())
    assert holding.state(own)._metadata == plain.state_dict()._metadata  # type: ignore[attr-defined]
    assert holding.unregistered(own) == []
    assert digest(own) == digest(plain)
    assert dict(holding.modules(own))["body.1"] is own.body[1]


def test_methods_of_its_own_do_not_decide_how_it_is_served() -> None:
    expected = seeded(Usual).eval()(X)
    own = seeded(Own)
    holding.cast(own, torch.float64)
    assert {value.dtype for value in holding.tensors(own).values() if value.is_floating_point()} == {torch.float64}
    network, said = served(own, "m")
    assert "float64" in said[0]
    assert not any(module.training for _, module in holding.modules(network))
    assert not any(value.requires_grad for value in holding.tensors(network).values())
    torch.testing.assert_close(network(X), expected)
    assert network.twin.weight is network.fc.weight


class Plain(nn.Module):
    """Keeps modules and tensors where PyTorch does not look."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 4, 3)
        self.blocks = [nn.Sequential(nn.Conv2d(4, 4, 3), nn.Dropout(0.5)), nn.ReLU()]
        self.heads = {"a": (nn.Linear(4, 5), "unused")}
        self.blocks[0].owner = [self]  # as some do who want no circle
        self.mean = torch.zeros(3, 1, 1)
        self.scales = [torch.ones(1), (torch.ones(1), 2)]
        self.circle: list[Any] = []
        self.circle.append(self.circle)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x - self.mean)
        for block in self.blocks:
            y = block(y)
        return self.heads["a"][0](y.mean((2, 3))) * self.scales[0] * self.scales[1][0]


def test_what_lies_in_plain_lists_is_found() -> None:
    network = Plain()
    assert [path for path, _ in holding.modules(network)] == [
        *("", "first", "blocks.0", "blocks.0.0", "blocks.0.1", "blocks.1", "heads.a.0")
    ]
    assert [path for path, _ in holding.unregistered(network)] == ["blocks.0", "blocks.1", "heads.a.0"]
    assert {"first.bias", "blocks.0.0.weight", "heads.a.0.bias"} <= holding.parameters(network).keys()
    assert list(holding.kept(network)) == ["mean", "scales.0", "scales.1.0"]
    assert list(holding.state(network)) == ["first.weight", "first.bias"]


def test_what_lies_in_plain_lists_is_served_like_the_rest() -> None:
    expected = Plain()
    for _, module in holding.modules(expected):
        module.training = False
    with torch.no_grad():
        truth = expected(X)
    network, _ = served(holding.cast(Plain(), torch.float64), "m")
    torch.testing.assert_close(network(X), truth)
    assert not network(X).requires_grad
    holding.cast(network, torch.bfloat16)
    assert network(X.bfloat16()).dtype == torch.bfloat16
    assert isinstance(network.scales[1], tuple)


def test_all_of_it_is_moved() -> None:
    network = holding.moved(Plain(), "meta")
    held = [*holding.tensors(network).values(), *holding.kept(network).values()]
    assert len(held) == 9
    assert all(value.is_meta for value in held)


@pytest.mark.parametrize("path", ["blocks.0.0.weight", "heads.a.0.bias", "first.weight"])
def test_the_version_counts_weights_wherever_they_lie(path: str) -> None:
    before, network = digest(Plain()), Plain()
    assert digest(network) == before
    with torch.no_grad():
        holding.parameters(network)[path].view(-1)[0] += 1e-6
    assert digest(network) != before


def test_the_version_counts_tensors_beside_them() -> None:
    before, network = digest(Plain()), Plain()
    network.mean[0] = 1e-3
    assert digest(network) != before
    network = Plain()
    network.scales[1] = (torch.full((1,), 2.0), 2)
    assert digest(network) != before


def test_the_version_is_the_same_where_another_machine_computes_other_last_digits() -> None:
    network, wave = Plain(), torch.arange(4096.0).mul(0.37).sin()
    network.mean = wave.view(1, 64, 64)
    before = digest(network)
    network.mean = (wave * (1 + 1e-7 * torch.randn(4096, generator=torch.Generator().manual_seed(2)))).view(1, 64, 64)
    assert digest(network) == before
    network.mean = wave.roll(1).view(1, 64, 64)
    assert digest(network) != before


def test_what_a_graph_ran_into_can_be_copied() -> None:
    network = Plain()
    network.mean = nn.Parameter(torch.ones(3, 1, 1))[:] * 2
    held, _ = served(network, "m")
    assert not held.mean.requires_grad


def test_modules_are_replaced_where_they_lie() -> None:
    network = Plain()
    one, two = nn.Identity(), nn.Identity()
    holding.replace(network, {"blocks.0.1": one, "blocks.1": two})
    assert network.blocks[0][1] is one
    assert network.blocks[1] is two
    with pytest.raises(ValueError, match="heads"):
        holding.replace(network, {"heads.a.0": one})


def test_an_evaluation_mode_that_raises_is_told() -> None:
    class Refuses(Usual):
        def eval(self) -> "Refuses":
            raise SystemExit(1)

    network = Refuses()
    raised, left = holding.evaluating(network)
    assert isinstance(raised, SystemExit)
    assert left[0] == "the network itself"
    assert not network.norm.training


def test_recurrent_layers_move_with_what_they_lay_out() -> None:
    network = nn.Sequential(nn.LSTM(4, 3))
    holding.cast(network, torch.float64)
    given = torch.randn(2, 1, 4, dtype=torch.float64)
    assert network(given)[0].dtype == torch.float64


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_a_box_shows_its_tensors_and_no_parts() -> None:
    box = served(torch.jit.trace(tiny.classifier(), torch.rand(1, 3, 32, 32)), "m")[0]
    assert [path for path, _ in holding.modules(box)] == [""]
    assert len(holding.tensors(box)) == len(holding.tensors(tiny.classifier()))
