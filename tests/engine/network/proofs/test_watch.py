"""A watched forward shows what each module answers, without changing what the network does."""

import torch
from torch import nn
from torch.nn import functional as F

from service.engine.network.capture import install
from service.engine.network.places.grids import changed
from service.engine.network.proofs.watch import addresses, shapes, watch_changes, watch_gradients
from tests import tiny

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _network(build):
    network = build().requires_grad_(False)
    install(network)
    return network


def test_changes_show_grids_and_averages_before_functions_in_place() -> None:
    network = _network(tiny.classifier)
    rows = torch.cat([changed(X), X.flip(3)])
    found = watch_changes(network, rows, singly=False)
    assert torch.equal(found.returned, network(rows))
    calls = {call.path: call for call in found.calls}
    normed = network.bn1(network.conv1(rows))  # `relu1` writes over it
    assert str(calls["bn1"].layout) == "chw"
    torch.testing.assert_close(calls["bn1"].pooled, normed.mean((2, 3)))
    torch.testing.assert_close(calls["bn1"].rectified, normed.relu().mean((2, 3)))
    assert calls["fc"].layout is None
    assert (found.rectifiers, found.max_pools) == (2, 1)
    one_by_one = watch_changes(network, rows, singly=True)
    assert torch.equal(torch.cat(one_by_one.returned), torch.cat([network(row[None]) for row in rows]))
    assert [(c.path, c.layout) for c in one_by_one.calls] == [(c.path, c.layout) for c in found.calls]
    assert (one_by_one.rectifiers, one_by_one.max_pools) == (2, 1)
    torch.testing.assert_close(one_by_one.calls[1].pooled, calls["bn1"].pooled)


def test_calls_have_addresses() -> None:
    found = watch_changes(_network(tiny.functional), changed(X), singly=False)
    names, repeated = addresses(found.calls)
    assert repeated == {"conv2", "relu6"}
    assert names == ["conv1", "relu6#1", "conv2#1", "relu6#2", "conv2#2", "norm", "fc"]


def test_gradients_are_those_of_autograd_at_every_call() -> None:
    network = _network(tiny.classifier)
    found = watch_gradients(network, X)
    at_input, gradients = found.gradients(found.returned[0, 3])
    leaf = X.clone().requires_grad_()
    a = network.bn1(network.conv1(leaf))
    expected = torch.autograd.grad(network[3:](F.relu(a))[0, 3], (a, leaf))
    by_path = dict(zip(found.paths, gradients, strict=True))
    torch.testing.assert_close(by_path["bn1"], expected[0])
    torch.testing.assert_close(at_input, expected[1])
    calls = {call.path: call for call in found.calls}
    assert (calls["bn1"].followed_by, calls["conv1"].followed_by) == ("relu", None)
    assert calls["pool1"].only_pool
    assert not calls["conv2"].only_pool
    assert all(found.projects(i) for i in range(len(found.calls)))


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.pool, self.seen = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Identity()), nn.Conv2d(4, 5, 1)

    def forward(self, x):
        with torch.no_grad():
            a = self.hidden(x)
        return self.seen(self.pool(F.avg_pool2d(a, 2))).mean((2, 3))


def test_what_passes_no_gradient_on_is_known_from_what_does() -> None:
    found = watch_gradients(_network(Blind), X)
    at_input, gradients = found.gradients(found.returned[0, 0])
    by_path = dict(zip(found.paths, gradients, strict=True))
    assert at_input is None
    assert by_path["hidden"] is None
    assert by_path["seen"].any()
    assert not found.projects(found.paths.index("seen"))
    calls = {call.path: call for call in found.calls}
    assert calls["pool"].only_pool  # the outer name of what the function made
    assert calls["pool"].same == calls["pool.0"].same


def test_shapes_are_by_path_and_call() -> None:
    found = shapes(_network(tiny.functional), torch.zeros(1, 3, 32, 48))
    assert found["conv2#2"] == (8, 16, 24)
