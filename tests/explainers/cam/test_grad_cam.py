import pytest
from torch import Tensor

from service.explainers.cam.cam import CAM
from service.explainers.cam.grad_cam import GradCAM
from tests import oracles
from tests.explainers.cam.test_cam import HEADS
from tests.explainers.conftest import assert_close, assert_rectified, module_layer
from tests.oracles import Case, Peer


def oracle(case: Case) -> Tensor:
    """ReLU(sum_k alpha_k A_k), alpha_k the mean over positions of dy_c/dA_k."""
    a, g = oracles.maps_and_gradients(case.network, case.x, case.layer, case.target)
    cam = oracles.weighted_sum((of_one.mean() for of_one in g), a)
    return cam.clamp_min(0) if case.params.get("relu", True) else cam


def captum(case: Case) -> Tensor:
    """Captum's `LayerGradCam` at the layer's own size: the logit's gradient, averaged over space (not summed)."""
    with oracles.quiet():
        from captum.attr import LayerGradCam

        network, inner = oracles.isolated(case.network, case.layer)
        cam = LayerGradCam(network, inner).attribute(
            case.x.clone(),
            target=case.target,
            relu_attributions=case.params.get("relu", True),
            attr_dim_summation=True,
        )
    return cam[0, 0].detach()


PEERS = {
    "captum": Peer(captum),
    "pytorch-grad-cam": Peer(lambda case: oracles.pytorch_grad_cam_raw("GradCAM", case)),
    "torch-cam": Peer(lambda case: oracles.torchcam_raw("GradCAM", case)),
}


@pytest.mark.oracle("grad-cam")
def test_equals_the_definition_and_captum(subject, x):
    layer = module_layer(subject)
    signed = subject.explain(GradCAM(layer=layer, relu=False), x, [281, 7])
    rectified = subject.explain(GradCAM(layer=layer), x, [281, 7])
    for m, positive, target in zip(signed.maps, rectified.maps, (281, 7), strict=True):
        case = Case(subject.plain, x, layer, target, {"relu": False})
        assert_close(m.array, oracle(case))
        assert_close(m.array, captum(case))
        assert_rectified(positive.array, m.array)


@pytest.mark.oracle("grad-cam")
@pytest.mark.parametrize("peer", ["pytorch-grad-cam", "torch-cam"])
def test_equals_the_peers_that_people_use(subject, peer):
    x = oracles.photograph("chelsea", 112)  # of smaller ones AlexNet's map is zero throughout
    layer = module_layer(subject)
    found = subject.explain(GradCAM(layer=layer), x, [281]).maps[0].array
    assert_close(found, PEERS[peer].call(Case(subject.plain, x, layer, 281)), 1e-4)


@pytest.mark.oracle("grad-cam")
@pytest.mark.parametrize("name", HEADS)
def test_on_a_linear_head_equals_rectified_cam(subjects, x, name):
    subject = subjects(name)
    grad_cam = subject.explain(GradCAM(), x, [281]).maps[0]
    cam = subject.explain(CAM(), x, [281]).maps[0]
    assert grad_cam.layer == cam.layer
    assert_close(grad_cam.array * cam.array.numel(), cam.array.relu())


@pytest.mark.parametrize("layer", ["layer2", "layer3.0.conv1", "conv1"])
def test_any_layer(subjects, x, layer):
    subject = subjects("resnet18")
    found = subject.explain(GradCAM(layer=layer), x, [3]).maps[0].array
    assert_close(found, oracle(Case(subject.plain, x, layer, 3)))


def test_default_target_is_the_top_class(subjects, x):
    subject = subjects("efficientnet_lite0")
    found = subject.explain(GradCAM(), x)
    assert found.maps[0].target.index == int(found.outputs.argmax())
