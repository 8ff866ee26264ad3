import pytest

from service.errors import NotApplicable
from service.explainers.cam.cam import CAM
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, tiny_input

WITH_HEAD = {**oracles.CAM_HEADS, "efficientnet_lite0": ("head", "classifier", False)}


@pytest.mark.oracle("cam")
def test_equals_the_definition_and_torchcam(subject, x):
    if subject.name not in WITH_HEAD:
        return
    layer, head, rectified = WITH_HEAD[subject.name]
    linear = subject.plain.get_submodule(head)
    found = subject.explain(CAM(), x, [281, 9])
    for m, target in zip(found.maps, (281, 9), strict=True):
        expected, logit = oracles.slow_cam(
            subject.plain, x, layer, linear.weight, linear.bias, target, functional_relu=rectified
        )
        assert_close(m.array, expected)
        assert float(logit) == pytest.approx(float(found.outputs[target]), rel=1e-4, abs=1e-4)
        if not rectified:  # torch-cam sees modules only
            assert_close(m.array, oracles.torchcam_cam(subject.plain, x, layer, head, target))


@pytest.mark.oracle("cam")
def test_mean_of_the_map_and_bias_is_the_logit(subject, x):
    if subject.facts.head is None:
        return
    found = subject.explain(CAM(), x, [281])
    logit = found.maps[0].array.mean() + found.details["bias"][0]
    assert float(logit) == pytest.approx(float(found.outputs[281]), abs=1e-6 * float(found.outputs.abs().max()) + 2e-6)
    assert found.details["completeness_residual"] <= 1e-6 * float(found.outputs.abs().max()) + 2e-6


def test_squeezenets_maps_are_its_evidence(subjects, x):
    subject = subjects("squeezenet1_1")
    found = subject.explain(CAM(), x, [281]).maps[0]
    assert_close(found.array, oracles.layer_output(subject.plain, x, found.layer)[0, 281])


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "mobilenet_v3_small", "convnext_tiny"])
def test_refuses_other_heads_and_names_an_alternative(subjects, x, name):
    subject = subjects(name)
    assert subject.facts.head is None
    with pytest.raises(NotApplicable, match="Use 'grad-cam'"):
        subject.explain(CAM(), x, [1])


def test_head_behind_a_functional_relu_in_place(small):
    subject = small(tiny.functional)
    assert subject.facts.head.layer == "norm+relu"
    found = subject.explain(CAM(), tiny_input(), [2])
    weight = subject.plain.fc.weight[2]
    a = oracles.layer_output(subject.plain, tiny_input(), "norm").relu()[0]
    assert_close(found.maps[0].array, (weight[:, None, None] * a).sum(0))
