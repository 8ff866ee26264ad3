"""Each operator's rule: rectangles give what the whole map gives, whatever the geometry."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.engine.incremental.checks import Head, check, headed, regional


@st.composite
def convolutions(draw):
    side = st.integers(1, 3)
    kernel, stride, dilation = ((draw(side), draw(side)) for _ in range(3))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple(draw(st.integers(0, r)) for r in reach)
    size = tuple(draw(st.integers(max(r + 1, 6), 15)) for r in reach)
    window = tuple(draw(st.integers(1, s)) for s in size)
    return kernel, stride, dilation, padding, draw(st.sampled_from([1, 2, 6])), size, window


@settings(max_examples=60, deadline=None, derandomize=True)
@given(convolutions())
def test_convolutions_of_any_geometry(geometry):
    kernel, stride, dilation, padding, groups, size, window = geometry
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups)
    # The first one spreads the change, and the last one reads what the middle one has left of it.
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(6, 6, 2, padding=1)]
    assert regional(check(headed(size, *layers), size, window, felt=0), "conv2d")


@st.composite
def pools(draw):
    kernel, stride = ((draw(st.integers(1, 4)), draw(st.integers(1, 4))) for _ in range(2))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = tuple(draw(st.integers(8, 15)) for _ in range(2))
    window = tuple(draw(st.integers(1, s)) for s in size)
    kind = draw(st.sampled_from(["max", "dilated", "avg", "avg, borders left out", "avg, fixed"]))
    return kind, kernel, stride, padding, draw(st.booleans()), size, window


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pools())
def test_pools_of_any_geometry(geometry):
    kind, kernel, stride, padding, ceil, size, window = geometry
    if kind in ("max", "dilated"):
        dilation = 2 if kind == "dilated" else 1
        pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    else:
        divisor = 3 if kind == "avg, fixed" else None
        pool = nn.AvgPool2d(kernel, stride, padding, ceil, kind == "avg", divisor)
    torch.manual_seed(0)
    # No ReLU before the pool: a border of zeros would be the maximum of negative values.
    network = headed(size, nn.Conv2d(3, 8, 3, padding=1), pool, nn.Conv2d(8, 8, 2, padding=1))
    built = check(network, size, window, felt=0)
    assert regional(built, "max_pool2d" if "avg" not in kind else "avg_pool2d")


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.norm, self.slope = nn.BatchNorm2d(8), nn.PReLU(8)

    def forward(self, x):
        return self.b(self.function(self, self.a(x)))


def _shuffled(_, x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def _overwritten(_, x):
    y = x * 2
    F.relu_(y)  # whoever reads `y` from here on reads what is written there now
    return y + x


OPERATORS = {
    "relu": lambda _, x: F.relu(x),
    "relu6": lambda _, x: F.relu6(x),
    "hardtanh": lambda _, x: F.hardtanh(x, -0.5, 0.7),
    "leaky": lambda _, x: F.leaky_relu(x, 0.2),
    "elu": lambda _, x: F.elu(x),
    "silu": lambda _, x: F.silu(x, inplace=True),
    "gelu": lambda _, x: F.gelu(x, approximate="tanh"),
    "hardswish": lambda _, x: F.hardswish(x),
    "hardsigmoid": lambda _, x: F.hardsigmoid(x),
    "mish": lambda _, x: F.mish(x),
    "softplus": lambda _, x: F.softplus(x),
    "sigmoid": lambda _, x: torch.sigmoid(x),
    "tanh": lambda _, x: torch.tanh(x),
    "clamp": lambda _, x: x.clamp(min=-0.1),
    "prelu": lambda m, x: m.slope(x),
    "norm": lambda m, x: m.norm(x),
    "dropout": lambda m, x: F.dropout(F.dropout2d(x, training=False), training=False, inplace=True),
    "scale": lambda m, x: x * m.scale + 0.3,
    "product": lambda m, x: x * torch.sigmoid(x),
    "arithmetic": lambda _, x: (x - 0.2 * x.abs()) / 2 + (1 - x).pow(2),
    "maximum": lambda m, x: torch.maximum(x, m.b(x)),
    "overwritten": _overwritten,
    "view, read alone": lambda _, x: torch.cat([F.relu(x[:, :4]), x[:, :4] - 1], 1),
    "shuffle": _shuffled,
    "channel_shuffle": lambda _, x: F.channel_shuffle(x, 4),
    "chunk": lambda _, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split": lambda _, x: torch.cat([x.split([3, 5], 1)[1], x[:, 2:5]], 1),
    "twice": lambda _, x: torch.cat([x[:, :4], x[:, :4]], 1),
    "select": lambda _, x: torch.cat([x[:, i].unsqueeze(1) * (i + 1) for i in range(8)], 1),
    "permute": lambda _, x: x.unflatten(1, (2, 4)).permute(0, 2, 1, 3, 4).flatten(1, 2),
    "pad": lambda _, x: F.pad(x, (0, 1, 2, 3), value=0.5),
    "crop": lambda _, x: x[:, :, 1:-2, 3:],
    "same": lambda m, x: F.conv2d(x, m.b.weight[:, :, :2], padding="same", dilation=3),
    "adaptive": lambda _, x: F.adaptive_avg_pool2d(x, (10, 6)),
    "unchanged": lambda _, x: F.adaptive_avg_pool2d(x, (20, 18)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("window", [(3, 4), (20, 5)])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_carry_regions(name, window):
    size = (20, 18)
    torch.manual_seed(0)
    body = Apply(OPERATORS[name])
    oracles_of_norm(body)
    built = check(Head(body, size), size, window)
    furthest, nodes = built.recording.furthest, built.recording.nodes
    assert furthest == len(nodes) - 2, nodes[furthest].name  # all but flatten and linear


def oracles_of_norm(network):
    """Give batch norms something to do."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.5)


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("window", [(3, 4), (20, 5)])
def test_means_over_the_map_are_updated_by_what_changed(window, keepdim):
    size = (20, 18)

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 4)

        def forward(self, x):
            x = torch.sigmoid(self.a(x))
            means = F.adaptive_avg_pool2d(x, 1) if keepdim else x.mean((2, 3))
            return F.log_softmax(self.fc(means.flatten(1)), 1)

    torch.manual_seed(0)
    built = check(Mean(), size, window)
    assert built.recording.furthest == len(built.recording.nodes)
