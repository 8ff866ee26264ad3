"""Score-CAM: Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations", section 3.2, Algorithm 1."""

from service.explainers.base import explainer
from service.explainers.cam.masks import MaskedCAM


@explainer(
    "score-cam",
    reference="Wang et al. 2020, section 3.2, Algorithm 1",
    requirement="A layer with spatial feature maps; no gradients.",
    cost="1 forward per distinct feature map of the layer (hundreds to thousands)",
)
class ScoreCAM(MaskedCAM):
    """How much each feature map, used as a mask over the picture, raises the class's score.

    H_k = A_k upsampled to the input and scaled to 0..1; CIC_k = f(X * H_k) - f(X_b); weights = softmax over the
    channels of CIC; map = ReLU(sum_k w_k A_k). `space` says where the mask multiplies: by default the picture's
    pixels, so that X_b is an all-black picture. A constant map masks everything. Channels with constant or equal
    masks share one forward.
    """

    def tolerates_reduced_precision(self) -> bool:
        """Allow it for probabilities: the softmax over channels magnifies what rounding does to logits."""
        return self.score == "probability"
