import pytest
import torch

from service.errors import NotApplicable
from service.explainers.cam.cam import CAM
from tests import oracles, tiny
from tests.explainers.conftest import NAMES, assert_close, tiny_input
from tests.oracles import Case, Peer

# Networks of GAP -> linear, and the last map as a module. DenseNet rectifies it by a function.
HEADS = {
    "resnet18": "layer4",
    "densenet121": "features",
    "googlenet": "inception5b",
    "mobilenet_v2": "features",
    "shufflenet_v2_x1_0": "conv5",
    "efficientnet_b0": "features",
    "efficientnet_lite0": "head",
}
WITHOUT = sorted({*NAMES} - {*HEADS, "squeezenet1_1"})


def oracle(case: Case) -> torch.Tensor:
    """M_c = sum_k w_k^c A_k."""
    return oracles.weighted_maps(case)[0]


def torchcam(case: Case) -> torch.Tensor:
    """torch-cam's base `CAM`. Its documentation writes a ReLU, which the code does not apply."""
    (head,) = (path for path, module in case.network.named_modules() if isinstance(module, torch.nn.Linear))
    return oracles.torchcam_raw("CAM", case, head)


PEERS = {"torch-cam": Peer(torchcam)}


@pytest.mark.oracle("cam")
@pytest.mark.parametrize("target", [281, 9])
@pytest.mark.parametrize("name", HEADS)
def test_equals_the_definition(subjects, x, name, target):
    subject = subjects(name)
    found = subject.explain(CAM(), x, [target])
    expected, logit = oracles.weighted_maps(Case(subject.plain, x, subject.facts.head.layer, target))
    assert_close(found.maps[0].array, expected)
    assert float(logit) == pytest.approx(float(found.outputs[target]), rel=1e-4, abs=1e-4)


@pytest.mark.oracle("cam")
@pytest.mark.parametrize("name", sorted({*HEADS} - {"densenet121"}))
def test_equals_torchcam(subjects, x, name):
    subject = subjects(name)
    found = subject.explain(CAM(), x, [281]).maps[0].array
    assert_close(found, torchcam(Case(subject.plain, x, HEADS[name], 281)))


def test_torchcam_does_not_see_densenets_functional_relu(subjects, x):
    subject = subjects("densenet121")
    case = Case(subject.plain, x, "features", 281)
    theirs, found = torchcam(case), subject.explain(CAM(), x, [281])
    assert_close(theirs, oracles.weighted_maps(case)[0])  # of maps that are not rectified, which the head never meets
    assert oracles.relative_error(theirs, found.maps[0].array) > 0.1
    logit = theirs.mean() + subject.plain.classifier.bias[281]
    assert abs(float(logit - found.outputs[281])) > 0.01


@pytest.mark.oracle("cam")
@pytest.mark.parametrize("name", [*HEADS, "squeezenet1_1"])
def test_mean_of_the_map_and_bias_is_the_logit(subjects, x, name):
    found = subjects(name).explain(CAM(), x, [281])
    logit = found.maps[0].array.mean() + found.details["bias"][0]
    within = 1e-6 * float(found.outputs.abs().max()) + 2e-6
    assert float(logit) == pytest.approx(float(found.outputs[281]), abs=within)
    assert found.details["completeness_residual"] <= within


def test_squeezenets_maps_are_its_evidence(subjects, x):
    subject = subjects("squeezenet1_1")
    found = subject.explain(CAM(), x, [281]).maps[0]
    assert_close(found.array, oracles.layer_output(subject.plain, x, found.layer)[0, 281])


@pytest.mark.parametrize("name", WITHOUT)
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
