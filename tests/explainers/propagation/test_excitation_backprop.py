import copy
import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from service.contract import Target
from service.errors import InvalidParameter, NotApplicable
from service.explainers.propagation.excitation_backprop import ExcitationBackprop
from tests import oracles, relevances, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case

TOLERANCE = 1e-3  # shares of nearly nothing, in single precision against double


def oracle(case: Case) -> Tensor:
    """A walk's probabilities by hand, from one operator to the one before; the sum over a layer's channels."""
    rule, at = relevances.z_plus_without_bias, case.layer or None
    return relevances.propagated(case, rule, rule, one=True, positive=True, at=at).sum(0)


def _ending(layer: str) -> ExcitationBackprop:
    return ExcitationBackprop(at="input") if layer == "input" else ExcitationBackprop(layer=layer)


@pytest.mark.oracle("excitation-backprop")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg])
@pytest.mark.parametrize("layer", ["relu2", "conv2", "bn1", "conv1", "input"])
def test_equals_the_walk_by_hand(small, network, layer):
    subject = small(network)
    found = subject.explain(_ending(layer), tiny_input(), [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert m.layer == (None if layer == "input" else layer)
        case = Case(subject.plain, tiny_input(), layer.replace("input", ""), target=target)
        assert_close(m.array, oracle(case))


@pytest.mark.oracle("excitation-backprop")
@pytest.mark.parametrize("layer", ["layer2", "layer1.1.bn2", "layer1.1.conv2"])  # and what goes around a skip
def test_equals_the_walk_by_hand_in_a_network_with_skips(subjects, x, layer):
    subject = subjects("resnet18")
    found = subject.explain(ExcitationBackprop(layer=layer), x, [281]).maps[0].array
    assert_close(found, oracle(Case(subject.plain, x, layer, target=281)), TOLERANCE)


@pytest.mark.oracle("excitation-backprop")
def test_one_hidden_layer_by_loops(small):
    """P(i) = sum_j x_i w_ij+ / sum_k x_k w_kj+ P(j), where x >= 0."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        head = (nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4 * 16, 6), nn.ReLU(), nn.Linear(6, 2))
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *head).eval()

    subject = small(network)
    found = subject.explain(ExcitationBackprop(layer="1"), tiny_input(), [1]).maps[0].array
    with torch.no_grad():
        a = subject.plain[:2](tiny_input())
        x = subject.plain[2:4](a)[0]
        h = subject.plain[4:6](x[None])[0]
    to_class, to_hidden = subject.plain[6].weight[1].clamp(min=0), subject.plain[4].weight.clamp(min=0)
    p_hidden = h * to_class / float((h * to_class).sum())
    p = sum(p_hidden[j] * x * to_hidden[j] / float((x * to_hidden[j]).sum()) for j in range(6))
    cells = a[0] / a[0].reshape(4, 4, 8, 4, 8).sum((2, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    expected = p.view(4, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2) * cells
    assert_close(found, expected.nan_to_num().sum(0))


@pytest.mark.parametrize("layer", ["relu2", "relu1", "input"])
def test_probabilities_add_up_to_one(small, layer):
    found = small(tiny.vgg).explain(_ending(layer), tiny_input(), [0, 1, 2])
    assert found.details["sum"] == pytest.approx([1, 1, 1], abs=1e-4)
    for m in found.maps:
        assert float(m.array.sum()) == pytest.approx(1, abs=1e-4)


def test_one_end_is_chosen():
    with pytest.raises(ValidationError, match="leave `layer` out"):
        ExcitationBackprop(at="input", layer="relu1")


def test_without_rectifiers_it_does_not_apply(small):
    with pytest.raises(NotApplicable, match=r"has no ReLU.*gelu.*use 'lrp'"):
        ExcitationBackprop.require(small(tiny.tokens).facts)


@pytest.mark.oracle("excitation-backprop")
def test_equals_zennits_z_plus_without_biases(small):
    """Zennit, where it is installed: its composite of that name keeps biases, which the paper leaves out."""
    rules = pytest.importorskip("zennit.rules", reason="zennit is not installed", exc_type=ImportError)
    composites = pytest.importorskip("zennit.composites", reason="zennit is not installed", exc_type=ImportError)
    subject, x = small(tiny.vgg), tiny_input().double()
    network = copy.deepcopy(oracles.plain_copy(subject.plain)).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # merged by hand: nothing is added by what has no bias
            convolution, scale = network.conv1, module.weight / torch.sqrt(module.running_var + module.eps)
            convolution.weight.mul_(scale.view(-1, 1, 1, 1))
            convolution.bias.copy_(module.bias + (convolution.bias - module.running_mean) * scale)
            network.bn1 = nn.Identity()
    plus = rules.ZPlus(zero_params="bias")
    layers = [*composites.layer_map_base(), (nn.Conv2d, plus), (nn.Linear, rules.ZPlus(zero_params="bias"))]
    with composites.LayerMapComposite(layers).context(network) as registered:
        leaf = x.clone().requires_grad_()
        outputs = registered(leaf)
        (expected,) = torch.autograd.grad(outputs, leaf, torch.eye(5).double()[[2]])
    found = subject.explain(ExcitationBackprop(at="input"), tiny_input(), [2]).maps[0].array
    assert_close(found, expected[0].sum(0).float(), 1e-4)


@pytest.mark.parametrize("at", ["relu1", "input"])
def test_a_contrast_is_the_difference_of_walks(small, at):
    """Also where the class is less probable than those that it is held against, or its logit has another sign."""
    subject, x = small(tiny.vgg), tiny_input()
    contrasts = [Target(a, ((a, 1.0), (b, -0.5), (c, -0.5))) for a, b, c in itertools.permutations(range(4), 3)]
    found = subject.explain_plainly(_ending(at), x, [*range(4), *contrasts]).maps
    for m in found[4:]:
        walks = sum(weight * found[column].array for column, weight in m.target.terms)
        assert_close(m.array, walks.relu(), 1e-4)


def test_nothing_walks_from_what_lowers_a_value(small):
    subject = small(tiny.regression, task="regression")
    with pytest.raises(InvalidParameter, match=r"nothing walks from what lowers it; .* use 'lrp'") as caught:
        subject.explain_plainly(ExcitationBackprop(), tiny_input(), [0, Target(0, ((0, -1.0),))])
    assert caught.value.errors[0].pointer == "/targets/1"
