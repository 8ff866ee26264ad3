import pytest
import torch
from torch import Tensor, nn

from service.explainers.cam.grad_cam import GradCAM
from service.explainers.cam.xgrad_cam import XGradCAM
from tests import oracles, tiny
from tests.explainers.cam.test_cam import HEADS
from tests.explainers.conftest import assert_close, module_layer, tiny_input
from tests.oracles import Case, Peer


def oracle(case: Case) -> Tensor:
    """ReLU(sum_k w_k A_k), w_k the mean of the gradient weighed by the activations, in double."""
    a, g = (of.double() for of in oracles.maps_and_gradients(case.network, case.x, case.layer, case.target))
    weights = [
        (slope * plane).sum() / plane.sum() if plane.sum() != 0 else 0.0 for plane, slope in zip(a, g, strict=True)
    ]
    return oracles.weighted_sum(weights, a).clamp_min(0).float()


def tolerance(case: Case) -> float:
    """Return what rounding may do to the map, relative to its largest value: sums of signed maps may nearly vanish."""
    a, g = (of.double() for of in oracles.maps_and_gradients(case.network, case.x, case.layer, case.target))
    s, size = a.sum((1, 2)).abs(), a.abs().sum((1, 2))
    w = (g * a).sum((1, 2)).abs() / s
    magnified = torch.where(s > 0, ((g * a).abs().sum((1, 2)) + w * size) / s, 0)
    largest = oracle(case).abs().max()
    return 2e-6 * float(oracles.weighted_sum(magnified, a.abs()).max() / largest)


PEERS = {
    "pytorch-grad-cam": Peer(lambda case: oracles.pytorch_grad_cam_raw("XGradCAM", case)),
    "torch-cam": Peer(lambda case: oracles.torchcam_raw("XGradCAM", case)),
}


@pytest.mark.oracle("xgrad-cam")
def test_equals_the_definition_and_both_peers(subject, x):
    layer = module_layer(subject)
    found = subject.explain(XGradCAM(layer=layer), x, [281]).maps[0].array
    case = Case(subject.plain, x, layer, 281)
    for expected in (oracle(case), *(peer.call(case) for peer in PEERS.values())):
        assert_close(found, expected, tolerance(case))


@pytest.mark.oracle("xgrad-cam")
@pytest.mark.parametrize("name", HEADS)
def test_on_a_linear_head_it_is_grad_cam(subjects, x, name):
    subject = subjects(name)
    found, grad_cam = (subject.explain(method, x, [281]).maps[0].array for method in (XGradCAM(), GradCAM()))
    assert_close(found, grad_cam, 2e-5)


@pytest.mark.oracle("xgrad-cam")
def test_the_map_adds_up_to_what_the_features_contribute(small):
    """Behind the layer the network is linear: the contribution is the logit less the bias."""
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(XGradCAM(), x, [1, 3])
    expected = found.outputs[[1, 3]] - subject.plain.fc.bias[[1, 3]]
    assert_close(torch.tensor(found.details["contribution"]), expected)
    assert found.details["conservation_residual"] < 1e-6


class Antisymmetric(nn.Module):
    """Maps of which the last one is minus itself, mirrored: it adds up to zero exactly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :2], x[:, 2:] - x[:, 2:].flip(3)], 1)


def test_where_activations_add_up_to_zero_there_is_no_weight(small):
    def network() -> nn.Module:
        torch.manual_seed(0)
        tail = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)]
        return nn.Sequential(Antisymmetric(), *tail).eval()

    with torch.random.fork_rng():
        subject = small(network)
    x = (8 * tiny_input()).round() / 8  # so that nothing is rounded
    found = subject.explain(XGradCAM(layer="0"), x, [1])
    assert found.details["undefined_weights"] == 1
    assert found.details["conservation_residual"] > 0.01  # what that channel contributes is not in the map
    case = Case(subject.plain, x, "0", 1)
    assert_close(found.maps[0].array, oracle(case))
    for peer in PEERS.values():  # they divide by an epsilon
        assert float(peer.call(case).max()) > 1e4 * float(found.maps[0].array.max())


@pytest.mark.oracle("xgrad-cam")
def test_what_rounding_leaves_of_a_sum_of_zero_is_no_weight(small):
    """Behind an instance norm each channel adds up to nothing."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.Flatten(), nn.LazyLinear(4)
    )
    network(tiny_input())
    subject = small(lambda: network)
    found = subject.explain(XGradCAM(layer="1"), tiny_input(), [1])
    assert not found.maps[0].array.any()
    assert found.details["undefined_weights"] == 8
