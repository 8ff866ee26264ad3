import copy

import pytest
import torch

from service.contract import INPUT, Rule, Tracing
from service.errors import InvalidParameter, NotApplicable
from service.explainers.propagation.deconvnet import DeconvNet
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, narrow_layer, tiny_input


@pytest.mark.oracle("deconvnet")
@pytest.mark.parametrize(("layer", "index"), [("features.1", 1), ("features.9", 9), ("features.19", 19)])
@pytest.mark.parametrize("keep", ["maximum", "channel"])
def test_equals_an_explicit_deconvolution_network(subjects, x, layer, index, keep):
    subject = subjects("vgg11")
    found = subject.explain(DeconvNet(layer=layer, channels=(3, 11), keep=keep), x)
    for m in found.maps:
        position = "all" if keep == "channel" else None
        expected = oracles.explicit_deconvnet(subject.plain.features, x, index, m.channel, position)
        assert_close(m.array, expected)


@pytest.mark.oracle("deconvnet")
def test_equals_captum_once_every_rectifier_is_a_module(subject, x):
    if subject.facts.rectifiers == 0:
        with pytest.raises(NotApplicable, match="use 'saliency'"):
            DeconvNet.require(subject.facts)
        return
    if subject.name == "efficientnet_lite0":
        return  # its convolutions cannot be traced symbolically; the next test covers it
    modules = oracles.with_module_relus(subject.plain)
    layer = narrow_layer(subject, 96)
    found = subject.explain(DeconvNet(layer=layer, channels=(1,)), x)
    a = oracles.layer_output(subject.plain, x, layer)
    seed = oracles.deconv_seed(a, 1)
    assert_close(found.maps[0].array, oracles.manual_backward_rule(subject.plain, x, layer, seed, "deconvnet"), 2e-5)
    try:
        theirs = oracles.captum_deconvolution(modules, x, layer, 1)
    except AttributeError:  # the traced copy has no module of that path
        return
    assert_close(found.maps[0].array, theirs, 2e-5)


@pytest.mark.oracle("deconvnet")
@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2", "densenet121", "resnet18"])
def test_rules_reach_functional_and_capped_rectifiers(subjects, x, name, rule):
    subject = subjects(name)
    layer = subject.facts.default_layer.removesuffix("+relu")
    a = oracles.layer_output(subject.plain, x, layer)
    seed = oracles.deconv_seed(a, 5)

    def signal(seen):
        return (seen.activations[layer] * seed).sum((1, 2, 3))[:, None]

    traced = subject.device.call(lambda: subject.model.trace(x, Tracing((layer,), (INPUT,), Rule(rule)), signal))
    expected = oracles.manual_backward_rule(subject.plain, x, layer, seed, rule)
    assert_close(traced.gradients[INPUT][0, 0], expected, 2e-5)


@pytest.mark.oracle("deconvnet")
def test_embedded_network_equals_hand_written_rule(subjects, x):
    """The embedded network's ReLU6 modules, each with a hand-written backward on a plain copy."""
    subject = subjects("efficientnet_lite0")
    plain = copy.deepcopy(subject.plain)
    for module in plain.modules():
        if isinstance(module, torch.nn.ReLU6):
            module.register_full_backward_hook(lambda _, gradient_in, gradient_out: (gradient_out[0].clamp(min=0),))
    kept = {}
    plain.blocks[2].register_forward_hook(lambda _, inputs, output: kept.update(a=output))
    leaf = x.clone().requires_grad_()
    plain(leaf)
    a = kept["a"]
    found = subject.explain(DeconvNet(layer="blocks.2", channels=(4, 9)), x)
    for m in found.maps:
        seed = oracles.deconv_seed(a.detach(), m.channel)
        (expected,) = torch.autograd.grad((a * seed).sum(), leaf, retain_graph=True)
        assert_close(m.array, expected[0])


def test_strongest_channels_and_their_positions(small):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(DeconvNet(top_k=3), x)
    a = oracles.layer_output(subject.plain, x, "relu2")[0]
    peak = a.flatten(1).amax(1)
    assert [m.channel for m in found.maps] == peak.argsort(descending=True)[:3].tolist()
    for entry in found.details["activations"]:
        y, x_ = entry["position"]
        assert entry["value"] == float(a[entry["channel"]].max()) == float(a[entry["channel"], y, x_])


def test_patch_is_the_receptive_field(small):
    """conv 3x3, pool 2x2, conv 3x3: an activation sees 2 * 3 + 2 = 8 pixels, from 2 * y - 3 on."""
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(DeconvNet(channels=(2,), position=(7, 5)), x)
    x0, y0, x1, y1 = found.maps[0].patch
    # A max pool passes the signal to the winner of its window only, so that a pixel at an edge may be missing.
    assert 2 * 5 - 3 <= x0 <= 2 * 5 - 2
    assert 2 * 7 - 3 <= y0 <= 2 * 7 - 2
    assert 2 * 5 + 4 <= x1 <= 2 * 5 + 5
    assert 2 * 7 + 4 <= y1 <= 2 * 7 + 5
    outside = found.maps[0].array.clone()
    outside[:, y0:y1, x0:x1] = 0
    assert outside.eq(0).all()


def test_position_outside_the_layer_is_refused(small):
    with pytest.raises(InvalidParameter, match="16 x 16"):
        small(tiny.classifier).explain(DeconvNet(position=(16, 0)), tiny_input())
