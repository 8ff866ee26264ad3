"""Exported graphs: rules meet in them what they meet in the network that was exported, and layers are layers again."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn import functional as F

from service.models.exported import graphs
from service.models.networks import holding
from tests.models.exported.doubles import RULES, Attends, X, served_export, slopes, tiny


class Activated(nn.Module):
    """Convolutions, and behind them activations of all forms, a gate and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding="same", groups=2, bias=False)
        self.relu, self.over = nn.ReLU(), nn.ReLU(inplace=True)
        kinds = (nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Mish, nn.SELU)
        made = [kind(inplace=over) for kind in kinds for over in (False, True)]
        self.rest = nn.ModuleList(
            [*made, nn.GELU("tanh"), nn.PReLU(), nn.LogSigmoid(), nn.Softplus(), nn.Hardtanh(0, 1)]
        )
        self.fc = nn.Linear(8, 5)
        nn.init.normal_(self.bn1.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = x + self.over(self.conv2(x))
        x = torch.stack([one(x - 0.5) for one in self.rest]).sum(0)
        x = x * x.mean((2, 3), keepdim=True).sigmoid()
        return self.fc(x.flatten(2).mean(2)).softmax(-1)


class Pooled(nn.Module):
    """Norms and pools."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.bn, self.gn = nn.ConvTranspose2d(3, 8, 2, 2), nn.BatchNorm2d(8, affine=False), nn.GroupNorm(2, 8)
        self.inn, self.fc = nn.InstanceNorm2d(8, affine=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.gn(F.max_pool2d(self.bn(self.up(x)), 2)))
        x = F.adaptive_max_pool2d(torch.clamp(self.inn(x), min=0), 4)
        return self.fc(F.normalize(F.avg_pool2d(x, 4).flatten(1)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "activations": Activated,
    "pools": Pooled,
    "attention": lambda: Attends(fused=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_rules_meet_the_same(name: str) -> None:
    network = NETWORKS[name]().eval()
    graph = served_export(network)
    torch.testing.assert_close(graph(X), network(X))
    for rule in RULES.values():
        torch.testing.assert_close(slopes(graph, rule), slopes(network, rule))


def test_what_no_function_stands_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_PLACES", (F,))
    left = {name for _, module in holding.modules(served_export(tiny())) for name in graphs.unspoken(module)}
    assert left == {"max_pool2d", "flatten"}


class Ways(nn.Module):
    """Goes one of two ways, and one of them several times: by operators that are given functions, or in Python."""

    def __init__(self, *, python: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.python = nn.Conv2d(3, 5, 3), python

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.python:
            x = F.relu(x) if x.sum() > 0 else F.relu(-x)
            for _ in range(3):
                x = F.relu(x - 0.01)
        else:
            x = torch.cond(x.sum() > 0, lambda x: F.relu(x), lambda x: F.relu(-x), (x,))
            start = torch.zeros((), dtype=torch.long)
            _, x = while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, F.relu(x - 0.01)), (start, x))
        return x.mean((2, 3))


def test_control_flow_is_met_by_rules_as_in_python() -> None:
    plain, network = Ways(python=True).eval(), served_export(Ways(python=False).eval())
    for x in (X, -X):
        torch.testing.assert_close(network(x), plain(x))
    for rule in RULES.values():
        torch.testing.assert_close(slopes(network, rule), slopes(plain, rule))
