import pytest
import torch
from torch import Tensor, nn

from service.explainers.gradient.gradient_x_input import GradientXInput
from service.explainers.gradient.saliency import Saliency
from tests import oracles
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_integrated_gradients import linear
from tests.explainers.gradient.test_saliency import gradients
from tests.oracles import Case, Peer

TOLERANCE = 1e-4  # gradients that have passed a whole network


def oracle(case: Case) -> Tensor:
    """The gradient times the normalised input, the sum over the colours."""
    return (gradients(case, case.x) * case.x)[0].sum(0)


def captum(case: Case) -> Tensor:
    """Captum's `InputXGradient`, the sum over the colours."""
    with oracles.quiet(), torch.enable_grad():
        from captum.attr import InputXGradient

        network = oracles.scored(oracles.plain_copy(case.network), case.params.get("score", "logit"))
        return InputXGradient(network).attribute(case.x.clone(), target=case.target)[0].sum(0).detach()


PEERS = {"captum": Peer(captum)}


@pytest.mark.oracle("gradient-x-input")
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_lite0"])
def test_equals_captum_and_the_definition(subjects, x, name, score):
    subject = subjects(name)
    found = subject.explain(GradientXInput(score=score), x, [281, 7])
    for m, target in zip(found.maps, (281, 7), strict=True):
        case = Case(subject.plain, x, target=target, params={"score": score})
        assert_close(m.array, oracle(case), TOLERANCE)
        assert_close(m.array, captum(case), TOLERANCE)


@pytest.mark.oracle("gradient-x-input")
def test_a_linear_models_rest_is_its_bias(small):
    subject, x = small(linear), tiny_input()
    found = subject.explain(GradientXInput(), x, [0, 1])
    layer = subject.plain[1]
    for i, m in enumerate(found.maps):
        assert_close(m.array, (layer.weight[i].view(3, 32, 32) * x[0]).sum(0), 1e-6)
    assert found.details["rest"] == pytest.approx(layer.bias.tolist(), abs=1e-5)


def test_a_network_of_rectifiers_without_biases_leaves_no_rest(small):
    def unbiased() -> nn.Module:
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU()
        return nn.Sequential(*conv, nn.Flatten(), nn.Linear(8 * 169, 3, bias=False)).eval()

    found = small(unbiased).explain(GradientXInput(), tiny_input(), [0, 2])
    assert found.details["rest"] == pytest.approx([0, 0], abs=1e-6)
    assert float(found.outputs.abs().max()) > 0.01


def test_is_what_saliency_gives_of_it(subjects, x):
    subject = subjects("resnet18")
    ours = subject.explain(GradientXInput(), x, [281]).maps[0].array
    saliency = subject.explain(Saliency(sign="signed", times_input=True), x, [281]).maps[0].array
    assert_close(ours, saliency, TOLERANCE)
