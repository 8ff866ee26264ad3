"""A resident network: its identity, and gradients from an agreeing copy."""

import torch

from service.contract import INPUT, Tracing
from service.engine.network.examine import probe_input
from service.engine.network.resident import Model
from service.engine.network.variants import candidates
from service.models.catalogue import requested
from tests import oracles
from tests.engine.network.test_variants import _lively


def _resnet():
    (spec,) = requested(("resnet18=random",), None)[0].values()
    return Model(spec, _lively("resnet18"), torch.device("cpu"))


def test_gradients_of_the_default_layer_come_from_an_agreeing_copy() -> None:
    model = _resnet()
    layer = model.facts.default_layer

    def traced(x):
        return model.trace(x, Tracing((layer,), (layer,)), lambda seen: seen.outputs[:, [3, 5]])

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
    convolution = model.trace(x, Tracing(("conv1",))).activations["conv1"]
    assert torch.equal(convolution, model.module.conv1(x))
    model.trace(x, Tracing(wrt=(INPUT,)), lambda seen: seen.outputs[:, :1])
    assert not calls


def test_a_copy_that_does_not_agree_is_not_traced_with() -> None:
    model = _resnet()
    other = candidates(model.module, model.example(), "fp32")[-1]
    with torch.no_grad():
        other.module.fc.weight.mul_(1.01)
    assert not model.trace_with(other)
    assert model.traced is None
