import copy

import pytest
import torch
from torch import Tensor, nn

from service.contract import INPUT, Rows, Tracing
from service.errors import NotApplicable
from service.explainers.propagation.lrp import LRP
from tests import oracles, relevances, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case

TOLERANCE = 1e-4  # shares of nearly nothing, in single precision against double
RULES = (
    "epsilon",
    "z-plus",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-gamma-box",
    "epsilon-alpha2-beta1",
    "epsilon-alpha2-beta1-flat",
)


def tolerance(case: Case) -> float:
    """Return what to allow for single precision."""
    return relevances.tolerance(case, TOLERANCE)


def oracle(case: Case) -> Tensor:
    """Relevance propagated by hand, from one operator to the one before; the sum over the colours."""
    shares = {
        "epsilon": relevances.epsilon,
        "plus": relevances.z_plus,
        "gamma": relevances.gamma,
        "alpha2-beta1": relevances.alpha2_beta1,
    }
    rules = case.params.get("rules", "epsilon-plus")
    linear, _, rest = {"z-plus": "plus-plus"}.get(rules, rules).partition("-")
    first = {
        "flat": relevances.flat,
        "box": relevances.box(case.colour(0).double(), case.colour(1).double()),
    }.get(rest.rpartition("-")[2])
    convolution = (rest.rpartition("-")[0] if first else rest) or linear
    return relevances.propagated(case, shares[linear], shares[convolution], first).sum(0)


def picture() -> Tensor:
    """Return seeded noise whose values are pixels, (1, 3, 32, 32)."""
    return (tiny_input().sigmoid() - 0.45) / 0.225


def bias_free() -> nn.Module:
    """Convolutions, max pools and linear layers without any bias."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        features = [nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=False)]
        return nn.Sequential(*features, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(288, 5, bias=False)).eval()

    return build()


@pytest.mark.oracle("lrp")
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg])
def test_equals_relevance_by_hand(small, network, rules):
    subject = small(network)
    found = subject.explain(LRP(rules=rules), picture(), [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, picture(), target=target, params={"rules": rules})), 1e-5)


@pytest.mark.oracle("lrp")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("rules", ["epsilon-plus", "epsilon-gamma-box"])
def test_equals_relevance_by_hand_in_networks_with_skips(subjects, x, name, rules):
    subject = subjects(name)
    found = subject.explain(LRP(rules=rules), x, [281]).maps[0].array
    assert_close(found, oracle(Case(subject.plain, x, target=281, params={"rules": rules})), TOLERANCE)


@pytest.mark.oracle("lrp")
def test_epsilon_without_biases_is_gradient_times_input(small):
    subject = small(bias_free)
    found = subject.explain(LRP(rules="epsilon", epsilon=1e-9), picture(), [2])
    leaf = picture().requires_grad_()
    (gradient,) = torch.autograd.grad(subject.plain(leaf)[0, 2], leaf)
    assert_close(found.maps[0].array, (gradient * leaf.detach())[0].sum(0))


@pytest.mark.oracle("lrp")
@pytest.mark.parametrize("rules", RULES)
def test_nothing_is_lost_without_biases(small, rules):
    found = small(bias_free).explain(LRP(rules=rules, epsilon=1e-9), picture(), [0, 4])
    y = found.outputs[[0, 4]]
    assert_close(torch.tensor(found.details["explained"]), y)
    assert_close(torch.stack([m.array.sum() for m in found.maps]), y, 1e-4)
    assert max(map(abs, found.details["lost"])) < 1e-4 * float(y.abs().max())


def test_what_is_lost_is_said(small):
    subject = small(tiny.classifier)
    found = subject.explain(LRP(), picture(), [1])
    assert found.details["explained"][0] == pytest.approx(float(subject.plain(picture())[0, 1]), abs=1e-6)
    assert found.details["relevance"][0] == pytest.approx(float(found.maps[0].array.sum()), abs=1e-6)
    assert found.details["lost"][0] == pytest.approx(found.details["explained"][0] - found.details["relevance"][0])
    assert abs(found.details["lost"][0]) > 1e-3  # its biases take something


@pytest.mark.oracle("lrp")
def test_a_linear_models_relevance_is_weight_times_input(small):
    def linear() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).eval()

    subject = small(linear)
    found = subject.explain(LRP(rules="epsilon"), picture(), [1]).maps[0].array
    assert_close(found, (subject.plain[1].weight[1].view(3, 32, 32) * picture()[0]).sum(0))


@pytest.mark.oracle("lrp")
def test_black_pixels_of_a_model_without_mean_get_their_share(small):
    """Where the input is zero its share is not what a multiple of it would be."""
    subject = small(tiny.vgg)
    x = picture()
    x[..., 8:16] = 0
    case = Case(subject.plain, x, target=2, params={"rules": "epsilon-plus-flat"})
    found = subject.explain(LRP(rules="epsilon-plus-flat"), x, [2]).maps[0].array
    assert float(found[:, 8:16].abs().max()) > 0
    assert_close(found, oracle(case))


class Prepared(nn.Module):
    """A network that changes the picture before its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny.vgg()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(2 * x + 0.1)


@pytest.mark.parametrize("rules", RULES)
def test_rules_for_pixels_need_a_layer_that_sees_them(small, rules):
    subject = small(Prepared)
    if rules.endswith(("box", "flat")):
        with pytest.raises(NotApplicable, match=r"given the picture as it is.*use rules without 'box'"):
            subject.explain(LRP(rules=rules), picture(), [1])
    else:
        assert subject.explain(LRP(rules=rules), picture(), [1]).maps


def test_its_forward_is_the_networks_own(small):
    subject = small(tiny.functional)
    plain = subject.explain(LRP(), picture(), [1]).outputs
    own = subject.probe().trace(Rows.of(picture()), Tracing(wrt=(INPUT,)), lambda seen: seen.outputs[:, :1]).outputs
    assert_close(plain, own[0])


@pytest.mark.oracle("lrp")
@pytest.mark.parametrize("rules", [rules for rules in RULES if rules.startswith("epsilon-")])
def test_equals_zennit(small, rules):
    """Zennit, where it is installed, with its canonizer of batch norms."""
    composites = pytest.importorskip("zennit.composites", reason="zennit is not installed", exc_type=ImportError)
    canonizers = pytest.importorskip("zennit.canonizers", reason="zennit is not installed", exc_type=ImportError)
    name = "".join(word.capitalize() for word in rules.split("-"))
    subject, x = small(tiny.classifier), picture().double()
    case = Case(subject.plain, x)
    bounds = {"low": case.colour(0).double(), "high": case.colour(1).double()} if rules.endswith("box") else {}
    composite = getattr(composites, name)(canonizers=[canonizers.SequentialMergeBatchNorm()], **bounds)
    with composite.context(copy.deepcopy(oracles.plain_copy(subject.plain)).double()) as network:
        leaf = x.clone().requires_grad_()
        outputs = network(leaf)
        start = torch.zeros_like(outputs)
        start[0, 1] = outputs[0, 1].detach()
        (expected,) = torch.autograd.grad(outputs, leaf, start)
    found = subject.explain(LRP(rules=rules), picture(), [1]).maps[0].array
    assert_close(found, expected[0].sum(0).float(), 1e-4)  # its merged batch norms divide by sqrt(1 + eps) once more
