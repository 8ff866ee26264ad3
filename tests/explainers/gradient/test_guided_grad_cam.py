import pytest
import torch
from torch import Tensor

from service.errors import NotApplicable
from service.explainers.gradient.guided_backprop import GuidedBackprop
from service.explainers.gradient.guided_grad_cam import GuidedGradCAM
from tests import oracles, tiny
from tests.explainers.cam.test_grad_cam import oracle as grad_cam
from tests.explainers.conftest import assert_close, module_layer, tiny_input
from tests.explainers.gradient.test_guided_backprop import oracle as guided
from tests.explainers.propagation.test_deconvnet import WITHOUT_RECTIFIERS
from tests.oracles import Case, Peer
from tests.rectifiers import with_module_relus

TOLERANCE = 5e-5  # a product of two gradients that have passed a whole network


def oracle(case: Case) -> Tensor:
    """The guided gradient (3, H, W) times the enlarged Grad-CAM."""
    size = (case.x.shape[2], case.x.shape[3])
    return guided(case) * oracles.enlarge(grad_cam(case), size)


def captum(case: Case) -> Tensor:
    """Captum's `GuidedGradCam`, once every rectifier is a module, and told to enlarge bilinearly.

    It enlarges by the nearest neighbour unless told, which leaves steps.
    """
    with oracles.quiet(), torch.enable_grad():
        from captum.attr import GuidedGradCam

        network, inner = oracles.isolated(with_module_relus(case.network), case.layer)
        found = GuidedGradCam(network, inner).attribute(case.x.clone(), target=case.target, interpolate_mode="bilinear")
        return found[0].detach()


PEERS = {"captum": Peer(captum)}


@pytest.mark.oracle("guided-grad-cam")
@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v2", "vgg11", "efficientnet_lite0"])
def test_equals_the_definition_and_captum(subjects, x, name):
    subject = subjects(name)
    layer = module_layer(subject)
    found = subject.explain(GuidedGradCAM(layer=layer), x, [281, 3])
    for m, target in zip(found.maps, (281, 3), strict=True):
        case = Case(subject.plain, x, layer, target)
        assert_close(m.array, oracle(case), TOLERANCE)
        assert_close(m.array, captum(case), TOLERANCE)
        assert (m.kind, m.layer) == ("picture", layer)


def test_is_nothing_where_grad_cam_is_nothing(small):
    subject, x = small(tiny.vgg), tiny_input()
    found = subject.explain(GuidedGradCAM(), x, [1, 3])
    edges = subject.explain(GuidedBackprop(), x, [1, 3])
    for m, plain, target in zip(found.maps, edges.maps, (1, 3), strict=True):
        large = oracles.enlarge(grad_cam(Case(subject.plain, x, "relu2", target)), (32, 32))
        assert m.array[:, large == 0].eq(0).all()
        assert_close(m.array, plain.array * large)


@pytest.mark.parametrize("name", WITHOUT_RECTIFIERS)
def test_refuses_a_network_without_rectifiers(subjects, name):
    with pytest.raises(NotApplicable, match="use 'saliency'"):
        GuidedGradCAM.require(subjects(name).facts)
