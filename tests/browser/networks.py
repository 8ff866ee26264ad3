"""Small networks of the tasks that have more to choose than a class: boxes, regions, pictures to be held against."""

from typing import Any

import torch
from torch import Tensor, nn


class Trunk(nn.Module):
    """Two layers of maps, seeded."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.features = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, outputs, 1)
            )


class Detector(Trunk):
    """Three boxes, whose scores move with the picture."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        y = self.features(x).mean((2, 3))
        places = torch.tensor([[4.0, 4, 20, 20], [8, 10, 30, 28], [2, 16, 14, 30]], device=x.device)
        scores = (3 * y + torch.tensor([2.0, 0.5, 0.0])).sigmoid()
        labels = torch.tensor([1, 2, 1])
        return [
            {"boxes": places + row[:1], "scores": score, "labels": labels} for row, score in zip(y, scores, strict=True)
        ]


class Segmenter(Trunk):
    """Scores of three classes at each place."""

    def forward(self, x: Tensor) -> Any:
        return nn.functional.interpolate(self.features(x) * 8, x.shape[2:], mode="bilinear")


class Embedder(Trunk):
    """A direction of eight numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.features(x).mean((2, 3)), dim=1)


def detector() -> nn.Module:
    return Detector(3)


def segmenter() -> nn.Module:
    return Segmenter(3)


def embedder() -> nn.Module:
    return Embedder(8)
