import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.explainers.features.feature_factorisation import FeatureFactorisation
from tests import oracles, tiny
from tests.explainers.conftest import narrow_layer, tiny_input
from tests.oracles import Case

TOLERANCE = 2e-2  # two descents end near one another, not at the same place


def oracle(case: Case) -> Tensor:
    """The strongest part, by scikit-learn from the same start to its end."""
    from sklearn.decomposition import NMF

    a = oracles.layer_output(case.network, case.x, case.layer)[0]
    x = a.double().flatten(1).numpy()
    x = x - np.minimum(x.min(1, keepdims=True), 0)
    parts = min(case.params.get("parts", 5), *x.shape)
    model = NMF(parts, init="nndsvd", solver="cd", tol=1e-9, max_iter=2000)
    with oracles.quiet():
        w = model.fit_transform(x)
    size = np.linalg.norm(w, axis=0)
    best = int((size * np.linalg.norm(model.components_, axis=1)).argmax())
    return torch.from_numpy(size[best] * model.components_[best]).view(a.shape[1:]).float()


@pytest.mark.oracle("feature-factorisation")
def test_its_parts_add_up_as_near_as_scikit_learns(subject, x):
    """Descents of different steps may end at different parts, as such sums have many; none of them is much nearer."""
    from sklearn.decomposition import NMF

    layer = narrow_layer(subject, 64)
    found = subject.explain(FeatureFactorisation(layer=layer), x)
    a = oracles.layer_output(subject.plain, x, layer)[0].double().flatten(1).numpy()
    a = a - np.minimum(a.min(1, keepdims=True), 0)
    model = NMF(len(found.maps), init="nndsvd", solver="cd", tol=1e-9, max_iter=2000)
    with oracles.quiet():
        model.fit(a)
    assert found.details["error"] <= 1.01 * model.reconstruction_err_ / np.linalg.norm(a)
    strengths = [float(m.array.norm()) for m in found.maps]
    assert strengths == sorted(strengths, reverse=True)


def test_parts_add_up_to_the_maps_as_near_as_is_said(small):
    """|W_p| H_p has the size of what part p is at each position."""
    subject, x = small(tiny.classifier), tiny_input()
    few, many = (subject.explain(FeatureFactorisation(layer="relu1", parts=n), x) for n in (2, 8))
    assert [m.name for m in few.maps] == ["part 1", "part 2"]
    assert few.details["error"] > many.details["error"]
    assert few.details["raised_channels"] == 0
    assert subject.explain(FeatureFactorisation(layer="bn1"), x).details["raised_channels"] > 0


def test_what_all_parts_add_makes_up_the_logit(small):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(FeatureFactorisation(parts=12), x)  # as many as channels: nothing is left over
    assert found.details["error"] < 0.05
    assert all(len(one) == 3 for one in found.details["classes"])
    adds = [one["adds"] for part in found.details["classes"] for one in part]
    assert all(np.isfinite(adds))
    every = FeatureFactorisation(parts=2)
    two = subject.explain(every, x).details["classes"]
    assert [one["label"] for one in two[0]] == [subject.facts.label(one["index"]) for one in two[0]]
    assert [one["adds"] for one in two[0]] == sorted((one["adds"] for one in two[0]), reverse=True)
    assert subject.explain(FeatureFactorisation(layer="relu1"), x).details["classes"] is None


@pytest.mark.oracle("feature-factorisation")
def test_on_a_linear_head_a_part_adds_its_pattern_times_its_mean(small):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(FeatureFactorisation(parts=2), x)
    a = oracles.layer_output(subject.plain, x, "relu2")[0].double().flatten(1)
    h = torch.stack([m.array.double().flatten() for m in found.maps])  # |W_p| H_p
    w = torch.linalg.lstsq(h.T, a.T).solution.T  # W_p / |W_p|, free of sign: the best for these maps
    adds = subject.plain.fc.weight.double() @ w * h.mean(1)
    for p, part in enumerate(found.details["classes"]):
        for one in part:
            assert one["adds"] == pytest.approx(float(adds[one["index"], p]), abs=0.05 * float(adds.abs().max()))


def below_zero() -> nn.Module:
    """Features that are not rectified in front of a linear head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), *tail).eval()


def test_what_raised_channels_take_away_again_is_told(small):
    subject, x = small(below_zero), tiny_input()
    found = subject.explain(FeatureFactorisation(layer="1", parts=4), x)
    adds = torch.zeros(3)
    for part in found.details["classes"]:
        for one in part:
            adds[one["index"]] += one["adds"]
    made_up = adds + torch.tensor(found.details["raised_adds"]) + subject.plain[-1].bias
    assert found.details["raised_channels"] == 4
    torch.testing.assert_close(made_up, found.outputs, rtol=0, atol=0.05 * float(found.outputs.abs().max()))
