import pytest
import torch
from torch import Tensor

from service.explainers.gradient.smooth_grad import SmoothGrad
from service.explainers.gradient.var_grad import VarGrad
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_integrated_gradients import linear
from tests.explainers.gradient.test_saliency import gradients
from tests.explainers.gradient.test_smooth_grad import noises, tunnelled
from tests.oracles import Case, Peer

TOLERANCE = 1e-3  # squares of gradients that have passed a whole network, less the square of their mean


def oracle(case: Case) -> Tensor:
    """The variance of the gradient over noisy copies, or its mean square; the largest over the colours."""
    g = gradients(case, torch.cat([case.x + noise for noise in noises(case)])).double()
    mean = sum(g) / len(g)
    if case.params.get("statistic") == "square":
        return (sum(one**2 for one in g) / len(g)).amax(0).float()
    return (sum((one - mean) ** 2 for one in g) / (len(g) - 1)).amax(0).float()


def captum(case: Case) -> Tensor:
    """Captum's `NoiseTunnel`, whose variance is divided by n and not n - 1."""
    if case.params.get("statistic") == "square":
        return tunnelled(case, "smoothgrad_sq").amax(0)
    count = len(noises(case))
    return tunnelled(case, "vargrad").amax(0) * count / (count - 1)


PEERS = {"captum": Peer(captum)}


@pytest.mark.oracle("var-grad")
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("statistic", ["variance", "square"])
def test_equals_captum_given_the_same_noise_and_the_definition(subjects, x, name, statistic):
    subject = subjects(name)
    params = {"statistic": statistic, "samples": 4, "seed": 1}
    found = subject.explain(VarGrad(**params), x, [281, 7])
    for m, target in zip(found.maps, (281, 7), strict=True):
        case = Case(subject.plain, x, target=target, params=params)
        assert_close(m.array, oracle(case), TOLERANCE)
        assert_close(m.array, captum(case), TOLERANCE)


@pytest.mark.oracle("var-grad")
def test_a_linear_model_has_no_variance_and_its_squares_are_those_of_its_weights(small):
    """Exactly: a variance that is a difference of mean squares would keep their rounding."""
    subject = small(linear)
    weight = subject.plain[1].weight.view(2, 3, 32, 32)
    variance, square = (
        subject.explain(VarGrad(statistic=statistic, samples=37, colours="keep"), tiny_input(), [0, 1])
        for statistic in ("variance", "square")
    )
    for i in range(2):
        assert variance.maps[i].array.eq(0).all()
        assert torch.equal(square.maps[i].array, weight[i].double().square().float())


def test_square_is_variance_and_the_square_of_the_mean(small):
    subject, x = small(tiny.vgg), tiny_input()
    found = {
        statistic: subject.explain(VarGrad(statistic=statistic, samples=9, colours="keep"), x, [1]).maps[0].array
        for statistic in ("variance", "square")
    }
    mean = subject.explain(SmoothGrad(samples=9, colours="keep"), x, [1]).maps[0].array
    assert_close(found["variance"] * 8 / 9 + mean**2, found["square"], 1e-5)


@pytest.mark.parametrize("colours", ["sum", "absmax"])
def test_maps_are_positive_however_colours_are_joined(small, colours):
    m = small(tiny.classifier).explain(VarGrad(samples=2, colours=colours), tiny_input(), [1]).maps[0]
    assert m.kind == "positive"
    assert float(m.array.min()) >= 0
