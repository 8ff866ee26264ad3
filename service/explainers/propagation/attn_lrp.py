"""AttnLRP: Achtibat et al. 2024, "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers"."""

from typing import Annotated

from pydantic import Field

from service.contract import Facts, Relevance, Share
from service.explainers.base import explainer
from service.explainers.propagation.relevance import RelevanceExplainer


@explainer(
    "attn-lrp",
    reference="Achtibat et al. 2024, section 3; gamma rules: section 4 and appendix B.3, for vision transformers",
    requirement="Any differentiable model; made for vision transformers, whose attention may be of windows, too.",
    cost="1 forward and a whole backward per target, each about twice a plain one",
    kind="signed",
)
class AttnLRP(RelevanceExplainer):
    """What each pixel contributed to the logit, through attention as well: LRP with rules for what transformers do.

    Starts with R = y_c. A product of two factors, such as weights times values or queries times keys, gives each of
    them a half. A softmax hands down x_i (R_i - s_i sum_j R_j), its own linear part. A layer norm's deviation is a
    constant, and an activation function passes on. Convolutions and linear layers share by the gamma rule: weights that
    agree with the output count more, which takes the noise out of the map; 0 leaves them as they are. The map adds up
    the colours of a pixel.

    `details.explained` is y_c, `details.relevance` what got to the pixels, and `details.lost` the rest, per target:
    what biases and the softmax took.
    """

    gamma_convolution: Annotated[
        float, Field(ge=0, le=1000, description="The gamma of convolutions, such as the one that makes patches.")
    ] = 0.25
    gamma_linear: Annotated[float, Field(ge=0, le=1000, description="The gamma of linear layers.")] = 0.05

    def rule(self, facts: Facts) -> Relevance:
        """Return the gamma rules."""
        return Relevance(Share("gamma", gamma=self.gamma_convolution), Share("gamma", gamma=self.gamma_linear))
