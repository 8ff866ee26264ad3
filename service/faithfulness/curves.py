"""Deletion and insertion: how the score goes as pixels are hidden, or shown, in a map's order. Petsiuk et al. 2018.

Both with the same hidden picture, so that they compare; f is evidence without bounds, so that it does not flatten where
a network is sure; and f is 0 where all is hidden and 1 for the picture itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.contract import Probe, Rows, fingerprint

STEPS = 16
LEAST_ODDS = 0.5  # that hiding all of the picture has to take off log-odds
LEAST_SHARE = 0.05  # the same for values, of the sum of both


@dataclass(frozen=True)
class Curve:
    """The score at shares k/n of the pixels, k = 0..n: 0 where all are hidden, 1 for the picture."""

    shares: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]

    @property
    def deletion_area(self) -> float:
        """The area under the deletion curve, by trapezoids: low where what goes first matters."""
        return _area(self.shares, self.deletion)

    @property
    def insertion_area(self) -> float:
        """The area under the insertion curve: high where what comes first matters."""
        return _area(self.shares, self.insertion)

    @property
    def gap(self) -> float:
        """Insertion less deletion."""
        return self.insertion_area - self.deletion_area


def _area(x: Sequence[float], y: Sequence[float]) -> float:
    return sum((b - a) * (c + d) / 2 for a, b, c, d in zip(x, x[1:], y, y[1:], strict=False))


@dataclass(frozen=True)
class Scene:
    """A picture, what hides it, and what a network makes of both.

    The probe's readout is evidence for T targets: the columns of its tables.
    """

    probe: Probe
    image: Tensor  # (1, C, H, W)
    blanks: Mapping[str, Tensor]  # by name: the picture with all hidden, (1, C, H, W)
    odds: bool  # whether the evidence is in log-odds
    shown: Tensor  # (T,), of the picture
    hidden: Mapping[str, Tensor]  # by name: (T,), of what hides it
    key: tuple[object, ...]  # all that determines picture and blanks

    @staticmethod
    def of(probe: Probe, image: Tensor, blanks: Mapping[str, Tensor], *, odds: bool) -> Scene:
        """Ask about a picture and about what hides it: a row each."""
        rows = torch.cat([image, *blanks.values()])
        key = ("scene", tuple(blanks), fingerprint(rows))
        shown, *hidden = probe.scores(Rows.of(rows, key)).double().cpu()
        return Scene(probe, image, blanks, odds, shown, dict(zip(blanks, hidden, strict=True)), key)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self.image.shape[2], self.image.shape[3]

    def too_little(self, name: str, target: int) -> str | None:
        """Say why hiding the picture so tells nothing of a target; None where it does.

        Where the score hardly drops as all is hidden, or rises, there is nothing that an order of pixels could explain.
        """
        high, low = float(self.shown[target]), float(self.hidden[name][target])
        drop = high - low
        if self.odds and drop < LEAST_ODDS:
            return (
                f"{name}: hiding the whole picture takes {drop:.2g} off the log-odds, and at least {LEAST_ODDS} count"
            )
        if drop <= 0 or (not self.odds and drop < LEAST_SHARE * (abs(high) + abs(low))):
            return f"{name}: hiding the whole picture takes {drop:.2g} off a value of {high:.4g}, which is too little"
        return None

    def usable(self, name: str) -> list[int]:
        """Return the targets that hiding the picture so tells anything of."""
        return [t for t in range(len(self.shown)) if self.too_little(name, t) is None]

    def curves(self, orders: Sequence[Tensor], names: Sequence[str]) -> list[Mapping[str, list[Curve]]]:
        """Return, of each order of pixels, by what hides them, each target's curve; all of them are one job's rows.

        Args:
            orders: each pixel's rank (H, W), 0 the most important; each takes 30 rows for each way to hide.
            names: of what hides the picture.
        """
        rows = hiding(self.image, [self.blanks[name] for name in names], orders, self.key)
        if not rows.count:
            return [{} for _ in orders]
        table = self.probe.scores(rows).double().cpu()
        f = table.view(len(orders), len(names), 2, STEPS - 1, -1)  # deletion, then insertion
        return [
            {name: [self._curve(name, t, f[m, n, :, :, t]) for t in range(f.shape[4])] for n, name in enumerate(names)}
            for m in range(len(orders))
        ]

    def _curve(self, name: str, target: int, between: Tensor) -> Curve:
        """Return a target's curve, given the scores (2, n - 1) between its ends."""
        high, low = self.shown[target], self.hidden[name][target]
        deletion, insertion = ((between - low) / (high - low)).tolist()
        return Curve(tuple(shares(self.size)), (1.0, *deletion, 0.0), (0.0, *insertion, 1.0))


def counts(size: tuple[int, int]) -> list[int]:
    """Return how many pixels are gone, or have come, at each step: 0, ..., all."""
    pixels = size[0] * size[1]
    return [round(pixels * k / STEPS) for k in range(STEPS + 1)]


def shares(size: tuple[int, int]) -> list[float]:
    """Return the same as shares of all pixels."""
    return [count / (size[0] * size[1]) for count in counts(size)]


def hiding(image: Tensor, blanks: Sequence[Tensor], orders: Sequence[Tensor], key: tuple[object, ...]) -> Rows:
    """Return the pictures between all curves' ends: by order, hidden picture, deletion or insertion, and step."""
    of_blank = 2 * (STEPS - 1)
    steps = len(blanks) * of_blank
    if not orders or not blanks:
        return Rows(0, lambda i, j: image[:0])
    place = torch.stack(list(orders)).to(image.device)  # (M, H, W)
    blank = torch.cat(list(blanks))
    count = torch.tensor(counts((image.shape[2], image.shape[3]))[1:-1], device=image.device).repeat(2).view(-1, 1, 1)
    inserts = (torch.arange(of_blank, device=image.device) >= STEPS - 1).view(-1, 1, 1)

    def build(i: int, j: int) -> Tensor:
        parts = []
        while i < j:  # rows of one order and one blank at a time, which nothing has to be copied for
            m, b, first = i // steps, i % steps // of_blank, i % of_blank
            last = min(of_blank, first + j - i)
            important = place[m] < count[first:last]  # (n, H, W)
            parts.append(torch.where((important == inserts[first:last])[:, None], image, blank[b]))
            i += last - first
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return Rows(len(orders) * steps, build, ("curves", key, STEPS, fingerprint(blank), fingerprint(place)))
