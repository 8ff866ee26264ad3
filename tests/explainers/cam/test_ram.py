import pytest
from torch import Tensor

from service.contract import Targets
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.errors import NotApplicable
from service.explainers.cam.ram import RAM
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case


def oracle(case: Case) -> Tensor:
    """RAM = sum_k w_k A_k, as CAM, of a regression's output."""
    return oracles.weighted_maps(case)[0]


@pytest.mark.oracle("ram")
def test_equals_the_definition(small):
    subject = small(tiny.regression, task="regression")
    x = tiny_input()
    found = subject.explain(RAM(), x)
    expected, value = oracles.weighted_maps(Case(subject.plain, x, "relu2"))
    assert_close(found.maps[0].array, expected)
    assert float(value) == pytest.approx(float(found.outputs[0]), rel=1e-5)


@pytest.mark.oracle("ram")
def test_embedded_model_is_complete_and_signed(embedded):
    model = embedded.store.get("lesion-count")
    x = oracles.photograph("chelsea", model.facts.input_size[0])
    found = RAM().explain(ModelProbe(model, embedded.device, Run()), x, Targets(model.facts))
    ram = found.maps[0].array
    assert float(ram.mean()) + found.details["bias"][0] == pytest.approx(float(found.outputs[0]), abs=1e-5)
    assert found.details["completeness_residual"] <= 1e-5
    assert found.maps[0].kind == "signed"


@pytest.mark.oracle("ram")
def test_keeps_negative_evidence(small):
    subject = small(tiny.regression, task="regression")
    # Whatever raises the value of a network lowers that of the same network with the opposite head.
    opposite = small(tiny.regression, task="regression")
    opposite.model.module.fc.weight.neg_()
    x = tiny_input()
    ram, negated = (s.explain(RAM(), x).maps[0].array for s in (subject, opposite))
    assert_close(negated, -ram)


def test_refuses_a_classifier(small):
    with pytest.raises(NotApplicable, match="use 'cam'"):
        small(tiny.classifier).explain(RAM(), tiny_input())
