"""What dominates the maps of a layer: their first principal component, which Eigen-CAM and Eigen-Grad-CAM draw."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

SMALL = 128  # a side, to which the whole decomposition is as fast
BLOCK, ROUNDS = 8, 48  # vectors that are iterated together, and how often
TURNED = 1e-9  # how far the vector may be turned, rad

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
    X v_1 = u_1 s_1. It is found from the smaller one of the Gram matrices X X^T and X^T X, in double, and alone: of a
    decomposition only that much is used.

    The sign of a singular vector is arbitrary; here the map is large where the features are strong: its covariance
    with the positions' energy sum_k A_k^2 is not negative, and where that is zero, its largest value is positive.
    """
    given = a.double().flatten(1).T  # (hw, K)
    x = given - given.mean(0) if centre else given
    wide = x.shape[0] <= x.shape[1]
    largest, v = leading(x @ x.T if wide else x.T @ x)
    projected = v * largest.sqrt() if wide else x @ v
    energy = given.square().sum(1)
    along = float(((energy - energy.mean()) * projected).sum())
    if along < 0 or (along == 0 and float(projected.sum()) < 0):
        projected = -projected
    total = float(x.square().sum())
    share = min(float(largest) / total, 1.0) if total > 0 else 0.0
    return Component(projected.view(a.shape[1:]).to(a.dtype), share)


def leading(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalue, >= 0, of a Gram matrix (n, n) in double, and a unit vector (n,) of it.

    By subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4), until what is left of G v - s v could turn v
    by no more than `TURNED`; where the largest eigenvalues are too near to each other for that, and for small matrices,
    by the whole decomposition.
    """
    n = len(gram)
    if n > SMALL:
        start = torch.randn(n, BLOCK, dtype=gram.dtype, generator=torch.Generator().manual_seed(0)).to(gram.device)
        basis = torch.linalg.qr(gram @ start).Q
        for _ in range(ROUNDS):
            image = gram @ basis
            values, within = torch.linalg.eigh(basis.T @ image)  # ascending
            v = basis @ within[:, -1]
            left = (image @ within[:, -1] - values[-1] * v).norm()
            if left <= TURNED * (values[-1] - values[-2]):
                return values[-1].clamp(min=0), v
            basis = torch.linalg.qr(image).Q
    values, vectors = torch.linalg.eigh(gram)
    return values[-1].clamp(min=0), vectors[:, -1]  # rounding leaves eigenvalues of zero a little below
