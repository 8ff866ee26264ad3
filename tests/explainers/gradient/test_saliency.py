import pytest
import torch
from torch import Tensor, nn

from service.explainers.gradient.saliency import Saliency
from service.explainers.noise import gaussian
from tests import oracles
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case, Peer

TOLERANCE = 1e-4  # gradients that have passed a whole network


def gradients(case: Case, x: Tensor) -> Tensor:
    """Return the signed gradient of the score at each of some inputs (N, 3, H, W), by plain autograd.

    All at once, because rounding, which is another one in another batch, decides which ReLU near zero is open.
    """
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        score = oracles.score_of(case.network, leaf, case.target, case.params.get("score", "logit"))
        return torch.autograd.grad(score.sum(), leaf)[0]


def oracle(case: Case) -> Tensor:
    """max over colours of |dy_c/dX|; the signed gradient averaged over noisy copies where it is to be smoothed."""
    samples, share = case.params.get("smooth_samples", 0), case.params.get("smooth_noise", 0.15)
    if samples == 0:
        return gradients(case, case.x)[0].abs().amax(0)
    deviation = share * (case.x.max() - case.x.min())
    noises = [deviation * gaussian(case.x.shape[1:], case.params.get("seed", 0), i) for i in range(samples)]
    return gradients(case, torch.cat([case.x + noise for noise in noises])).mean(0).abs().amax(0)


def captum(case: Case) -> Tensor:
    """Captum's `Saliency`, the largest over the colours."""
    with oracles.quiet(), torch.enable_grad():
        from captum.attr import Saliency

        network = oracles.scored(oracles.plain_copy(case.network), case.params.get("score", "logit"))
        return Saliency(network).attribute(case.x.clone(), target=case.target, abs=True)[0].amax(0).detach()


PEERS = {"captum": Peer(captum, {"smooth_samples": 0})}


@pytest.mark.oracle("saliency")
@pytest.mark.parametrize("score", ["logit", "probability"])
def test_equals_captum(subject, x, score):
    found = subject.explain(Saliency(score=score), x, [281]).maps[0]
    case = Case(subject.plain, x, target=281, params={"score": score})
    assert_close(found.array, captum(case), 1e-4 if score == "probability" else 2e-5)


@pytest.mark.oracle("saliency")
def test_linear_models_saliency_is_its_weights(small):
    def linear() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).eval()

    subject = small(linear)
    weight = subject.plain[1].weight.view(2, 3, 32, 32)
    absolute = subject.explain(Saliency(), tiny_input(), [0, 1])
    signed = subject.explain(Saliency(sign="signed"), tiny_input(), [0, 1])
    times = subject.explain(Saliency(sign="signed", times_input=True), tiny_input(), [1]).maps[0].array
    for i in range(2):
        assert torch.equal(absolute.maps[i].array, weight[i].abs().amax(0))
        assert torch.equal(signed.maps[i].array, weight[i].sum(0))
    assert_close(times.sum(), absolute.outputs[1] - subject.plain[1].bias[1])


@pytest.mark.oracle("saliency")
def test_smooth_grad_averages_signed_gradients(subjects, x):
    subject = subjects("resnet18")
    params = {"smooth_samples": 11, "smooth_noise": 0.1, "seed": 5}
    found = subject.explain(Saliency(**params), x, [281, 7])
    for m, target in zip(found.maps, (281, 7), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, x, target=target, params=params)), TOLERANCE)


def test_smooth_grads_target_is_the_clean_pictures(subjects, x):
    subject = subjects("efficientnet_lite0")
    noisy = subject.explain(Saliency(smooth_samples=2, smooth_noise=1.0), x)
    assert noisy.maps[0].target == subject.explain(Saliency(), x).maps[0].target
