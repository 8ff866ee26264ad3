import pytest
import torch
from torch import nn

from service.explainers.gradient.saliency import Saliency
from service.explainers.noise import gaussian
from tests import oracles
from tests.explainers.conftest import assert_close, tiny_input


@pytest.mark.oracle("saliency")
@pytest.mark.parametrize("score", ["logit", "probability"])
def test_equals_captum(subject, x, score):
    found = subject.explain(Saliency(score=score), x, [281]).maps[0]
    theirs = oracles.captum_saliency(subject.plain, x, 281, score=score)
    assert_close(found.array, theirs.amax(0), 1e-4 if score == "probability" else 2e-5)


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
    params = Saliency(smooth_samples=11, smooth_noise=0.1, seed=5)
    found = subject.explain(params, x, [281, 7])
    noises = [0.1 * (x.max() - x.min()) * gaussian((3, *x.shape[2:]), 5, sample) for sample in range(11)]
    for m, target in zip(found.maps, (281, 7), strict=True):
        assert_close(m.array, oracles.slow_smooth_grad(subject.plain, x, target, noises).abs().amax(0), 1e-4)


def test_smooth_grads_target_is_the_clean_pictures(subjects, x):
    subject = subjects("efficientnet_lite0")
    noisy = subject.explain(Saliency(smooth_samples=2, smooth_noise=1.0), x)
    assert noisy.maps[0].target == subject.explain(Saliency(), x).maps[0].target
