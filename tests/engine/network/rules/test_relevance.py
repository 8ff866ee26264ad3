"""What each operator does with relevance, however a network calls it: by hand."""

import operator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.contract import Relevance, Share
from service.engine.network.rules import arrived, rule_mode

EPSILON = Relevance(Share(epsilon=1e-12), Share(epsilon=1e-12))


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _relevance(network, *given: Tensor, rule: Relevance = EPSILON) -> tuple[list[Tensor], Tensor]:
    """Return the relevance of each input where all outputs explain themselves, and the outputs."""
    leaves = [x.clone().requires_grad_() for x in given]
    with rule_mode(rule, leaves[0]):
        y = network(*[leaf * 1 for leaf in leaves])
    found = torch.autograd.grad(y.sum(), leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if g is None else arrived(rule, g, leaf) for g, leaf in zip(found, leaves, strict=True)
    ], y.detach()


@pytest.mark.parametrize(
    "multiply",
    [lambda a, b: a * b, torch.mul, lambda a, b: a.mul_(b), lambda a, b: a.mul(b)],
    ids=["*", "torch.mul", "mul_", "mul"],
)
def test_a_product_halves(multiply):
    a, b = _drawn(2, 3), _drawn(2, 3, seed=1)
    (ra, rb), y = _relevance(multiply, a, b)
    torch.testing.assert_close(y, a * b)
    torch.testing.assert_close(ra, a * b / 2)
    torch.testing.assert_close(rb, a * b / 2)


def test_a_factor_that_is_no_ones_input_gets_nothing():
    factor = _drawn(2, 3, seed=1)
    (ra,), y = _relevance(lambda a: factor * a, _drawn(2, 3))
    torch.testing.assert_close(ra, y)


def test_a_matrix_product_halves():
    a, b = _drawn(2, 4, 3), _drawn(2, 3, 5, seed=1)
    for multiply in (torch.matmul, torch.bmm, lambda a, b: a @ b, lambda a, b: torch.einsum("nij,njk->nik", a, b)):
        (ra, rb), y = _relevance(multiply, a, b)
        parts = a[:, :, :, None] * b[:, None]  # (n, i, j, k)
        torch.testing.assert_close(y, parts.sum(2))
        torch.testing.assert_close(ra, parts.sum(3) / 2)
        torch.testing.assert_close(rb, parts.sum(1) / 2)


SEVERAL = {
    "glu": (lambda a, b: F.glu(torch.cat([a, b], 1), 1), lambda a, b: a * b.sigmoid()),
    "lerp": (lambda a, b: torch.lerp(a, b, b.sigmoid()), lambda a, b: a + (b - a) * b.sigmoid()),
    "lerp_": (lambda a, b: a.lerp_(b, 0.3), lambda a, b: a + (b - a) * 0.3),
    "addcmul": (lambda a, b: torch.addcmul(a, a, b, value=2), lambda a, b: a + a * b * 2),
    "addcdiv": (lambda a, b: a.addcdiv(a, b), lambda a, b: a + a / b),
    "baddbmm": (
        lambda a, b: torch.baddbmm(input=a, batch1=a, batch2=b, beta=0.5),
        lambda a, b: a * 0.5 + a @ b,
    ),
    "bilinear": (
        lambda a, b: F.bilinear(a, b, WEIGHT),
        lambda a, b: (torch.einsum("nmi,oij->nmoj", a, WEIGHT) * b[:, :, None]).sum(-1),
    ),
    "prod": (lambda a, b: torch.stack([a, b], 1).prod(1), lambda a, b: a * b),
    "softmin": (lambda a, b: F.softmin(a, 1) * b, lambda a, b: F.softmax(-a, 1) * b),
}
WEIGHT = _drawn(3, 4, 4, seed=3)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_operations_in_one_are_what_they_are_one_by_one(name):
    (found, y), (expected, plain) = (
        _relevance(call, _drawn(2, 4, 4), _drawn(2, 4, 4, seed=1)) for call in SEVERAL[name]
    )
    torch.testing.assert_close(y, plain)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("call", [torch.round, torch.sign, lambda a: a.sign() * (a.abs() + 1e-10).sqrt()])
def test_steps_and_signed_roots_pass_on(call):
    (found,), y = _relevance(call, _drawn(2, 3) * 3)
    torch.testing.assert_close(found, y)


def test_a_scalar_product_halves_by_any_name():
    a, b = _drawn(2, 3), _drawn(2, 3, seed=1)
    for call in (torch.linalg.vecdot, lambda a, b: torch.mul(a, other=b).sum(1), lambda a, b: (a * b).sum(1)):
        (ra, rb), y = _relevance(call, a, b)
        torch.testing.assert_close(y, (a * b).sum(1))
        torch.testing.assert_close(ra, a * b / 2)
        torch.testing.assert_close(rb, a * b / 2)


def test_a_product_of_several_has_equal_parts():
    given = [_drawn(2, 3, seed=seed) for seed in range(3)]
    found, y = _relevance(lambda *t: torch.einsum("ni,nj,ni->n", *t), *given)
    for one in found:
        torch.testing.assert_close(one.sum(1), y / 3)


@pytest.mark.parametrize("kind", ["of what is hidden", "that is added"])
def test_a_mask_of_an_attention_module_hides(kind):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double().requires_grad_(False).eval()
    hidden = torch.ones(4, 4).triu(1).bool()
    mask = hidden if kind == "of what is hidden" else torch.zeros(4, 4).double().masked_fill(hidden, -torch.inf)
    (first, *_), y = _relevance(lambda x: attention(x, x, x, attn_mask=mask)[0][:, :1], _drawn(2, 4, 8))
    assert bool(y.isfinite().all())
    assert bool(first.isfinite().all())
    assert bool(first[:, 0].any())
    assert not bool(first[:, 1:].any())


def test_a_square_and_a_quotient():
    a, b = _drawn(2, 3), _drawn(2, 3, seed=1).exp()
    for square in (lambda a: a * a, lambda a: a**2, torch.square):
        (ra,), y = _relevance(square, a)
        torch.testing.assert_close(ra, y)
    (ra, rb), y = _relevance(lambda a, b: a / b, a, b)
    torch.testing.assert_close(ra, y)
    assert not rb.any()


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm((3, 4, 4)), nn.GroupNorm(3, 6), nn.GroupNorm(1, 6), nn.InstanceNorm2d(6, affine=True), nn.RMSNorm(4)],
    ids=str,
)
def test_a_norms_deviation_is_a_constant(norm):
    x = _drawn(2, 3, 4, 4) if isinstance(norm, nn.LayerNorm) else _drawn(2, 6, 4, 4)
    torch.manual_seed(0)
    for parameter in norm.double().requires_grad_(False).parameters():
        parameter.normal_()
    (r,), y = _relevance(norm, x)
    torch.testing.assert_close(y, norm(x))

    def fixed(t: Tensor) -> Tensor:
        """The same norm with the deviation of x."""
        if isinstance(norm, nn.RMSNorm):
            return t * (y / x)
        groups = {nn.GroupNorm: lambda: norm.num_groups, nn.InstanceNorm2d: lambda: 6}.get(type(norm), lambda: 1)()
        grouped, own = t.reshape(2, groups, -1), x.reshape(2, groups, -1)
        deviation = (own.var(2, unbiased=False, keepdim=True) + norm.eps).sqrt()
        scaled = ((grouped - grouped.mean(2, keepdim=True)) / deviation).view_as(t)
        view = (-1, 1, 1) if isinstance(norm, nn.GroupNorm | nn.InstanceNorm2d) else norm.normalized_shape
        return scaled * norm.weight.view(view) + norm.bias.view(view)

    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(r, torch.autograd.grad(fixed(leaf).sum(), leaf)[0] * x)


def test_a_norm_is_the_same_however_it_is_called():
    x, w, b = _drawn(2, 4, 4), _drawn(4, seed=1), _drawn(4, seed=2)
    calls = (
        lambda t: F.layer_norm(t, (4,), w, b, 1e-3),
        lambda t: F.layer_norm(t, normalized_shape=(4,), weight=w, bias=b, eps=1e-3),
        lambda t: torch.layer_norm(t, (4,), w, b, 1e-3, False),
        lambda t: (t - t.mean(-1, keepdim=True)) / torch.sqrt(t.var(-1, False, keepdim=True) + 1e-3) * w + b,
        lambda t: _by_pieces(t) * w + b,
    )
    (expected,), y = _relevance(calls[0], x)
    for call in calls:
        (found,), z = _relevance(call, x)
        torch.testing.assert_close(z, y)
        torch.testing.assert_close(found, expected)
    one, other = (_relevance(lambda t, e=e: F.layer_norm(t, (4,), weight=w, eps=e), x)[0][0] for e in (1e-3, 1.0))
    assert not torch.allclose(one, other)


def _by_pieces(t: Tensor) -> Tensor:
    variance, mean = torch.var_mean(t, -1, correction=0, keepdim=True)
    return (t - mean) * torch.rsqrt(variance + 1e-3)


class Norms(nn.Module):
    """Convolutions whose batch norms follow in another order, in front, or behind something else."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        make = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.front, self.a, self.b = nn.BatchNorm2d(4), make(4, 6, 3), make(4, 6, 3, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        a, b = self.a(x), self.b(x)
        b = self.norm_b(b)
        return F.relu(self.norm_a(a), inplace=True) + F.relu(b)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_batch_norm_is_taken_together_with_its_convolution(transposed):
    torch.manual_seed(0)
    network = Norms(transposed).double()
    network.train()(_drawn(8, 4, 7, 7))
    network.eval().requires_grad_(False)
    for norm in (network.norm_a, network.norm_b, network.front):
        norm.weight.normal_()
        norm.bias.normal_()
    axis = 1 if transposed else 0
    rule = Relevance(Share("alpha-beta"), Share())
    (found,), y = _relevance(network, _drawn(2, 4, 7, 7), rule=rule)
    torch.testing.assert_close(y, network(_drawn(2, 4, 7, 7)))
    for conv, norm in ((network.a, network.norm_a), (network.b, network.norm_b)):  # the same network, merged by hand
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = norm.bias + ((0 if conv.bias is None else conv.bias) - norm.running_mean) * scale
        conv.weight.copy_(conv.weight * scale.view([-1 if i == axis else 1 for i in range(4)]))
        conv.bias = nn.Parameter(bias, requires_grad=False)
    network.norm_a, network.norm_b = nn.Identity(), nn.Identity()
    (expected,), _ = _relevance(network, _drawn(2, 4, 7, 7), rule=rule)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)
    (apart,), _ = _relevance(network, _drawn(2, 4, 7, 7), rule=EPSILON)
    assert float((apart - expected).abs().max()) > 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize("weights", [False, True])
def test_relevance_is_kept_through_attention(weights):
    """Without biases: half of what attention hands on gets to the values, and the softmax keeps the rest in part."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True).double().eval().requires_grad_(False)
    x, values = _drawn(2, 5, 8), _drawn(2, 5, 8, seed=1)
    (_, found), y = _relevance(lambda x, v: attention(x, x, v, need_weights=weights)[0], x, values)
    torch.testing.assert_close(y, attention(x, x, values, need_weights=weights)[0])
    torch.testing.assert_close(found.sum(), y.sum() / 2)
    (at_tokens,), z = _relevance(lambda x: attention(x, x, x, need_weights=weights)[0], x)
    assert float((at_tokens.sum() - z.sum()).abs()) > 0  # a softmax is no linear function of the tokens


@pytest.mark.parametrize("add", [torch.add, lambda a, b: a + b, lambda a, b: a.add_(b), operator.iadd])
def test_sums_among_the_positive(add):
    a, b = torch.tensor([[3.0, -1.0, 2.0]]), torch.tensor([[1.0, 3.0, -5.0]])
    rule = Relevance(positive=True)
    (ra, rb), y = _relevance(add, a, b, rule=rule)
    torch.testing.assert_close(ra, torch.tensor([[3.0, 0.0, -3.0]]))
    torch.testing.assert_close(rb, torch.tensor([[1.0, 2.0, 0.0]]))
    assert y.tolist() == [[4, 2, -3]]
