"""The networks: one trunk, and a head for each task. Their weights lie beside this file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from tests.training.shapes.painting import KINDS, SIDE

HERE: Final = Path(__file__).parent
CATALOG: Final = HERE / "catalog.toml"
MEAN, STD = 0.5, 0.25  # of every channel, as in the catalogue
STRIDE = 8  # pixels from one cell of the last maps to the next
DIMENSIONS = 16  # of an embedding


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


class Trunk(nn.Module):
    """Maps of (N, C, 96, 96): `fine` (N, 24, 24, 24), and of these `deep` (N, 32, 12, 12)."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.fine = nn.Sequential(_block(channels, 12, 2), _block(12, 16, 2), _block(16, 24, 1))
        self.deep = nn.Sequential(_block(24, 32, 2), _block(32, 32, 1), _block(32, 32, 1))

    def begin_as(self, other: "Trunk") -> None:
        """Take another network's trunk over; where this one has one channel, for pictures that have it three times."""
        state = {key: value for key, value in other.state_dict().items() if key.split(".")[0] in ("fine", "deep")}
        first = "fine.0.0.weight"
        if self.get_parameter(first).shape[1] == 1:
            state[first] = state[first].sum(1, keepdim=True)
        self.load_state_dict(state, strict=False)


class Averaged(Trunk):
    """A linear map of the last maps' averages: (N, outputs)."""

    def __init__(self, outputs: int, channels: int = 3) -> None:
        super().__init__(channels)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs)."""
        averages: Tensor = self.pool(self.deep(self.fine(x)))
        outputs: Tensor = self.head(averages.flatten(1))
        return outputs


class Segmenter(Trunk):
    """A class for each pixel, as torchvision's segmenters answer: `{"out": (N, 4, 96, 96)}`, class 0 the ground."""

    def __init__(self) -> None:
        super().__init__()
        self.merge = _block(24 + 32, 24, 1)
        self.head = nn.Conv2d(24, 1 + len(KINDS), 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the logits."""
        fine = self.fine(x)
        deep = F.interpolate(self.deep(fine), scale_factor=2.0, mode="bilinear", align_corners=False)
        logits = self.head(self.merge(torch.cat([fine, deep], 1)))
        return {"out": F.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)}


class Detector(Trunk):
    """Boxes as torchvision's detectors answer: a dictionary of `boxes`, `labels` and `scores` for each picture.

    Each cell of the last maps tells how sure it is of each kind, and how far the shape's edges are: Tian et al. 2019
    (FCOS), section 3.1, at one scale. Of boxes of one kind that overlap by half the surest is kept.
    """

    LEAST, OVERLAP, MOST = 0.02, 0.5, 20  # score of a box that is kept; intersection over union; boxes

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.edges = nn.Conv2d(32, len(KINDS), 1), nn.Conv2d(32, 4, 1)

    def cells(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of each kind (N, 3, 12, 12), and boxes (N, 4, 12, 12) in pixels."""
        maps = self.deep(self.fine(x))
        left, top, right, bottom = (STRIDE * F.softplus(self.edges(maps))).unbind(1)
        x0, y0 = (at.to(x) for at in centres())
        return self.kinds(maps), torch.stack([x0 - left, y0 - top, x0 + right, y0 + bottom], 1).clamp(0, SIDE)

    def forward(self, pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return what is found in pictures (3, 96, 96), with labels from 1."""
        logits, boxes = self.cells(torch.stack(list(pictures)))
        return [self._found(*one) for one in zip(logits.sigmoid(), boxes, strict=True)]

    def _found(self, scores: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        kind, cell = torch.nonzero(scores.flatten(1) > self.LEAST, as_tuple=True)
        sure, places = scores.flatten(1)[kind, cell], boxes.flatten(1)[:, cell].T
        kept = batched_nms(places, sure, kind, self.OVERLAP)[: self.MOST]
        return {"boxes": places[kept], "labels": kind[kept] + 1, "scores": sure[kept]}


def centres() -> tuple[Tensor, Tensor]:
    """Return x and y of the centre of each cell of the last maps, (12, 12) each, in pixels."""
    along = torch.arange(STRIDE / 2, SIDE, STRIDE)
    y, x = torch.meshgrid(along, along, indexing="ij")
    return x, y


def detector() -> Detector:
    """Return an untrained detector."""
    return Detector()


def segmenter() -> Segmenter:
    """Return an untrained segmenter."""
    return Segmenter()


def embedding() -> Averaged:
    """Return an untrained network whose outputs are coordinates."""
    return Averaged(DIMENSIONS)


def multilabel() -> Averaged:
    """Return an untrained network of independent logits, one a kind."""
    return Averaged(len(KINDS))


def grey() -> Averaged:
    """Return an untrained classifier of pictures of one channel."""
    return Averaged(len(KINDS), channels=1)


NETWORKS: Mapping[str, Callable[[], Trunk]] = {
    make.__name__: make for make in (segmenter, detector, embedding, multilabel, grey)
}


def trained(name: str, folder: Path = HERE) -> Trunk:
    """Return a network with the weights that lie in a folder, in evaluation mode, without the service."""
    network = NETWORKS[name]()
    network.load_state_dict(load_file(folder / f"{name}.safetensors"))
    return network.eval()
