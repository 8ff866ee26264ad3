"""Slope times the difference of the inputs is the difference of the outputs: at every operator, and all in all."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.contract import Rescale
from service.engine.network.rules import rule_mode
from tests import tiny


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _explained(network, x: Tensor, references: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return each input's part of each picture's change of the (weighed) sum of its outputs, and that change."""
    leaf = torch.cat([x, references]).requires_grad_()
    with rule_mode(Rescale(), leaf):
        y = network(leaf * 1)
    plain = network(leaf.detach().clone())
    exact = 1e-12 if x.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(y.detach(), plain, rtol=exact, atol=exact)
    own, other = (t if weights is None else t * weights for t in y.split(len(x)))
    (g,) = torch.autograd.grad(own.sum(), leaf)
    assert not g[len(x) :].any()  # a picture has nothing of another one
    return g[: len(x)] * (x - references), (own - other).detach().flatten(1).sum(1)


SINGLE = {
    "relu": F.relu,
    "relu in place": lambda t: F.relu(t, inplace=True),
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "square": lambda t: t**2,
    "exp": torch.exp,
    "one over": lambda t: 1 / (t + 20),
    "power of two": lambda t: 2**t,
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_function_of_single_numbers_by_the_quotient(name):
    x, references = _drawn(2, 3, 4, 4) * 3, _drawn(2, 3, 4, 4, seed=1) * 3
    references[0, 0, 0, 0] = x[0, 0, 0, 0]  # nothing changes here
    found, _ = _explained(SINGLE[name], x, references)
    torch.testing.assert_close(found, SINGLE[name](x.clone()) - SINGLE[name](references.clone()))


WHOLE = {
    "max pool": nn.MaxPool2d(2),
    "overlapping max pool": nn.MaxPool2d(3, 2, 1),
    "adaptive max pool": nn.AdaptiveMaxPool2d(3),
    "product": lambda t: t[:, :2] * t[:, 2:].sigmoid(),
    "product in place": lambda t: t[:, :2].clone().mul_(t[:, 2:].sigmoid()),
    "gate": lambda t: t * t.mean((2, 3), keepdim=True).sigmoid(),
    "square": lambda t: t * t,
    "quotient": lambda t: t / (1 + t**2),
    "softmax": lambda t: t.softmax(-1),
    "softmax of another axis": lambda t: F.softmax(t, dim=1),
    "layer norm": nn.LayerNorm(8).double().requires_grad_(False),
    "group norm": nn.GroupNorm(2, 4).double().requires_grad_(False),
    "instance norm": nn.InstanceNorm2d(4).double(),
    "instance norm of what was seen": nn.InstanceNorm2d(4, track_running_stats=True).double().eval(),
    "layer norm by names": lambda t: F.layer_norm(t, normalized_shape=(8,), eps=1e-3),
    "rms norm": nn.RMSNorm(8).double().requires_grad_(False),
    "rms norm with an epsilon": lambda t: F.rms_norm(t, (8, 8), eps=0.1),
    "length one": lambda t: F.normalize(t, dim=-1),
    "length one of several axes": lambda t: F.normalize(t, dim=(2, 3)),
    "length": lambda t: t.norm(dim=1),
    "length that is kept": lambda t: torch.linalg.norm(t, None, (2, 3), True),
    "length of an axis": lambda t: torch.linalg.norm(t, 2, 3),
    "length of vectors": lambda t: torch.linalg.vector_norm(t, dim=(1, 2), keepdim=True),
    "global response norm": lambda t: (
        t * (t.norm(p=2, dim=(2, 3), keepdim=True) / (1 + t.square().mean((1, 2, 3), keepdim=True)))
    ),
    "local response norm": nn.LocalResponseNorm(2, alpha=0.5),
    "cosines": lambda t: F.normalize(t, dim=-1) @ F.normalize(t.flip(1), dim=-1).mT,
    "matrix product": lambda t: t @ t.mT,
    "attention": lambda t: F.scaled_dot_product_attention(t, t.flip(1), t.relu()),
}


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_missing(name):
    x, references = _drawn(3, 4, 8, 8) * 2, _drawn(3, 4, 8, 8, seed=1)
    y = WHOLE[name](x.clone())
    found, change = _explained(WHOLE[name], x, references, _drawn(*y.shape[1:], seed=2))
    torch.testing.assert_close(found.flatten(1).sum(1), change)


def test_a_max_pool_shares_between_both_winners():
    """Shrikumar et al. leave it open; the change from 5 to 7 goes by way of the larger of both maxima, 7."""
    x, reference = torch.tensor([7.0, 1.0, 0.0, 2.0]), torch.tensor([3.0, 5.0, 0.0, 2.0])
    found, _ = _explained(lambda t: F.max_pool2d(t, 2), x.view(1, 1, 2, 2), reference.view(1, 1, 2, 2))
    assert found.flatten().tolist() == [2, 0, 0, 0]  # max(7, 5) - 5 to the picture's; 7 - 7 to the reference's


@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional, tiny.tokens])
def test_whole_networks_are_complete(network):
    x, references = _drawn(2, 3, 32, 32), 0.3 * _drawn(2, 3, 32, 32, seed=1)
    weights = _drawn(5, seed=2)
    found, change = _explained(network().double().requires_grad_(False), x, references, weights)
    torch.testing.assert_close(found.flatten(1).sum(1), change)


def test_a_reference_without_any_contrast_has_a_norm_of_its_own():
    """In single precision: what it lets through is a thousand times what it lets through of the picture."""
    torch.manual_seed(0)
    norm = nn.LayerNorm(8, eps=1e-6)
    network = nn.Sequential(nn.Linear(8, 8, bias=False), norm, nn.GELU(), nn.Linear(8, 8), norm, nn.Linear(8, 1))
    x = 3 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    found, change = _explained(network.requires_grad_(False), x, torch.zeros(4, 8))
    torch.testing.assert_close(found.sum(1), change, rtol=1e-4, atol=1e-5)
    assert float(found.abs().max()) < 100 * float(change.abs().max())


def test_a_linear_network_by_its_gradient():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Flatten()).double().eval()
    x, references = _drawn(2, 3, 8, 8), _drawn(2, 3, 8, 8, seed=1)
    found, _ = _explained(network.requires_grad_(False), x, references)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(network(leaf).sum(), leaf)
    torch.testing.assert_close(found, g * (x - references))
