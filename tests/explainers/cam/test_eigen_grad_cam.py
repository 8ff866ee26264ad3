import pytest
from torch import Tensor

from service.explainers.cam.eigen_grad_cam import EigenGradCAM
from tests import oracles, tiny
from tests.explainers.cam.test_eigen_cam import condition, principal
from tests.explainers.conftest import assert_close, module_layer, tiny_input
from tests.oracles import Case, Peer


def oracle(case: Case) -> Tensor:
    """The first principal component of gradient times activation, by a full decomposition."""
    a, g = oracles.maps_and_gradients(case.network, case.x, case.layer, case.target)
    return principal(g * a, centre=case.params.get("centre", True))


def tolerance(case: Case) -> float:
    """Return what rounding may do to the map, relative to its largest value."""
    a, g = oracles.maps_and_gradients(case.network, case.x, case.layer, case.target)
    return 5e-6 * condition(g * a, centre=case.params.get("centre", True))


def pytorch_grad_cam(case: Case) -> Tensor:
    """Return its map, turned as ours is: its sign is what the decomposition happens to give."""
    theirs = oracles.pytorch_grad_cam_raw("EigenGradCAM", case, relu=False).float()
    return theirs * (theirs * oracle(case)).sum().sign()


PEERS = {"pytorch-grad-cam": Peer(pytorch_grad_cam)}


@pytest.mark.oracle("eigen-grad-cam")
def test_equals_the_definition_and_its_peer(subject, x):
    layer = module_layer(subject)
    for params in ({}, {"centre": False}):
        found = subject.explain(EigenGradCAM(layer=layer, **params), x, [281, 7])
        for m, target in zip(found.maps, (281, 7), strict=True):
            case = Case(subject.plain, x, layer, target, params)
            assert_close(m.array, oracle(case), max(1e-5, tolerance(case)))
            if not params:
                assert_close(m.array, pytorch_grad_cam(case), max(1e-5, 10 * tolerance(case)))  # in single precision


def test_each_class_has_a_component_of_its_own(small):
    found = small(tiny.classifier).explain(EigenGradCAM(), tiny_input(), [0, 3])
    one, other = (m.array for m in found.maps)
    assert oracles.relative_error(one, other) > 0.05
    assert all(0 < share <= 1 for share in found.details["energy_share"])
    assert len(found.details["energy_share"]) == 2
