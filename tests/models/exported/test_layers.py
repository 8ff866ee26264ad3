"""Layers that were exported are layers again."""

import copy

import torch

from service.engine.network.offsets import offset_of
from service.engine.network.rules.activations import Activations
from service.models.networks import holding
from tests.models.exported.doubles import X, served_export, tiny


def test_activations_and_layers_are_found() -> None:
    network = tiny()
    graph = served_export(network)
    with torch.no_grad(), (watch := Activations(len(X))):
        graph(X)
    assert (watch.rectifiers, watch.max_pools, dict(watch.smooth)) == (1, 1, {"sigmoid": 1})
    theirs = dict(holding.modules(graph))
    assert offset_of(network[0]) is not None
    for path, module in network.named_modules():
        torch.testing.assert_close(offset_of(theirs[path]), offset_of(module))
    assert holding.state(graph).keys() == network.state_dict().keys()
    torch.testing.assert_close(copy.deepcopy(graph)(X), network(X))
