"""What holds for every method that hands relevance down to the pixels."""

import pytest

from service.contract import Target, Targets
from service.explainers.base import registry
from service.explainers.propagation.relevance import RelevanceExplainer
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input

METHODS = [name for name, cls in registry().items() if issubclass(cls, RelevanceExplainer)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional, tiny.tokens])
def test_details_account_for_the_logit(small, name, network):
    subject = small(network)
    found = subject.explain(registry()[name](), tiny_input(), [1, 4])
    y = subject.plain(tiny_input())[0, [1, 4]]
    details = found.details
    assert details["explained"] == pytest.approx(y.tolist(), abs=1e-5)
    for i, m in enumerate(found.maps):
        assert m.kind == "signed"
        assert details["relevance"][i] == pytest.approx(float(m.array.sum()), abs=1e-6)
        assert details["lost"][i] == pytest.approx(details["explained"][i] - details["relevance"][i], abs=1e-6)
    assert found.outputs.tolist() == pytest.approx(subject.plain(tiny_input())[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_one_class_against_another_is_the_difference_of_both(small, name):
    subject = small(tiny.vgg)
    explainer, facts = registry()[name](), subject.facts
    against = Target(1, ((1, 1.0), (3, -1.0)))
    found = explainer.explain(subject.probe(), tiny_input(), Targets(facts, [against]))
    one, other = subject.explain(explainer, tiny_input(), [1, 3]).maps
    assert_close(found.maps[0].array, one.array - other.array, 1e-4)
    y = subject.plain(tiny_input())[0]
    assert found.details["explained"] == pytest.approx([float(y[1] - y[3])], abs=1e-5)


def test_there_are_several():
    assert {"lrp", "attn-lrp"} <= {*METHODS}
