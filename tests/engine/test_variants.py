"""Folded copies, other layouts and other precisions answer what the network answers."""

import pytest
import torch
import torchvision
from torch import nn

from service.models.catalogue import requested
from service.engine.network.resident import Model, probe_input
from service.engine.network.variants import (
    EXACT,
    Recorded,
    Variant,
    bucket,
    candidates,
    fold_batch_norms,
    live_bytes,
)
from service.explainers.base import INPUT
from service.models.efficientnet_lite0 import efficientnet_lite0
from tests import oracles, tiny


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
        tolerance = EXACT if precision == "fp32" else 0.05
        assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance, variant.name


def test_buckets_are_few_and_never_much_too_large():
    sizes = [bucket(rows) for rows in range(1, 257)]
    assert all(rows <= size < 1.5 * rows or size == rows for rows, size in enumerate(sizes, 1))
    assert sorted(set(sizes)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]


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


@torch.inference_mode()
def test_forwards_are_recorded_once_a_size_and_answer_each_picture():
    recordings = []

    def record(call):
        """As a graph does it: the result lies in one place, whatever is replayed."""
        found = call()
        recordings.append(found.shape[0])
        return found, lambda: found.copy_(call())

    network = tiny.classifier()
    recorded = Recorded(network, record)
    pictures = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    answers = [(some, recorded(some)) for some in (pictures[:3], pictures[3:6], pictures[6:], pictures[:3])]
    assert recordings == [3, 1]
    for some, answer in answers:  # none was overwritten by a later one
        torch.testing.assert_close(answer, network(some), rtol=EXACT, atol=EXACT)


def _resnet():
    (spec,) = requested(("resnet18=random",), None)[0].values()
    return Model(spec, _lively("resnet18"), torch.device("cpu"))


def test_gradients_of_the_default_layer_come_from_an_agreeing_copy() -> None:
    model = _resnet()
    layer = model.facts.default_layer

    def traced(x):
        return model.trace(x, layers=[layer], wrt=[layer], objective=lambda outputs, _: outputs[:, [3, 5]])

    x = probe_input((224, 224)) + 0.1
    expected = traced(x)
    folded = candidates(model.module, model.example(), "fp32")[-1]
    assert "conv1" in folded.folded
    assert model.trace_with(folded)
    calls = []
    folded.module.register_forward_pre_hook(lambda *_: calls.append(1))
    found = traced(x)
    assert calls
    assert oracles.relative_error(found.gradients[layer], expected.gradients[layer]) < 1e-5
    assert oracles.relative_error(found.activations[layer], expected.activations[layer]) < 1e-5
    # What a folded convolution would answer, and gradients through rectifiers, are the network's own.
    calls.clear()
    convolution = model.trace(x, layers=["conv1"]).activations["conv1"]
    assert torch.equal(convolution, model.module.conv1(x))
    model.trace(x, wrt=[INPUT], objective=lambda outputs, _: outputs[:, :1])
    assert not calls


def test_a_copy_that_does_not_agree_is_not_traced_with() -> None:
    model = _resnet()
    other = candidates(model.module, model.example(), "fp32")[-1]
    with torch.no_grad():
        other.module.fc.weight.mul_(1.01)
    assert not model.trace_with(other)
    assert model.traced is None


def test_live_bytes_are_those_of_the_most_crowded_moment():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1000))

        def forward(self, x):
            x = x * self.weight.view(10, 100)[0, 0].to(x.dtype)  # beside what is given: x; the weight counts nothing
            wide = torch.cat([x, x, x, x], 1)  # beside x: 1 + 4
            narrow = wide.amax(1, keepdim=True) + 1  # beside x and wide: 1 + 4 + 1/3 + 1/3
            del wide
            return narrow.relu_() + x  # 1 + 1/3 + 1

    x = torch.zeros(2, 3, 10, 10)
    assert live_bytes(Branches(), x) == x.nbytes * 6 + x.nbytes * 2 // 3
    assert live_bytes(Branches(), x.bfloat16()) == live_bytes(Branches(), x) // 2
