"""What is chosen, given what was measured: pure functions of numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, FiniteFloat
from torch import Tensor

from service.contract import Explanation
from service.engine.network.runtimes.kinds import KINDS
from service.faithfulness.likeness import spearman
from service.faithfulness.ordering import flat
from service.precision import Precision
from service.settings import MOST_ROWS

AGREEMENT = 0.999  # least rank correlation of Score-CAM maps with those in float32
SCORES = 0.98  # the same of the scores behind the masks, over channels: 0 where all weights are equal
ERROR = 0.2  # largest difference of such a score, which changes a weight by a fifth: eight-bit numbers make 0.6 of it
PAYS = 1.1  # times as fast as float32 that another precision has to be
LIBRARIES = tuple(kind.name for kind in KINDS)
_Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]
NEAR_BEST = 0.98  # times the best throughput: what a batch size has to reach


@dataclass(frozen=True)
class Timing:
    """One way to run a network, at one batch size."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    precision: Precision
    variant: str
    rows: _Rows
    rows_per_s: Annotated[FiniteFloat, Field(gt=0)]


@dataclass(frozen=True)
class Tuned:
    """What was measured of a model, and what was chosen."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    timings: Sequence[Timing] = ()
    # Over the photographs, of Score-CAM with float32: see `Agreement`.
    agreement: Mapping[Precision, FiniteFloat] = field(default_factory=dict)
    weights_agreement: Mapping[Precision, FiniteFloat] = field(default_factory=dict)
    probability_error: Mapping[Precision, Annotated[FiniteFloat, Field(ge=0)]] = field(default_factory=dict)
    variants: Mapping[Precision, str] = field(default_factory=dict)
    batch_rows: Mapping[Precision, _Rows] = field(default_factory=dict)
    preferred: Precision = "fp32"
    seconds: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    remembered: bool = False
    guess: bool = False  # measured under other conditions
    missing: tuple[str, ...] = ()  # what the budget did not reach

    @property
    def copies(self) -> Mapping[Precision, str]:
        """The fastest way to run the network in PyTorch, by precision: what is traced, and runs where a library fails.

        A precision that has no timing is run as was chosen.
        """
        found = dict(self.variants)
        for precision in found:
            own = [t for t in self.timings if t.precision == precision and t.variant not in LIBRARIES]
            if own:
                found[precision] = max(own, key=lambda t: t.rows_per_s).variant
        return found

    @property
    def quicker(self) -> float:
        """How many times as fast rows are in float32 as in PyTorch."""
        rates = [
            max((t.rows_per_s for t in self.timings if self._is(t, ways)), default=0.0)
            for ways in (self.variants, self.copies)
        ]
        return rates[0] / rates[1] if rates[1] else 1.0

    @staticmethod
    def _is(timing: Timing, ways: Mapping[Precision, str]) -> bool:
        return timing.precision == "fp32" and timing.variant == ways.get("fp32")


@dataclass(frozen=True, kw_only=True)
class Measured(Tuned):
    """The same with what the network answered then to the probe picture: the form of a file, whoever wrote it."""

    answer: list[FiniteFloat]

    @property
    def tuned(self) -> Tuned:
        """What was measured, alone."""
        return Tuned(**{one.name: getattr(self, one.name) for one in fields(Tuned)})


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Return Spearman's coefficient of two tensors, ties sharing their mean rank; of constant ones two are alike."""
    found = spearman(a, b)
    return float(flat(a) and flat(b)) if found is None else found


def batch_rows(timings: Sequence[Timing], best: Timing) -> int:
    """Return the smallest batch, of those timed in the same way as the best one, that comes near its throughput."""
    same = [t for t in timings if (t.precision, t.variant) == (best.precision, best.variant)]
    return min(t.rows for t in same if t.rows_per_s >= NEAR_BEST * best.rows_per_s)


@dataclass(frozen=True)
class Agreement:
    """How far Score-CAM in one precision is what it is in float32.

    Maps alone tell next to nothing: weights are a softmax of probabilities, so that no two differ by more than e, and a
    map of equal weights, without any forward, has a rank correlation of 0.995 with the true one.
    """

    maps: float  # rank correlation over pixels
    scores: float  # rank correlation over channels, of the scores behind their masks
    error: float  # largest difference of such a score

    @staticmethod
    def of(found: Explanation, exact: Explanation) -> "Agreement":
        """Return how an explanation by Score-CAM without a baseline agrees with the same in float32."""
        ours, true = found.maps[0].array.cpu(), exact.maps[0].array.cpu()
        f, f_true = (torch.tensor(one.details["cic"]) for one in (found, exact))
        if not bool(torch.isfinite(ours).all() and torch.isfinite(f).all()):
            return Agreement(0.0, 0.0, 1.0)
        return Agreement(rank_correlation(ours, true), rank_correlation(f, f_true), float((f - f_true).abs().max()))

    def least(self, other: "Agreement") -> "Agreement":
        """Return the worse of both, by each measure."""
        return Agreement(min(self.maps, other.maps), min(self.scores, other.scores), max(self.error, other.error))

    @property
    def enough(self) -> bool:
        """Whether a method may use it that tolerates it."""
        return self.maps >= AGREEMENT and self.scores >= SCORES and self.error <= ERROR


def preferred(rates: Mapping[Precision, float], agreement: Mapping[Precision, Agreement]) -> Precision:
    """Return the fastest precision whose maps agree with those of float32, where it is enough faster to pay.

    Args:
        rates: best throughput by precision, float32 included, in rows/s.
        agreement: agreement with float32 by precision; one that is missing does not agree.
    """
    if "fp32" not in rates:
        return "fp32"  # nothing was timed
    fit = [p for p in rates if p == "fp32" or (p in agreement and agreement[p].enough)]
    fastest = max(fit, key=lambda p: rates[p])
    return fastest if rates[fastest] >= PAYS * rates["fp32"] else "fp32"
