"""Folded copies, other layouts and other precisions answer what the network answers."""

import pytest
import torch
import torchvision
from torch import nn

from service.engine.network.variants import EXACT, Variant, candidates, fold_batch_norms
from service.errors import InvalidParameter
from service.models.embedded.efficientnet_lite0 import efficientnet_lite0
from tests import tiny
from tests.odd import nets

# Of half precision: eight bits a number, through fifty layers; how they are added up is the processor's.
HALF = 0.1


def _lively(name):
    """A torchvision network whose batch norms have something to fold."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, **({"init_weights": False} if name == "googlenet" else {}))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval().requires_grad_(False)


def _norms(module):
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda: _lively("resnet18"), 0),
        (lambda: _lively("mobilenet_v2"), 0),
        (lambda: _lively("googlenet"), 2),  # of auxiliary heads, which never run
        (efficientnet_lite0, 0),
        (lambda: _lively("densenet121"), 62),  # norms before convolutions cannot be folded
        (tiny.functional, 1),  # its convolution is called twice
    ],
    ids=["resnet18", "mobilenet_v2", "googlenet", "efficientnet_lite0", "densenet121", "functional"],
)
@torch.inference_mode()
def test_folding_is_exact(build, left):
    network = build()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = network(x)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found, _ = fold_batch_norms(network, x)
    assert _norms(found) == left
    assert float((found(x) - expected).abs().max() / expected.abs().max()) <= EXACT
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Reused(nn.Module):
    """Reads a convolution's output beside its batch norm: folding would change what is read."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.conv(x)
        return (y + self.norm(y).relu()).mean((2, 3))


def test_what_cannot_be_folded_exactly_is_not_offered():
    network = tiny._seeded(Reused)
    x = torch.randn(2, 3, 32, 32)
    assert [v.name for v in candidates(network, x, "fp32")] == ["plain", "channels-last"]
    assert [v.name for v in candidates(tiny.classifier(), x, "bf16")] == ["channels-last", "folded, channels-last"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.inference_mode()
def test_every_variant_agrees(precision):
    network = efficientnet_lite0()
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    expected = network(x)
    for variant in candidates(network, x, precision):
        found = variant(x)
        assert found.dtype == torch.float32
        tolerance = EXACT if precision == "fp32" else HALF
        assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance, variant.name


class Turns(nn.Module):
    """Multiplies spectra by complex numbers."""

    def __init__(self, *, kept):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)
        weight = torch.randn(8, 32, 17, dtype=torch.cfloat)
        if kept:
            self.weight = weight
        else:
            self.register_buffer("weight", weight)

    def forward(self, x):
        y = torch.fft.irfft2(torch.fft.rfft2(self.conv(x).float()) * self.weight, s=x.shape[2:])
        return self.fc(y.relu().mean((2, 3)).to(self.fc.weight.dtype))


@pytest.mark.parametrize("kept", [False, True])
@torch.inference_mode()
def test_complex_numbers_are_not_cut_in_half(kept):
    network = tiny._seeded(lambda: Turns(kept=kept))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = network(x)
    ways = candidates(network, x, "fp32")
    assert len(ways) >= 2
    for way in ways:
        torch.testing.assert_close(way(x), expected, rtol=EXACT, atol=EXACT)
    for precision in ("bf16", "fp16"):
        with pytest.raises(InvalidParameter, match=r"complex numbers, .* use fp32"):
            candidates(network, x, precision)


class Large(nn.Module):
    """Answers by the last digits of large numbers, which fewer digits do not hold."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        y = self.fc(x.mean((2, 3)))
        return (y + 300) - 300


def test_what_fewer_digits_do_not_hold_is_refused():
    network = tiny._seeded(Large)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with pytest.raises(InvalidParameter, match=r"% of the largest one off then.*use fp32"):
        candidates(network, x, "bf16")


COMPUTED = ("weight_norm", "weight_norm_new", "spectral_norm_new", "caches")


@pytest.mark.filterwarnings("ignore")  # that one of the norms is deprecated
@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_that_are_computed_in_each_forward_and_tables_that_are_kept_are_no_hindrance(name, precision):
    network = tiny._seeded(getattr(nets, name))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(x)
    found = candidates(network, x, precision)
    assert {variant.name for variant in found} >= {"channels-last"}
    with torch.inference_mode():
        for variant in found:
            off = float((variant(x) - expected).abs().max() / expected.abs().max())
            assert off <= (EXACT if precision == "fp32" else HALF), variant.name
        torch.testing.assert_close(network(x), expected, rtol=EXACT, atol=EXACT)  # it is as it was


@torch.inference_mode()
def test_batches_are_filled_up_to_buckets():
    seen = []
    network = tiny.classifier()
    network.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    rows = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = network(rows)
    found = Variant("bucketed", network, channels_last=True, buckets=True)(rows)
    assert seen[1:] == [(6, 3, 32, 32)]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=EXACT, atol=EXACT)
