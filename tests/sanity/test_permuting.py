import torch
from torch import nn

from service.sanity.permuting import layers, permute
from tests.tiny import classifier

PICTURES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _weights(network: nn.Module) -> list[list[torch.Tensor]]:
    return [[p.detach().clone() for p in layer.parameters(recurse=False)] for layer in layers(network)]


def test_values_stay_and_places_change_from_the_top_on() -> None:
    before = _weights(classifier())
    changed = []
    for share in (0.25, 0.5, 1.0):
        network = classifier()
        permute(network, share, PICTURES)
        after = _weights(network)
        moved = [
            any(not torch.equal(a, b) for a, b in zip(one, two, strict=True))
            for one, two in zip(before, after, strict=True)
        ]
        changed.append(moved)
        for one, two in zip(before, after, strict=True):
            for a, b in zip(one, two, strict=True):
                torch.testing.assert_close(a.flatten().sort().values, b.flatten().sort().values)
    assert changed == [
        [False, False, False, True],
        [False, False, True, True],
        [True, False, True, True],
    ]  # a norm's are ones


def test_a_larger_share_goes_on_from_a_smaller_one() -> None:
    half, whole = classifier(), classifier()
    permute(half, 0.5, PICTURES)
    permute(whole, 1.0, PICTURES)
    for a, b in zip(_weights(half)[2:], _weights(whole)[2:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batch_norms_know_what_passes_them() -> None:
    network = classifier()
    permute(network, 1.0, PICTURES)
    seen = network.conv1(PICTURES)
    torch.testing.assert_close(network.bn1.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.bn1.running_var, seen.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert network.bn1.momentum == 0.1
    assert not any(module.training for module in network.modules())
