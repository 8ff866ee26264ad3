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
    "error function": torch.erf,
    "sine": torch.sin,
    "clamp": lambda t: t.clamp(-1, 2),
    "clip in place": lambda t: t.clip_(max=1),
    "threshold": lambda t: F.threshold(t, 0.5, -1.0),
    "larger than zero": lambda t: torch.maximum(t, torch.zeros(())),
    "larger than a constant": lambda t: torch.max(torch.full_like(t, 0.3), t),
    "smaller than a constant": lambda t: torch.minimum(t, torch.ones_like(t)),
    "where above zero": lambda t: torch.where(t > 0, t, 0.0),
    "where below, by another slope": lambda t: t.where(t > 0, 0.1 * t),
    "where below, by a curve": lambda t: torch.where(t > 0, t, t.exp() - 1),
    "filled": lambda t: t.masked_fill(t < 0, 0),
    "filled in place": lambda t: t.masked_fill_(t < 0, 0),
    "assigned": lambda t: t.__setitem__(t < 0, 0) or t,
    "times where above zero": lambda t: t * (t > 0),
    "where above zero times": lambda t: (t > 0).to(t) * t,
    "times where above zero in place": lambda t: t.mul_(t > 0),
    "times another slope below zero": lambda t: torch.mul(t, other=torch.where(t > 0, 1.0, 0.1).to(t)),
    "times a sign": lambda t: t * t.sign().clamp(min=0),
    "steps": torch.round,
    "exp in place": torch.exp_,
    "logistic": torch.special.expit,
    "special function": torch.special.erf,
    "root of a rectifier": lambda t: t.relu().sqrt(),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_function_of_single_numbers_by_the_quotient(name):
    x, references = _drawn(2, 3, 4, 4) * 3, _drawn(2, 3, 4, 4, seed=1) * 3
    references[0, 0, 0, 0] = x[0, 0, 0, 0]  # nothing changes here
    found, _ = _explained(SINGLE[name], x, references)
    torch.testing.assert_close(found, SINGLE[name](x.clone()) - SINGLE[name](references.clone()))


HIDDEN = torch.ones(4, 4).triu(1).bool()
ATTENTION = nn.MultiheadAttention(64, 2, batch_first=True).double().requires_grad_(False).eval()
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
    "product by names": lambda t: torch.mul(t, other=t.flip(1)),
    "quotient by names": lambda t: torch.div(t, other=1 + t.flip(1) ** 2),
    "matrix product by names": lambda t: torch.matmul(t, other=t.flip(1).mT),
    "product of three": lambda t: torch.einsum("nchw,ndhw,nchw->ncd", t, t.flip(1), t.flip(2)),
    "product of four in a list": lambda t: torch.einsum("nc...,nc...,nc...,nc...->nc", [t, t.flip(1), t.flip(2), t]),
    "product of an axis": lambda t: t.prod(1),
    "scalar products": lambda t: torch.linalg.vecdot(t, t.flip(1), dim=2),
    "cross products": lambda t: torch.linalg.cross(t[:, :3], t[:, 1:], dim=1),
    "spectrum": lambda t: torch.fft.rfft2(t).abs(),
    "distance": lambda t: F.pairwise_distance(t, t.flip(1)),
    "maximum of a line that is one": lambda t: F.adaptive_max_pool1d(t.flatten(2), 1),
    "least and most": lambda t: torch.cat(torch.aminmax(t, dim=1), 1),
    "signed root": lambda t: t.sign() * (t.abs() + 1e-10).sqrt(),
    "global maximum": lambda t: t.amax((2, 3)),
    "maximum of channels that is kept": lambda t: t.amax(dim=1, keepdim=True),
    "maximum of outer axes": lambda t: t.amax((1, 3)),
    "least": lambda t: t.amin((-1, -2)),
    "maximum of an axis": lambda t: t.flatten(2).max(-1).values,
    "minimum of an axis that is kept": lambda t: torch.min(t, dim=2, keepdim=True)[0],
    "larger of two": lambda t: torch.maximum(t, t.flip(1)),
    "smaller of two": lambda t: torch.min(t, t.flip(1)),
    "maximum of a line": lambda t: F.max_pool1d(t.flatten(2), 3, 2, 1),
    "maximum of a line's windows side by side": nn.Sequential(nn.Flatten(2), nn.MaxPool1d(4)),
    "gated linear unit": lambda t: F.glu(t, 1),
    "between two": lambda t: torch.lerp(t, t.flip(1), t.sigmoid()),
    "between two in place": lambda t: (1 * t).lerp_(t.flip(1), 0.3 * t),
    "with a product": lambda t: torch.addcmul(t, t, t.flip(2), value=2),
    "with a product in place": lambda t: (1 * t).addcmul_(t, t.flip(2)),
    "with a quotient": lambda t: torch.addcdiv(t, t.flip(1), 1 + t**2),
    "with a matrix product": lambda t: torch.baddbmm(t[:, 0], t[:, 1], t[:, 2], beta=0.5, alpha=2),
    "two inputs": lambda t: F.bilinear(t, t.flip(1), _drawn(3, 8, 8), _drawn(3)),
    "cosine": lambda t: F.cosine_similarity(t, t.flip(1), dim=-1),
    "softmin": lambda t: F.softmin(t, 1),
    "log softmax": lambda t: F.log_softmax(t.mean((2, 3)), 1),
    "log softmax of an axis": lambda t: t.log_softmax(dim=-1),
    "log of sums": lambda t: t.logsumexp((2, 3)),
    "log of sums that is kept": lambda t: torch.logsumexp(t, 1, keepdim=True),
    "variance": lambda t: t.var((2, 3)),
    "deviation": lambda t: torch.std(t, 1, keepdim=True),
    "deviation of all": lambda t: t.std(dim=(1, 2), unbiased=False),
    "variance and mean": lambda t: torch.cat(torch.var_mean(t, 1, correction=0, keepdim=True), 1),
    "norm that is written out": lambda t: (t - t.mean(1, True)) / torch.std_mean(t, 1, keepdim=True)[0],
    "chosen by numbers of places": lambda t: t[..., torch.where(torch.arange(8) > 3, torch.arange(8), 0)],
    "masked attention": lambda t: t.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf).softmax(-1) @ t,
    "a module's masked attention": lambda t: ATTENTION(*[t.flatten(2)] * 3, attn_mask=HIDDEN)[0],
    "a module's attention with added masks": lambda t: ATTENTION(
        *[t.flatten(2)] * 3, attn_mask=torch.zeros(4, 4).double().masked_fill(HIDDEN, -torch.inf)
    )[0],
    "attention": lambda t: F.scaled_dot_product_attention(t, t.flip(1), t.relu()),
}


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_missing(name):
    x, references = _drawn(3, 4, 8, 8) * 2, _drawn(3, 4, 8, 8, seed=1)
    with torch.no_grad():
        y = WHOLE[name](x.clone())
    found, change = _explained(WHOLE[name], x, references, _drawn(*y.shape[1:], seed=2))
    torch.testing.assert_close(found.flatten(1).sum(1), change)


def test_a_gate_of_something_else_has_a_slope_within_its_bounds_and_leaves_a_rest():
    gate = torch.tensor([[1.0], [0.0]]).expand(2, 3)
    found, change = _explained(lambda t: t * gate, torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([[1.0, 1.0, 1.0]]))
    assert found.tolist() == [[1.0, 0.0, -1.0]]  # slopes: 2 is too steep, -1 falls, and 0.5 is between both gates
    assert float(change) == 1.5


def test_a_gated_spectrum_keeps_its_derivative():
    x, references = _drawn(2, 1, 4, 4), _drawn(2, 1, 4, 4, seed=1)
    found, _ = _explained(
        lambda t: torch.fft.irfft2(torch.fft.rfft2(t) * (torch.fft.rfft2(t).abs() > 1)), x, references
    )
    assert bool(found.isfinite().all())


def test_maxima_over_a_first_axis_keep_their_derivative():
    x, references = _drawn(3, 4), _drawn(3, 4, seed=1)
    found, _ = _explained(lambda t: torch.stack([t, t + 1, t - 1]).max(0).values, x, references)
    torch.testing.assert_close(found, x - references)


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
