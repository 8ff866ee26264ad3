"""Layer-wise relevance propagation: Bach et al. 2015, section 2.4; composites: Montavon et al. 2019, section 10.3."""

from typing import Annotated, Literal

from pydantic import Field

from service.contract import Facts, Relevance, Share
from service.explainers.base import explainer
from service.explainers.propagation.relevance import RelevanceExplainer

Composite = Literal[
    "epsilon",
    "z-plus",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-gamma-box",
    "epsilon-alpha2-beta1",
    "epsilon-alpha2-beta1-flat",
]


@explainer(
    "lrp",
    reference="Bach et al. 2015, section 2.4; Montavon et al. 2019, section 10.3",
    requirement="Any differentiable model; best one of convolutions, linear layers and ReLUs.",
    cost="1 forward and a whole backward per target, each about twice a plain one",
    kind="signed",
)
class LRP(RelevanceExplainer):
    """What each pixel contributed to the logit, handed down layer by layer, so that nothing is lost on the way.

    Starts with R = y_c. A linear layer z_j = sum_i x_i w_ij + b_j gives its input R_i = sum_j (x_i w_ij / z_j) R_j, or
    shares by another rule; batch norms are taken together with the convolution in front of them, sums and averages
    share by size, max pools give all to the winner, activation functions pass on, products halve. The map adds up the
    colours of a pixel. A class whose logit is below zero has a map of opposite sign, and maps of two classes may look
    alike: what speaks for one rather than the other is the map of a target that is held `against` it, their difference.

    `details.explained` is y_c, `details.relevance` what got to the pixels, and `details.lost` the rest, per target:
    what biases and epsilon took, and what stopped at a function that no rule speaks of.
    """

    rules: Annotated[
        Composite,
        Field(
            description="Rules of linear layers, of convolutions and of the first layer. `epsilon`: everywhere by the "
            "share in the output. `z-plus`: everywhere among what raises the output. The others have epsilon for "
            "linear layers, and for convolutions z-plus (`epsilon-plus`), gamma (`epsilon-gamma-box`), or twice z-plus "
            "less once the share in what lowers the output (`epsilon-alpha2-beta1`); `flat`: the first layer shares "
            "evenly; `box`: it counts pixels from the range of colours."
        ),
    ] = "epsilon-plus"
    epsilon: Annotated[
        float, Field(ge=1e-9, le=10, description="How far divisors are moved away from zero; more makes sparser maps.")
    ] = 1e-6
    gamma: Annotated[
        float, Field(ge=0, le=1000, description="How much more weights count that agree with the output, in `gamma`.")
    ] = 0.25

    def rule(self, facts: Facts) -> Relevance:
        """Return the rules by their names (`-`: of the linear layers, of the convolutions, of the first layer)."""
        low = tuple((0 - mean) / std for mean, std in zip(facts.mean, facts.std, strict=True))
        high = tuple((1 - mean) / std for mean, std in zip(facts.mean, facts.std, strict=True))
        epsilon = Share(epsilon=self.epsilon)
        plus = Share("alpha-beta", epsilon=self.epsilon)
        flat = Share("flat", epsilon=self.epsilon)
        both = Share("alpha-beta", alpha=2.0, epsilon=self.epsilon)
        gamma = Share("gamma", gamma=self.gamma, epsilon=self.epsilon)
        box = Share("box", low=low, high=high, epsilon=self.epsilon)
        composites: dict[Composite, Relevance] = {
            "epsilon": Relevance(epsilon, epsilon),
            "z-plus": Relevance(plus, plus),
            "epsilon-plus": Relevance(plus, epsilon),
            "epsilon-plus-flat": Relevance(plus, epsilon, flat),
            "epsilon-gamma-box": Relevance(gamma, epsilon, box),
            "epsilon-alpha2-beta1": Relevance(both, epsilon),
            "epsilon-alpha2-beta1-flat": Relevance(both, epsilon, flat),
        }
        return composites[self.rules]
