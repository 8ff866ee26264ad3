import copy

import pytest
import torch

from service.explainers.cam.cam import CAM
from service.explainers.cam.grad_cam import GradCAM
from tests import oracles
from tests.explainers.conftest import assert_close


def _layer_for_peers(subject) -> str:
    """Return the default layer as a module; DenseNet's is rectified by a function, which peers cannot address."""
    return subject.facts.default_layer.removesuffix("+relu")


@pytest.mark.oracle("grad-cam")
def test_equals_captum(subject, x):
    layer = _layer_for_peers(subject)
    targets = [281, 7]
    explanation = subject.explain(GradCAM(layer=layer, relu=False), x, targets)
    for found, target in zip(explanation.maps, targets, strict=True):
        assert_close(found.array, oracles.captum_grad_cam(subject.plain, x, layer, target, relu=False))


@pytest.mark.oracle("grad-cam")
def test_equals_the_peers_that_people_use(subject, x):
    layer = _layer_for_peers(subject)
    map_ = subject.explain(GradCAM(layer=layer), x, [281]).maps[0].array
    for peer in (oracles.pytorch_grad_cam_grad_cam, oracles.torchcam_grad_cam):
        differentiable = copy.deepcopy(subject.plain).requires_grad_(True)
        theirs = peer(differentiable, x, layer, 281)
        if subject.name == "densenet121" and oracles.relative_error(map_, theirs) > 1e-4:
            # Here a peer is wrong: the in-place ReLU after `features` overwrites what it captured.
            rectified = oracles.layer_output(subject.plain, x, layer).relu()
            assert not torch.equal(rectified, oracles.layer_output(subject.plain, x, layer))
            continue
        assert_close(map_, theirs, 1e-4)


@pytest.mark.oracle("grad-cam")
def test_on_a_linear_head_equals_rectified_cam(subject, x):
    if subject.facts.head is None:
        assert subject.name in ("alexnet", "vgg11", "mobilenet_v3_small", "convnext_tiny")
        return
    grad_cam = subject.explain(GradCAM(), x, [281]).maps[0]
    cam = subject.explain(CAM(), x, [281]).maps[0]
    assert grad_cam.layer == cam.layer
    assert_close(grad_cam.array * cam.array.numel(), cam.array.relu())


def test_any_layer(subjects, x):
    subject = subjects("resnet18")
    for layer in ("layer2", "layer3.0.conv1", "conv1"):
        found = subject.explain(GradCAM(layer=layer), x, [3]).maps[0].array
        assert_close(found, oracles.captum_grad_cam(subject.plain, x, layer, 3))


def test_default_target_is_the_top_class(subjects, x):
    subject = subjects("efficientnet_lite0")
    found = subject.explain(GradCAM(), x)
    assert found.maps[0].target.index == int(found.outputs.argmax())
