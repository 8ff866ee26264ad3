"""What a backward does at operators instead of their derivative, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rule:
    """Another derivative of rectifiers.

    relu: at each ReLU, ReLU6 or clamp at zero, `deconvnet` keeps the positive part of the signal (Zeiler & Fergus
    2014), `guided` that, where the rectifier is open (Springenberg et al. 2015), `linear` passes all of it, and at max
    pools to all of a window, `leaky` all where it is open and a hundredth where it is closed.
    """

    relu: Literal["deconvnet", "guided", "linear", "leaky"]


@dataclass(frozen=True)
class Share:
    """How a linear operator z_j = sum_i x_i w_ij + b_j shares the relevance R_j of its outputs among its inputs.

    Divisors are moved away from zero by `epsilon`. `+` and `-` keep the positive and the negative part.

    by: `epsilon`: R_i = sum_j x_i w_ij / z_j R_j (Bach et al. 2015, equation 58).
        `alpha-beta`: `alpha` times the share in what raises z_j, x+ w+ + x- w- + b+, less `alpha` - 1 times the share
        in what lowers it (equation 60); 1 is z-plus.
        `gamma`: by w + `gamma` w+ where z_j > 0, by w + `gamma` w- where it is below: what agrees with z_j counts more
        (Montavon et al. 2019, section 10.2.3, for inputs of either sign).
        `box`: by x w - low w+ - high w-: x is a pixel between `low` and `high` of its channel (Montavon et al. 2017).
        `flat`: all inputs of an output alike (Lapuschkin et al. 2019).
    """

    by: Literal["epsilon", "alpha-beta", "gamma", "box", "flat"] = "epsilon"
    alpha: float = 1.0
    gamma: float = 0.25
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    bias: bool = True  # whether the bias takes its part, which is lost then
    epsilon: float = 1e-6


@dataclass(frozen=True)
class Relevance:
    """Layer-wise relevance: each operator shares what it got out among its inputs (Bach et al. 2015).

    An objective y is the relevance that is shared out, and `Trace.gradients` holds the relevance that arrives. Batch
    norms behind a convolution are taken together with it. Sums, averages and whatever else is linear share as
    `epsilon` does; activation functions pass on; max pools pass on to the winner; a product halves between its
    factors; a norm's deviation is a constant (Achtibat et al. 2024, section 3, for the last two).
    """

    convolution: Share = Share()
    linear: Share = Share()
    first: Share | None = None  # of the first convolution or linear layer, which is given the picture as it is
    positive: bool = False  # whether sums share only among their positive terms


@dataclass(frozen=True)
class Rescale:
    """Differences to a reference instead of derivatives: DeepLIFT's rescale rule (Shrikumar et al. 2017, section 3.5).

    For `Pairs` of rows. A function of single numbers hands down its difference over that of its input; a max pool
    shares the change between both winners; a product gives each factor the other one's mean; softmax, norms and
    lengths are made of these. So the gradients times the difference of the inputs add up to the difference of the
    outputs.
    """


Rules = Rule | Relevance | Rescale
