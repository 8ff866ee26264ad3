import pytest
import torch
from torch import Tensor

from service.explainers.cam.eigen_cam import EigenCAM
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, module_layer, tiny_input
from tests.oracles import Case, Peer


def principal(a: Tensor, *, centre: bool) -> Tensor:
    """Return u_1 s_1 (h, w) of maps (K, h, w) by a full singular value decomposition in double.

    It is turned so that it rises with the positions' energy.
    """
    given = a.double().flatten(1).T
    u, s, _ = torch.linalg.svd(given - given.mean(0) if centre else given, full_matrices=False)
    map_ = u[:, 0] * s[0]
    energy = (given**2).sum(1)
    covariance = ((energy - energy.mean()) * (map_ - map_.mean())).sum()
    return (map_ * covariance.sign()).view(a.shape[1:]).float()


def condition(a: Tensor, *, centre: bool) -> float:
    """Return by how much rounding of maps is magnified: where two components are about as large, they mix."""
    x = a.double().flatten(1).T
    s = torch.linalg.svdvals(x - x.mean(0) if centre else x)
    return float(x.norm() / (s[0] - s[1])) if len(s) > 1 else 1.0


def oracle(case: Case) -> Tensor:
    """The first principal component of a layer's maps, by a full decomposition."""
    a = oracles.layer_output(case.network, case.x, case.layer)[0]
    return principal(a, centre=case.params.get("centre", True))


def tolerance(case: Case) -> float:
    """Return what rounding may do to the map, relative to its largest value."""
    a = oracles.layer_output(case.network, case.x, case.layer)[0]
    return 2e-6 * condition(a, centre=case.params.get("centre", True))


def pytorch_grad_cam(case: Case) -> Tensor:
    """Return its map, turned as ours is: its sign is what the decomposition happens to give."""
    theirs = oracles.pytorch_grad_cam_raw("EigenCAM", case, relu=False).float()
    return theirs * (theirs * oracle(case)).sum().sign()


PEERS = {"pytorch-grad-cam": Peer(pytorch_grad_cam)}


@pytest.mark.oracle("eigen-cam")
def test_equals_the_definition_and_its_peer(subject, x):
    layer = module_layer(subject)
    for params in ({}, {"centre": False}):
        case = Case(subject.plain, x, layer, 281, params)
        found = subject.explain(EigenCAM(layer=layer, **params), x).maps[0]
        assert found.kind == "signed"
        assert found.target is None
        assert_close(found.array, oracle(case), max(1e-5, tolerance(case)))
        if not params:
            assert_close(found.array, pytorch_grad_cam(case), max(1e-5, 10 * tolerance(case)))  # in single precision


def test_it_knows_no_class_and_says_how_much_it_shows(small):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(EigenCAM(), x)
    a = oracles.layer_output(subject.plain, x, "relu2")[0].flatten(1).T.double()
    s = torch.linalg.svdvals(a - a.mean(0))
    assert found.details["energy_share"] == pytest.approx(float(s[0] ** 2 / (s**2).sum()), rel=1e-5)
    assert not EigenCAM.takes_targets
    assert len(found.maps) == 1


def test_tokens_have_a_component_as_maps_have(small):
    subject, x = small(tiny.tokens), tiny_input()
    kept = []
    hook = subject.plain.norm.register_forward_hook(lambda _, __, output: kept.append(output))
    subject.plain(x)
    hook.remove()
    a = kept[0][0].T.view(16, 4, 4)
    assert_close(subject.explain(EigenCAM(), x).maps[0].array, principal(a, centre=True), 1e-4)
