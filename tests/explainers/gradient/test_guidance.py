import torch

from service.contract import Targets
from service.explainers.gradient.guidance import guided
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_guided_backprop import oracle
from tests.oracles import Case


def test_a_guided_gradient_comes_with_its_targets_and_outputs(small):
    subject, x = small(tiny.functional), tiny_input()
    found = guided(subject.probe(), x, Targets(subject.facts))
    best = int(subject.plain(x).argmax())
    assert [t.index for t in found.targets.chosen(torch.zeros(5))] == [best]
    assert_close(found.gradient[0], oracle(Case(subject.plain, x, target=best)))
    explained = found.explained("a-method", subject.facts, found.gradient, "conv1")
    assert (explained.maps[0].name, explained.maps[0].kind, explained.maps[0].layer) == ("a-method", "picture", "conv1")
    assert torch.equal(explained.outputs, found.outputs)
