"""How the networks learn, and how well they know what they were taught."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from service.tasks.detection import overlap
from tests.training.shapes.networks import MEAN, NETWORKS, STD, Detector, Trunk, centres
from tests.training.shapes.painting import KINDS, Scene, paint_many

PICTURES: Final = 2000
"""How many pictures are painted for training."""

STEPS: Final = 500
"""Optimiser steps."""

BATCH: Final = 32
RATE: Final = 4e-3  # peak learning rate


@dataclass(frozen=True)
class Batch:
    """Some pictures and their truth."""

    x: Tensor  # (N, 3, 96, 96)
    classes: Tensor  # (N, 96, 96) of 0 (ground) to 3
    boxes: Sequence[Tensor]  # (shapes, 5): x0, y0, x1, y1, kind

    @property
    def there(self) -> Tensor:
        """Return which kinds are in which picture, (N, 3) of 0 and 1."""
        found = [[float((boxes[:, 4] == kind).any()) for kind in range(len(KINDS))] for boxes in self.boxes]
        return torch.tensor(found)


def inputs(scenes: Sequence[Scene]) -> Tensor:
    """Return what networks of three channels are given, (N, 3, 96, 96)."""
    pictures = torch.from_numpy(np.stack([scene.picture for scene in scenes]))
    return (pictures.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def greyed(x: Tensor) -> Tensor:
    """Return what the network of one channel is given: ITU-R 601-2 luma, as Pillow's mode L."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


class Pool:
    """Painted pictures to draw batches from."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.x = inputs(scenes)
        self.classes = torch.from_numpy(np.stack([scene.classes for scene in scenes])).long()
        self.boxes = [torch.tensor([[*s.box, s.number] for s in scene.shapes]).float() for scene in scenes]

    def batch(self, chosen: Sequence[int], mirrored: bool = False) -> Batch:
        """Return these pictures, perhaps mirrored."""
        index = torch.tensor(chosen)
        x, classes, boxes = self.x[index], self.classes[index], [self.boxes[i] for i in chosen]
        if not mirrored:
            return Batch(x, classes, boxes)
        side = x.shape[-1]
        turned = [torch.stack([side - b[:, 2], b[:, 1], side - b[:, 0], b[:, 3], b[:, 4]], 1) for b in boxes]
        return Batch(x.flip(-1), classes.flip(-1), turned)


def hidden(batch: Batch, rng: np.random.Generator) -> Batch:
    """Return pictures of which half show some of their shapes only, and nothing else but black or the mean colour.

    Methods hide parts of a picture: what is left has to be known for what it is.
    """
    x, classes, kept = batch.x.clone(), batch.classes.clone(), list(batch.boxes)
    for i, boxes in enumerate(batch.boxes):
        if rng.random() < 0.5:
            continue
        stays = rng.random(len(boxes)) < 0.6
        stays[rng.integers(len(boxes))] = True
        kept[i] = boxes[torch.from_numpy(stays)]
        shown = torch.zeros(x.shape[-2:])
        for some, margin, value in ((kept[i], int(rng.integers(2, 24)), 1.0), (boxes, 2, 0.0), (kept[i], 2, 1.0)):
            for x0, y0, x1, y1 in some[:, :4].int().tolist():
                shown[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin] = value
        classes[i][shown == 0] = 0
        soft = F.avg_pool2d(shown[None, None], 5, 1, 2, count_include_pad=False)[0]
        filling = -MEAN / STD if rng.random() < 0.5 else 0.0
        x[i] = filling + (x[i] - filling) * soft
    return Batch(x, classes, kept)


def _detection(model: Trunk, batch: Batch) -> Tensor:
    """Return FCOS's loss: focal loss of the kinds, and 1 - IoU of the boxes at cells in the middle of a shape."""
    assert isinstance(model, Detector)
    logits, found = model.cells(batch.x)
    x, y = centres()
    wanted, boxes, inside = torch.zeros_like(logits), torch.zeros_like(found), torch.zeros(len(logits), *x.shape).bool()
    for i, shapes in enumerate(batch.boxes):
        for x0, y0, x1, y1, kind in shapes.tolist():
            reach = 0.3 * max(x1 - x0, y1 - y0)
            middle = ((x - (x0 + x1) / 2).abs() < reach) & ((y - (y0 + y1) / 2).abs() < reach)
            wanted[i, int(kind), middle] = 1
            boxes[i, :, middle] = torch.tensor([x0, y0, x1, y1])[:, None]
            inside[i] |= middle
    plain = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p = logits.sigmoid()
    missed = torch.where(wanted > 0, 1 - p, p)
    focal = (missed.square() * plain).sum() / inside.sum()
    near = overlap(found.movedim(1, -1)[inside], boxes.movedim(1, -1)[inside])
    return focal + (1 - near).mean()


def _segmentation(model: Trunk, batch: Batch) -> Tensor:
    """Return the cross entropy of each pixel; shapes count as much as the ground, of which there is more."""
    loss: Tensor = F.cross_entropy(model(batch.x)["out"], batch.classes, weight=torch.tensor([0.4, 1, 1, 1]))
    return loss


def alike(there: Tensor) -> Tensor:
    """Return how alike pictures are to be, (N, N): the cosine between which kinds are there, (N, 3)."""
    direction = F.normalize(there, dim=1)
    return direction @ direction.T


def _embedding(model: Trunk, batch: Batch) -> Tensor:
    """Return how far the cosines of all pairs are from those that are wanted."""
    direction = F.normalize(model(batch.x), dim=1)
    return (direction @ direction.T - alike(batch.there)).square().mean()


def _multilabel(model: Trunk, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch.x), batch.there)


def _grey(model: Trunk, batch: Batch) -> Tensor:
    """Return the cross entropy; where several kinds are there, each has its share."""
    return F.cross_entropy(model(greyed(batch.x)), batch.there / batch.there.sum(1, keepdim=True))


LOSSES: Mapping[str, Callable[[Trunk, Batch], Tensor]] = {
    "detector": _detection,
    "segmenter": _segmentation,
    "embedding": _embedding,
    "multilabel": _multilabel,
    "grey": _grey,
}


def train(
    name: str,
    begin: Trunk | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
    pictures: int = PICTURES,
    report: int = 0,
) -> Trunk:
    """Return a network in evaluation mode; the same arguments on the same machine give the same weights.

    Args:
        name: of `NETWORKS`.
        begin: a network whose trunk this one begins with: from pictures' labels alone a trunk learns ten times slower.
        steps: optimiser steps.
        seed: of the pictures, the initial weights and the order.
        pictures: how many are painted, once, before the first step.
        report: print the mean loss after every so many steps; 0 prints nothing.
    """
    pool = Pool(paint_many(pictures, seed))
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):  # the caller's random state is not ours to change
        torch.manual_seed(seed)
        model = NETWORKS[name]()
    if begin is not None:
        model.begin_as(begin)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(steps, 2), pct_start=0.2)
    model.train()
    seen, start = 0.0, time.perf_counter()
    for step in range(1, steps + 1):
        batch = pool.batch(rng.integers(0, pictures, BATCH).tolist(), bool(rng.integers(2)))
        loss = LOSSES[name](model, hidden(batch, rng))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        seen += loss.item()
        if report and step % report == 0:
            click.echo(f"{name}, step {step}: loss {seen / report:.4f}, {time.perf_counter() - start:.0f} s")
            seen = 0.0
    return model.eval()


@torch.no_grad()
def knows(name: str, model: Trunk, scenes: Sequence[Scene]) -> float:
    """Return how well a network knows its task on pictures, 0 to 1.

    detector: share of the shapes that the surest boxes, as many as there are shapes, meet with their kind and an IoU
    above one half; segmenter: mean IoU of the kinds; embedding: 1 - mean distance of cosines; multilabel: share of
    right labels; grey: share of the pictures whose top class is there.
    """
    batch = Pool(scenes).batch(range(len(scenes)))
    if name == "detector":
        met = 0
        for found, shapes in zip(model(list(batch.x)), batch.boxes, strict=True):
            best = found["scores"].argsort(descending=True)[: len(shapes)]
            near = overlap(found["boxes"][best][:, None], shapes[None, :, :4])
            met += int(((near > 0.5) & (found["labels"][best][:, None] - 1 == shapes[None, :, 4])).any(0).sum())
        return met / sum(map(len, batch.boxes))
    if name == "segmenter":
        won = model(batch.x)["out"].argmax(1)
        kinds = range(1, len(KINDS) + 1)
        shares = [((won == k) & (batch.classes == k)).sum() / ((won == k) | (batch.classes == k)).sum() for k in kinds]
        return float(torch.stack(shares).mean())
    answers = model(greyed(batch.x) if name == "grey" else batch.x)
    if name == "embedding":
        direction = F.normalize(answers, dim=1)
        return 1 - float((direction @ direction.T - alike(batch.there)).abs().mean())
    if name == "multilabel":
        return float(((answers > 0) == (batch.there > 0)).float().mean())
    return float(batch.there.gather(1, answers.argmax(1, keepdim=True)).mean())
