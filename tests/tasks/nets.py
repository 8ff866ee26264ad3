"""The networks of `catalog.toml`: one a task."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tasks.conftest import Trunk, pooled
from tests.tasks.test_detection import _detect


def multilabel() -> nn.Module:
    return Trunk(lambda t, a: pooled(t, a) * 4)


def binary() -> nn.Module:
    return Trunk(lambda t, a: pooled(t, a).sigmoid(), 1)


def unsaid() -> nn.Module:
    return Trunk(pooled)


def segmenter() -> nn.Module:
    return Trunk(lambda t, a: {"out": F.interpolate(t.conv(a) * 3, scale_factor=4)})


def detector() -> nn.Module:
    return Trunk(_detect)


def embedding() -> nn.Module:
    return Trunk(pooled, 6)


class Dark(nn.Module):
    """Has no finite answer to a black picture."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = unsaid()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) / torch.relu(x + 0.999 * 2).amax((1, 2, 3))[:, None].sign()


def dark() -> nn.Module:
    return Dark()
