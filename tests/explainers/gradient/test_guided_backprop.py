import pytest
import torch
from torch import Tensor

from service.errors import NotApplicable
from service.explainers.gradient.guided_backprop import GuidedBackprop
from tests import oracles, tiny
from tests.explainers.conftest import NAMES, assert_close, tiny_input
from tests.explainers.propagation.test_deconvnet import TOLERANCE, WITHOUT_RECTIFIERS
from tests.oracles import Case, Peer
from tests.rectifiers import Rectifier, with_module_relus


class Guided(torch.autograd.Function):
    """A rectifier whose signal passes back where it is positive and the rectifier was open."""

    @staticmethod
    def forward(ctx, x, ceiling):
        ctx.save_for_backward((x > 0) if ceiling is None else (x > 0) & (x < ceiling))
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx, signal):
        (open_,) = ctx.saved_tensors
        return torch.where(open_ & (signal > 0), signal, torch.zeros_like(signal)), None


def oracle(case: Case) -> Tensor:
    """The gradient of the logit in a network whose rectifiers are replaced by guided ones, (3, H, W)."""
    network = with_module_relus(case.network)
    for module in network.modules():
        if isinstance(module, Rectifier):
            module.forward = lambda x, ceiling=module.ceiling: Guided.apply(x, ceiling)
    with torch.enable_grad():
        leaf = case.x.clone().requires_grad_()
        return torch.autograd.grad(network(leaf)[0, case.target], leaf)[0][0]


def captum(case: Case) -> Tensor:
    """Captum's `GuidedBackprop`, once every rectifier is a module of its own; functions and ReLU6 it does not see."""
    with oracles.quiet(), torch.enable_grad():
        from captum.attr import GuidedBackprop as Theirs

        return Theirs(with_module_relus(case.network)).attribute(case.x.clone(), target=case.target)[0].detach()


PEERS = {"captum": Peer(captum)}


@pytest.mark.oracle("guided-backprop")
@pytest.mark.parametrize("name", sorted({*NAMES} - {*WITHOUT_RECTIFIERS}))
def test_equals_the_rule_by_hand_and_captum_once_every_rectifier_is_a_module(subjects, x, name):
    subject = subjects(name)
    found = subject.explain(GuidedBackprop(), x, [281, 7])
    for m, target in zip(found.maps, (281, 7), strict=True):
        case = Case(subject.plain, x, target=target)
        assert_close(m.array, oracle(case), TOLERANCE)
        assert_close(m.array, captum(case), TOLERANCE)


@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet"])
def test_captum_alone_misses_what_is_no_module_of_its_kind(subjects, x, name):
    """ReLU6 and functions: there it answers with the plain gradient, or in part, and does not say so."""
    subject = subjects(name)
    found = subject.explain(GuidedBackprop(), x, [281]).maps[0].array
    with oracles.quiet(), torch.enable_grad():
        from captum.attr import GuidedBackprop as Theirs

        theirs = Theirs(oracles.plain_copy(subject.plain)).attribute(x.clone(), target=281)[0].detach()
    assert oracles.relative_error(theirs, found) > 0.1


@pytest.mark.parametrize("name", WITHOUT_RECTIFIERS)
def test_refuses_a_network_without_rectifiers(subjects, name):
    with pytest.raises(NotApplicable, match=r"has no ReLU .*use 'saliency' or 'integrated-gradients'"):
        GuidedBackprop.require(subjects(name).facts)


def test_smooth_activations_are_named(small):
    details = small(tiny.classifier).explain(GuidedBackprop(), tiny_input(), [1]).details
    assert details == {"score": "logit", "rectifiers": 2, "other_activations": []}
