"""What every task has to give: methods of all kinds, right on it against what is worked out by hand."""

import torch
from torch import Tensor
from torch.nn import functional as F

from service.explainers.cam.grad_cam import GradCAM
from service.explainers.cam.score_cam import ScoreCAM
from service.explainers.gradient.saliency import Saliency
from service.explainers.perturbation.occlusion import Occlusion
from tests.tasks.conftest import Subject, by_hand, grad_cam


def check_methods(subject: Subject, x: Tensor, asked, score, kind: str, **more) -> None:
    """Hold Grad-CAM, saliency, occlusion and Score-CAM of one target against loops over the plain network.

    Args:
        subject: the network.
        x: a picture.
        asked: the target, as a request names it; None: the default one.
        score: the target's score, of what the plain network answers to one picture.
        kind: what the methods call it.
    """
    targets = None if asked is None else [asked]
    a, value, g, at_input = by_hand(subject, x, score)
    assert float(g.abs().max()) > 0
    gradients = {"kind": kind} and (GradCAM(layer="act"), Saliency(score=kind))
    if kind != "probability":  # Grad-CAM is defined by logits and values
        found = subject.explain(gradients[0], x, targets, **more).maps[0]
        torch.testing.assert_close(found.array, grad_cam(a, g), rtol=1e-3, atol=1e-6)
    saliency = subject.explain(gradients[1], x, targets, **more).maps[0].array
    torch.testing.assert_close(saliency, at_input.abs().amax(0), rtol=1e-3, atol=1e-6)

    def plain(rows: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack([score(subject.plain(rows[i : i + 1])).reshape(()) for i in range(len(rows))])

    occlusion = subject.explain(Occlusion(window=16, stride=16, score=kind), x, targets, **more).maps[0].array
    expected = torch.zeros(2, 2)
    for i in range(2):
        for j in range(2):
            hidden = x.clone()
            hidden[:, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16] = 0
            expected[i, j] = value - plain(hidden)[0]
    torch.testing.assert_close(occlusion, F.interpolate(expected[None, None], (32, 32))[0, 0], rtol=1e-3, atol=1e-6)

    score_cam = subject.explain(ScoreCAM(layer="act", score=kind, weights="raw", baseline="none"), x, targets, **more)
    span = (a.amax((1, 2)) - a.amin((1, 2)))[:, None, None]
    masks = F.interpolate(((a - a.amin((1, 2))[:, None, None]) / span)[:, None], (32, 32), mode="bilinear")
    masks = (masks - masks.amin((2, 3), keepdim=True)) / (masks.amax((2, 3)) - masks.amin((2, 3)))[:, :, None, None]
    black = torch.full((1, 3, 1, 1), -2.0)  # (0 - mean) / deviation
    weights = plain(black + (x - black) * masks)
    found = score_cam.maps[0].array
    torch.testing.assert_close(found, torch.einsum("k,khw->hw", weights, a).relu(), rtol=1e-3, atol=1e-5)

    again = subject.explain_plainly(gradients[1], x, targets, **more).maps[0].array
    torch.testing.assert_close(again, saliency, rtol=1e-4, atol=1e-6)
