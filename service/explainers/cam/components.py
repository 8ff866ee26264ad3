"""What dominates the maps of a layer: their first principal component, which Eigen-CAM and Eigen-Grad-CAM draw."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

Centre = Annotated[
    bool,
    Field(
        description="Take each channel's mean off first, as principal components are defined and pytorch-grad-cam has "
        "it; false: as the paper prints it."
    ),
]


@dataclass(frozen=True)
class Component:
    """Maps seen along one direction of the channels."""

    projected: Tensor  # (h, w), signed
    share: float  # of the energy of all components, 0..1


def first_component(a: Tensor, *, centre: bool) -> Component:
    """Project maps (K, h, w) on the direction of the channels along which they vary most.

    With X the (h w) x K matrix of positions by channels and X = U S V^T its singular value decomposition, that is
    X v_1 = u_1 s_1. It is found from the smaller one of the Gram matrices X X^T and X^T X, in double.

    The sign of a singular vector is arbitrary; here the map is large where the features are strong: its covariance
    with the positions' energy sum_k A_k^2 is not negative, and where that is zero, its largest value is positive.
    """
    given = a.double().flatten(1).T  # (hw, K)
    x = given - given.mean(0) if centre else given
    wide = x.shape[0] <= x.shape[1]
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)  # ascending
    v = vectors[:, -1]
    # Rounding leaves eigenvalues of zero a little below.
    projected = v * values[-1].clamp(min=0).sqrt() if wide else x @ v
    energy = given.square().sum(1)
    along = float(((energy - energy.mean()) * projected).sum())
    if along < 0 or (along == 0 and float(projected.sum()) < 0):
        projected = -projected
    total = float(values.clamp(min=0).sum())
    share = float(values[-1].clamp(min=0)) / total if total > 0 else 0.0
    return Component(projected.view(a.shape[1:]).to(a.dtype), share)
