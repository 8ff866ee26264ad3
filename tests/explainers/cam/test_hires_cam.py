import pytest
import torch
from torch import Tensor

from service.explainers.cam.grad_cam import GradCAM
from service.explainers.cam.hires_cam import HiResCAM
from tests import oracles, tiny
from tests.explainers.cam.test_cam import HEADS
from tests.explainers.conftest import assert_close, module_layer, tiny_input
from tests.oracles import Case, Peer


def oracle(case: Case) -> Tensor:
    """sum_k dy/dA_k A_k, channel by channel in double."""
    a, g = (of.double() for of in oracles.maps_and_gradients(case.network, case.x, case.layer, case.target))
    total = torch.zeros_like(a[0])
    for plane, slope in zip(a, g, strict=True):
        part = slope * plane
        total += part.clamp_min(0) if case.params.get("each") else part
    return (total.clamp_min(0) if case.params.get("relu") else total).float()


def peer(name: str):
    return lambda case: oracles.pytorch_grad_cam_raw(name, case, relu=False)


PEERS = {
    "pytorch-grad-cam": Peer(peer("HiResCAM")),
    "pytorch-grad-cam, element by element": Peer(peer("GradCAMElementWise"), {"each": True}),
}


@pytest.mark.oracle("hires-cam")
def test_equals_the_definition_and_its_peers(subject, x):
    layer = module_layer(subject)
    for params in ({}, {"each": True}, {"relu": True}):
        found = subject.explain(HiResCAM(layer=layer, **params), x, [281]).maps[0].array
        case = Case(subject.plain, x, layer, 281, params)
        assert_close(found, oracle(case))
        for one in PEERS.values():
            if one.params == params:
                assert_close(found, one.call(case))


@pytest.mark.oracle("hires-cam")
@pytest.mark.parametrize("name", HEADS)
def test_on_a_linear_head_it_adds_up_to_the_logit_less_the_bias(subjects, x, name):
    subject = subjects(name)
    found = subject.explain(HiResCAM(), x, [281, 7])
    head = subject.facts.head
    for i, target in enumerate((281, 7)):
        expected = found.outputs[target] - head.bias[target]
        assert float(found.maps[i].array.sum()) == pytest.approx(float(expected), abs=1e-4)
        assert found.details["contribution"][i] == pytest.approx(float(expected), abs=1e-4)
        assert found.details["unexplained"][i] == pytest.approx(float(head.bias[target]), abs=1e-4)


def test_behind_one_linear_layer_over_all_positions_it_still_adds_up_where_grad_cam_does_not(small):
    subject, x = small(tiny.vgg), tiny_input()
    found = subject.explain(HiResCAM(layer="pool2"), x, [2])
    logit = float(found.outputs[2] - subject.plain.fc.bias[2])
    assert float(found.maps[0].array.sum()) == pytest.approx(logit, abs=1e-5)
    other = subject.explain(GradCAM(layer="pool2", relu=False), x, [2]).maps[0].array
    assert abs(float(other.sum()) - logit) > 0.1 * abs(logit)


@pytest.mark.parametrize(
    ("params", "kind"), [({}, "signed"), ({"relu": True}, "positive"), ({"each": True}, "positive")]
)
def test_only_what_drops_nothing_is_signed(small, params, kind):
    m = small(tiny.classifier).explain(HiResCAM(layer="bn1", **params), tiny_input(), [0]).maps[0]
    assert m.kind == kind
    assert (float(m.array.min()) < 0) == (kind == "signed")


@pytest.mark.parametrize("params", [{}, {"each": True}])
def test_tokens_are_explained_as_maps_are(small, params):
    subject, x = small(tiny.tokens), tiny_input()
    found = subject.explain(HiResCAM(**params), x, [3]).maps[0].array
    kept = []
    hook = subject.plain.norm.register_forward_hook(lambda _, __, output: kept.append(output))
    y = subject.plain(x.clone().requires_grad_())[0, 3]
    hook.remove()
    (g,) = torch.autograd.grad(y, kept[0])
    parts = (g * kept[0])[0].detach()  # (16, C)
    assert_close(found, (parts.relu() if params else parts).sum(1).view(4, 4))
