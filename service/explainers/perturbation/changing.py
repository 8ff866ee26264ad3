"""What methods share that dim a picture: what a mask of zeros leaves, and what their maps are."""

import torch
from torch import Tensor

from service.contract import Facts, Kind, Score, Target
from service.explainers.fields import Space


def dark(facts: Facts, image: Tensor, space: Space) -> Tensor:
    """Return what a mask of zeros leaves of a picture (1, C, H, W): black, or the model's mean colour; (C, 1, 1)."""
    black = facts.colour((0, 0, 0)).to(image)
    return black if space == "pixels" else torch.zeros_like(black)


def heat_kind(facts: Facts, score: Score, target: Target) -> Kind:
    """Return what a map of mean scores is: probabilities are positive, their differences and other scores are not."""
    probable = score == "probability" and score in facts.task.kinds  # others have one score, whatever is asked for
    positive = probable and all(weight >= 0 for _, weight in target.terms)
    return "positive" if positive else "signed"
