"""From pairs of maps to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

from service.client import wire

ALIKE, FAR = 0.5, 0.3  # mean |Spearman| to maps of the permuted network: fails above, passes below
SAME_CLASS, OTHER_CLASS = 0.9, 0.7  # to maps of a low class
UNTESTED = wire.Sanity(verdict="not yet tested")  # of which nothing is known, not even a reason


@dataclass
class Pairs:
    """What was found of one method: how alike its maps are, a picture; None where one of a pair is flat."""

    permuted: list[float | None] = field(default_factory=list)  # Spearman to the fully permuted network's
    ssim: list[float | None] = field(default_factory=list)
    low: list[float | None] | None = None  # to a low class's; None: the network or the method has no classes
    stages: list[tuple[float, list[float | None], list[float | None]]] = field(default_factory=list)
    empty: int = 0  # pictures of which the network's own map is flat already
    cut: list[str] = field(default_factory=list)
    passes: int = 0


def verdict(pairs: Pairs) -> wire.Sanity:
    """Return what pairs of maps say of a method.

    w, the mean |Spearman| to the permuted network's maps, and c, to a low class's: it fails where w > 0.5 or c > 0.9 or
    more than half of its maps are flat, passes where w < 0.3 and c < 0.7, and else it depends. So it does where of more
    than half of the pictures the other map is flat, with which nothing can be compared: a detector that has learnt
    nothing finds nothing, of which no method has a map.
    """
    w, c = _mean(pairs.permuted), _mean(pairs.low) if pairs.low is not None else None
    both = [pairs.permuted, *([pairs.low] if pairs.low is not None else [])]
    flat = max(sum(one is None for one in some) for some in both)
    most = max(len(some) for some in both)
    few = flat > most / 2
    reasons = []
    if pairs.empty > most / 2:
        reasons.append(f"{pairs.empty} of {most} of its maps are flat")
    if w is not None and w > ALIKE and not few:
        reasons.append(f"its maps are nearly the same ({w:.2f}) for a network that has learnt nothing")
    if c is not None and c > SAME_CLASS and not few:
        reasons.append(f"its maps are nearly the same ({c:.2f}), or turned over, for a class that is not there")
    passes = w is not None and w < FAR and (c is None or c < OTHER_CLASS) and not few
    found: wire.Verdict = "fails" if reasons else "passes" if passes else "depends"
    if few and not reasons:
        reasons.append(
            f"for {flat} of {most} pictures the other network, or the other class, has no map to compare with"
        )
    return wire.Sanity(
        verdict=found,
        reason="; ".join(reasons) or None,
        mprt=w,
        random_logit=c,
        stages=[
            wire.Stage(share=share, spearman=s, ssim=t)
            for share, spearman, ssim in [*pairs.stages, (1.0, pairs.permuted, pairs.ssim)]
            if (s := _mean(spearman, signed=True)) is not None and (t := _mean(ssim, signed=True)) is not None
        ],
        pictures=len(pairs.permuted),
        flat=flat,
        cut=pairs.cut,
        passes=pairs.passes,
    )


def _mean(values: Sequence[float | None], *, signed: bool = False) -> float | None:
    there = [value if signed else abs(value) for value in values if value is not None]
    return mean(there) if there else None
