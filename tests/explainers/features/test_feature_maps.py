import pytest
import torch
from torch import Tensor

from service.errors import InvalidParameter
from service.explainers.features.feature_maps import FeatureMaps
from tests import oracles, tiny
from tests.explainers.conftest import SIZE, module_layer, narrow_layer, tiny_input
from tests.oracles import Case


def oracle(case: Case) -> Tensor:
    """The module's own output: the channels asked for, or those with the largest mean square."""
    a = oracles.layer_output(case.network, case.x, case.layer)[0]
    strongest = a.square().mean((1, 2)).argsort(descending=True, stable=True)[: case.params.get("top_k", 16)]
    return a[list(case.params.get("channels") or strongest.tolist())]


@pytest.mark.oracle("feature-maps")
def test_equals_the_modules_output(subject, x):
    paths = (narrow_layer(subject, 96), module_layer(subject))
    found = subject.explain(FeatureMaps(layers=paths, top_k=7), x)
    for m, path, details in zip(found.maps, paths, found.details["layers"], strict=True):
        a = oracles.layer_output(subject.plain, x, path)[0]
        assert oracles.relative_error(m.array, a[list(m.channels)]) <= 1e-5
        assert oracles.relative_error(m.array, oracle(Case(subject.plain, x, path, params={"top_k": 7}))) <= 1e-5
        assert details["zeros"] == pytest.approx(float((a == 0).float().mean()), abs=1e-4)


@pytest.mark.oracle("feature-maps")
def test_a_later_in_place_relu_does_not_overwrite_what_is_shown(small):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(FeatureMaps(layers=("conv2", "relu2"), channels=tuple(range(12))), x)
    before, after = (m.array for m in found.maps)
    assert float(before.min()) < 0
    assert torch.equal(before.relu(), after)


@pytest.mark.oracle("feature-maps")
@pytest.mark.parametrize(("layer", "function"), [("bn1", torch.relu), ("relu1", lambda a: a), ("conv1", lambda a: a)])
def test_after_applies_the_activation_that_follows_the_layer(small, layer, function):
    subject, x = small(tiny.classifier), tiny_input()
    before, after = (
        subject.explain(FeatureMaps(layers=(layer,), channels=tuple(range(8)), activation=when), x).maps[0].array
        for when in ("before", "after")
    )
    assert oracles.relative_error(after, function(before)) <= 1e-5


def test_a_module_called_twice_is_addressed_by_call(small):
    subject, x = small(tiny.functional), tiny_input()
    first, second = subject.explain(FeatureMaps(layers=("conv2#1", "conv2#2"), channels=(0, 1)), x).maps
    assert not torch.equal(first.array, second.array)
    with pytest.raises(InvalidParameter, match="did you mean 'conv2#"):
        subject.explain(FeatureMaps(layers=("conv2",)), x)


def test_lower_layers_keep_pixels_and_higher_ones_are_sparse(subjects, x):
    found = subjects("efficientnet_lite0").explain(FeatureMaps(layers=("stem", "head")), x)
    stem, head = found.details["layers"]
    assert stem["shape"][1:] == [SIZE // 2, SIZE // 2]
    assert head["zeros"] > 0.5


def test_unknown_channel_names_the_range(small):
    with pytest.raises(InvalidParameter, match="channels 0 to 11"):
        small(tiny.classifier).explain(FeatureMaps(channels=(12,)), tiny_input())
