"""Small seeded networks: every structure that the service has to tell apart, quick enough for any test."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.explainers.base import registry

SIZE = 32


def model_of(method: str) -> str:
    """Return which of the catalogue's networks a method is asked about where any will do that it applies to."""
    return (
        "tiny-regression" if method == "ram" else "tiny-tokens" if registry()[method].family == "attention" else "tiny"
    )


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Build with the same weights every time; batch norms get the statistics of some noise, which makes them lively."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build()
        network.train()(torch.randn(16, 3, SIZE, SIZE))
    return network.eval()


def _stem(channels: int = 12) -> list[tuple[str, nn.Module]]:
    return [
        ("conv1", nn.Conv2d(3, 8, 3, padding=1)),
        ("bn1", nn.BatchNorm2d(8)),
        ("relu1", nn.ReLU(inplace=True)),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(8, channels, 3, padding=1)),
        ("relu2", nn.ReLU(inplace=True)),
    ]


def classifier(outputs: int = 5) -> nn.Module:
    """GAP -> linear: every method for classifiers applies."""

    def build() -> nn.Module:
        head = [("gap", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(12, outputs))]
        return nn.Sequential(OrderedDict([*_stem(), *head]))

    return _seeded(build)


def regression() -> nn.Module:
    """GAP -> one linear output: RAM applies."""
    return classifier(1)


def vgg() -> nn.Module:
    """Flattened maps into a linear layer: CAM does not apply."""

    def build() -> nn.Module:
        head = [("pool2", nn.MaxPool2d(2)), ("flatten", nn.Flatten()), ("fc", nn.Linear(12 * 64, 5))]
        return nn.Sequential(OrderedDict([*_stem(), *head]))

    return _seeded(build)


class Functional(nn.Module):
    """Functional and in-place ReLUs, a module called twice, and a tail like DenseNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu6 = nn.ReLU6(inplace=True)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu6(F.max_pool2d(self.conv1(x), 2))
        x = self.norm(self.conv2(self.relu6(self.conv2(x))))
        return self.fc(F.relu(x, inplace=True).mean((2, 3)))


def functional() -> nn.Module:
    return _seeded(Functional)


class Tokens(nn.Module):
    """Patches mixed by attention, as in a vision transformer: no ReLU, no maps after the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.mix = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = self.norm(t + self.mix(t, t, t, need_weights=False)[0])
        return self.fc(F.gelu(t).mean(1))


def tokens() -> nn.Module:
    return _seeded(Tokens)


class Centred(nn.Module):
    """Takes the mean over the channels off, as a layer norm does: features of a place cancel."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


def centred() -> nn.Module:
    """GAP -> linear over features that cancel; of a thousand classes none is probable, and 1 and 2 hardly possible."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        stem = [("conv1", nn.Conv2d(3, 8, 3, padding=1)), ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(4))]
        maps = [("conv2", nn.Conv2d(8, 48, 3, padding=1)), ("norm", Centred())]
        fc = nn.Linear(48, 1000)
        fc.weight *= 4
        fc.bias[1:3] -= torch.tensor([1.0, 5.0])
        head = [("gap", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", fc)]
        return nn.Sequential(OrderedDict([*stem, *maps, *head])).eval()


class Shares(nn.Module):
    """Adds up the cells of a 2 x 2 grid with known weights, or multiplies two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([1.0, 2.0, -3.0, 4.0]))

    def forward(self, x: Tensor) -> Tensor:
        u = F.adaptive_avg_pool2d(x[:, :1], 2).flatten(1)
        return torch.stack([(self.weights * u).sum(1), u[:, 0] * u[:, 3], 0 * u[:, 0]], 1)
