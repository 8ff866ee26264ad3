from unittest import mock

import pytest
import torch
from torch import Tensor

from service.explainers.gradient.saliency import Saliency
from service.explainers.gradient.smooth_grad import SmoothGrad
from service.explainers.noise import gaussian
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_integrated_gradients import linear
from tests.explainers.gradient.test_saliency import gradients
from tests.oracles import Case, Peer

TOLERANCE = 1e-4  # gradients that have passed a whole network


def noises(case: Case) -> list[Tensor]:
    """Return the noise of each copy, (3, H, W)."""
    how = {"samples": 32, "noise": 0.15, "seed": 0, **case.params}
    deviation = how["noise"] * (case.x.max() - case.x.min())
    return [deviation * gaussian(case.x.shape[1:], how["seed"], i) for i in range(how["samples"])]


def oracle(case: Case) -> Tensor:
    """The mean over noisy copies of the signed gradient, the largest over the colours."""
    g = gradients(case, torch.cat([case.x + noise for noise in noises(case)]))
    return (sum(one.double() for one in g) / len(g)).abs().amax(0).float()


def tunnelled(case: Case, kind: str) -> Tensor:
    """Captum's `NoiseTunnel` around its `Saliency`, given the same noise, (3, H, W)."""
    drawn = torch.stack(noises(case))
    with oracles.quiet(), torch.enable_grad(), mock.patch.object(torch, "normal", return_value=drawn):
        from captum.attr import NoiseTunnel
        from captum.attr import Saliency as Theirs

        network = oracles.scored(oracles.plain_copy(case.network), case.params.get("score", "logit"))
        found = NoiseTunnel(Theirs(network)).attribute(
            case.x.clone(), nt_type=kind, nt_samples=len(drawn), target=case.target, abs=False
        )
        return found[0].detach()


PEERS = {"captum": Peer(lambda case: tunnelled(case, "smoothgrad").abs().amax(0))}


@pytest.mark.oracle("smooth-grad")
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("params", [{"samples": 3}, {"samples": 5, "noise": 0.4, "seed": 9, "score": "probability"}])
def test_equals_captum_given_the_same_noise_and_the_definition(subjects, x, name, params):
    subject = subjects(name)
    found = subject.explain(SmoothGrad(**params), x, [281, 7])
    for m, target in zip(found.maps, (281, 7), strict=True):
        case = Case(subject.plain, x, target=target, params=params)
        assert_close(m.array, oracle(case), TOLERANCE)
        assert_close(m.array, PEERS["captum"].call(case), TOLERANCE)


@pytest.mark.oracle("smooth-grad")
def test_a_linear_models_smooth_gradient_is_its_weights(small):
    subject = small(linear)
    weight = subject.plain[1].weight.view(2, 3, 32, 32)
    found = subject.explain(SmoothGrad(samples=7, noise=1, colours="sum"), tiny_input(), [0, 1])
    for i, m in enumerate(found.maps):
        assert_close(m.array, weight[i].sum(0), 1e-7)


def test_noise_is_a_share_of_the_pictures_range(small):
    """A picture of twice the contrast, in a network that divides by two, has the same map, halved."""
    subject, x = small(tiny.classifier), tiny_input()
    louder = small(lambda: _halving(tiny.classifier()))
    one = subject.explain(SmoothGrad(samples=4), x, [1]).maps[0].array
    other = louder.explain(SmoothGrad(samples=4), 2 * x, [1]).maps[0].array
    assert_close(2 * other, one, 1e-5)


def _halving(network):
    network.conv1.weight.data /= 2
    return network


def test_saliency_smooths_by_the_same_code(small):
    subject, x = small(tiny.vgg), tiny_input()
    ours = subject.explain(SmoothGrad(samples=6, seed=2), x, [1]).maps[0].array
    assert_close(ours, subject.explain(Saliency(smooth_samples=6, seed=2), x, [1]).maps[0].array)
