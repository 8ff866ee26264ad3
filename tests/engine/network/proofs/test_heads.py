"""Heads are proved wherever the outputs are a linear map of averaged maps, however it is written down."""

import pytest
import torch
from torch import nn

from service.engine.network.proofs.heads import Averaged, prove

N, C, K = 8, 6, 4


@pytest.fixture
def means():
    return torch.randn(N, C, generator=torch.Generator().manual_seed(0))


def _linear(seed, **options):
    torch.manual_seed(seed)
    return nn.Linear(C, K, **options)


class Written(nn.Module):
    """A head as modules or parameters, and what it makes of averages."""

    def __init__(self, make, **parts) -> None:
        super().__init__()
        self.make = make
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, m):
        return self.make(self, m)


def _norm():
    norm = nn.BatchNorm1d(C)
    torch.manual_seed(3)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


HEADS = {
    "linear": Written(lambda s, m: s.fc(m), fc=_linear(1)),
    "without bias": Written(lambda s, m: s.fc(m), fc=_linear(1, bias=False)),
    "registered first": Written(lambda s, m: s.fc(m), fc=_linear(1), later=nn.Linear(3, 3)),
    "convolution": Written(lambda s, m: s.conv(m[:, :, None, None]).flatten(1), conv=nn.Conv2d(C, K, 1)),
    "parameter": Written(lambda s, m: m @ s.weight, weight=nn.Parameter(torch.randn(C, K))),
    "two heads": Written(lambda s, m: (s.a(m) + s.b(m)) / 2, a=_linear(1), b=_linear(2)),
    "temperature": Written(lambda s, m: s.fc(m) * 12.5, fc=_linear(1)),
    "batch norm": Written(lambda s, m: s.fc(s.norm(m)), norm=_norm(), fc=_linear(1)),
    "two heads with batch norms": Written(
        lambda s, m: (s.a(m) + s.b(m)) / 2, a=nn.Sequential(_norm(), _linear(1)), b=nn.Sequential(_norm(), _linear(2))
    ),
}


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_linear_maps_of_averages_are_proved(means, name) -> None:
    network = HEADS[name].eval()
    outputs = network(means)
    other = Averaged("other", torch.randn(N, C, generator=torch.Generator().manual_seed(9)))
    head = prove(network, [other, Averaged("layer", means), other], outputs)
    assert head is not None
    assert head.layer == "layer"
    assert head.residual < 1e-5
    fresh = torch.randn(5, C, generator=torch.Generator().manual_seed(8))  # pictures that nothing was fitted to
    torch.testing.assert_close(fresh @ head.weight.T + head.bias, network(fresh), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_maps_that_are_only_averaged_are_their_own_head(means) -> None:
    head = prove(nn.Identity(), [Averaged("maps", means)], means)
    assert torch.equal(head.weight, torch.eye(C))
    assert torch.equal(head.bias, torch.zeros(C))


@pytest.mark.parametrize(
    "make",
    [
        lambda s, m: s.fc(m).relu(),
        lambda s, m: s.fc(nn.functional.layer_norm(m, (C,))),
        lambda s, m: s.fc(m * m.abs()),
        lambda s, m: torch.zeros(N, K),
        lambda s, m: torch.ones(N, K) * s.fc.bias,
    ],
    ids=["rectified", "normalised", "squared", "zeros", "bias only"],
)
@torch.no_grad()
def test_other_heads_are_not(means, make) -> None:
    network = Written(make, fc=_linear(1))
    assert prove(network, [Averaged("layer", means)], network(means)) is None
