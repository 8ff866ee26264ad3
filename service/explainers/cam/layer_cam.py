"""LayerCAM: Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization"."""

import torch
from torch import Tensor
from torch.nn import functional as F

from service.contract import Explanation, Facts, Map, Probe, Targets
from service.explainers.base import LayerExplainer, explainer
from service.explainers.cam.gradients import at_layers
from service.explainers.fields import Layers, layers_of
from service.explainers.rounding import added

GAMMA = 2.0  # of equation 9


@explainer(
    "layer-cam",
    reference="Jiang et al. 2021, equations 6 and 7; several layers: equation 9",
    requirement="A layer with spatial feature maps; any head.",
    cost="1 forward, and a backward from the output to the earliest layer per target",
)
class LayerCAM(LayerExplainer):
    """Each position of a layer weighed by its own gradient, so that early layers, too, give a map, and a sharp one.

    M = ReLU(sum_k ReLU(dy_c/dA_k) A_k). With several layers, each M is enlarged (bilinear) to the largest of them and
    scaled to tanh(2 M / max M), so that no layer drowns another; the map is their maximum, position by position. The
    paper scales the shallow layers only. A single layer's map stays unscaled. On a GAP -> linear head it is Grad-CAM
    of the features with positive weights.
    """

    layers: Layers = ()

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a layer with maps that a gradient of the outputs gets to."""
        facts.require_spatial(cls.name)
        facts.require_gradient(cls.name, None)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return an upper bound: the backward stops at the earliest layer."""
        return 1 + 2 * targets

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one (h, w) map >= 0 a target, as large as the largest layer."""
        layers = layers_of(self.layers, probe.facts)
        found = at_layers(probe, image, targets, [info.path for info in layers], self.name)
        maps = [added(at.g.relu() * at.a).relu() for at in found]  # (T, h, w) each
        cam = fused(maps) if len(maps) > 1 else maps[0]
        one = found[0]
        return Explanation(
            maps=[
                Map(self.name, cam[i], target=t, layer=one.layer if len(maps) == 1 else None)
                for i, t in enumerate(one.targets.chosen(one.outputs))
            ],
            details={
                "score": probe.facts.task.kinds[0],
                "layers": [
                    {"layer": at.layer, "shape": list(m.shape[1:]), "max": m.amax((1, 2)).tolist()}
                    for at, m in zip(found, maps, strict=True)
                ],
                "fusion": "maximum of tanh(2 M / max M) of all layers, enlarged" if len(maps) > 1 else None,
            },
            outputs=one.outputs,
        )


def fused(maps: list[Tensor]) -> Tensor:
    """Return the maximum of maps (T, h, w) >= 0, each enlarged to the largest and scaled to 0..tanh(2)."""
    size = max(m.shape[1] for m in maps), max(m.shape[2] for m in maps)
    enlarged = torch.stack([F.interpolate(m[:, None], size, mode="bilinear")[:, 0] for m in maps])  # (L, T, h, w)
    highest = enlarged.amax((2, 3), keepdim=True)
    # A map of zeros stays one: nothing there speaks for the class.
    return (GAMMA * enlarged / torch.where(highest > 0, highest, 1)).tanh().amax(0)
