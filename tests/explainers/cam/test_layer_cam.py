import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.errors import InvalidParameter
from service.explainers.cam.layer_cam import LayerCAM, fused
from tests import oracles, tiny
from tests.explainers.cam.test_cam import HEADS
from tests.explainers.conftest import assert_close, module_layer, tiny_input
from tests.oracles import Case, Peer


def of_layer(case: Case) -> Tensor:
    """ReLU(sum_k ReLU(g) A_k) of one layer, one channel after the other."""
    a, g = oracles.maps_and_gradients(case.network, case.x, case.layer, case.target)
    return oracles.weighted_sum(g.clamp_min(0), a).clamp_min(0)


def oracle(case: Case) -> Tensor:
    """The map of one layer; of several, the maximum of their maps, each enlarged and scaled by its own maximum."""
    layers = case.params.get("layers") or (case.layer,)
    maps = [of_layer(Case(case.network, case.x, layer, case.target)) for layer in layers]
    if len(maps) == 1:
        return maps[0]
    size = tuple(max(sides) for sides in zip(*(m.shape for m in maps), strict=True))
    larger = [oracles.enlarge(m, size) for m in maps]
    scaled = [m if m.max() == 0 else torch.tanh(2 * m / m.max()) for m in larger]
    best = scaled[0]
    for m in scaled[1:]:
        best = torch.where(m > best, m, best)
    return best


PEERS = {
    "pytorch-grad-cam": Peer(lambda case: oracles.pytorch_grad_cam_raw("LayerCAM", case)),
    "torch-cam": Peer(lambda case: oracles.torchcam_raw("LayerCAM", case)),
}


@pytest.mark.oracle("layer-cam")
def test_equals_the_definition_and_both_peers(subject, x):
    layer = module_layer(subject)
    found = subject.explain(LayerCAM(layers=(layer,)), x, [281])
    case = Case(subject.plain, x, layer, 281)
    for expected in (oracle(case), *(peer.call(case) for peer in PEERS.values())):
        assert_close(found.maps[0].array, expected)
    assert (found.maps[0].layer, found.details["fusion"]) == (layer, None)


@pytest.mark.oracle("layer-cam")
@pytest.mark.parametrize(
    "layers", [("layer2", "layer4"), ("conv1", "layer3.0.conv2", "layer4"), ("layer3.1", "layer3.0")]
)
def test_several_layers_are_fused_as_defined(subjects, x, layers):
    subject, run = subjects("resnet18"), Run()
    found = LayerCAM(layers=layers).explain(subject.probe(run), x, Targets(subject.facts, [281, 3]))
    assert (run.usage.forwards, run.usage.backwards) == (1, 2)
    for m, target in zip(found.maps, (281, 3), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, x, target=target, params={"layers": layers})))
        assert m.layer is None
        assert float(m.array.max()) == pytest.approx(float(torch.tensor(2.0).tanh()))
    assert [entry["layer"] for entry in found.details["layers"]] == list(layers)
    assert "all layers" in found.details["fusion"]


@pytest.mark.oracle("layer-cam")
@pytest.mark.parametrize("name", HEADS)
def test_on_a_linear_head_it_is_the_features_with_positive_weights(subjects, x, name):
    subject = subjects(name)
    found = subject.explain(LayerCAM(), x, [281]).maps[0].array
    a = oracles.layer_output(subject.plain, x, subject.facts.head.layer)[0]
    w = subject.facts.head.weight[281].relu()
    assert_close(found * found.numel(), (w[:, None, None] * a).sum(0).relu())


def test_a_layer_that_says_nothing_leaves_the_others_as_they_are():
    one = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(2, 3, 5)
    together = fused([one, nothing])
    assert together.shape == (2, 4, 5)
    for m, alone in zip(together, one, strict=True):
        larger = oracles.enlarge(alone, (4, 5))
        assert_close(m, torch.tanh(2 * larger / larger.max()))
    assert fused([nothing, nothing]).eq(0).all()


def test_a_layer_given_twice_is_refused_by_name():
    with pytest.raises(ValidationError, match="'conv1' is named twice"):
        LayerCAM(layers=("conv1", "relu2", "conv1"))


def test_a_wrong_layer_is_named_by_its_place(small):
    with pytest.raises(InvalidParameter, match="did you mean 'conv2'") as met:
        small(tiny.classifier).explain(LayerCAM(layers=("conv1", "conv3")), tiny_input())
    assert "/params/layers/1" in str(vars(met.value))


def test_torchcams_fusion_depends_on_the_units_of_the_logit(subjects, x):
    """tanh(2 M) of maps that it has not scaled itself: here all of it is 1, and with another unit it is not."""
    from torchcam.methods import LayerCAM as Theirs

    subject, layers = subjects("resnet18"), ("layer2", "layer4")
    maps = [of_layer(Case(subject.plain, x, layer, 281)) for layer in layers]
    theirs, thousandths = (Theirs.fuse_cams([unit * m[None] for m in maps])[0] for unit in (1, 1e-3))
    assert float(theirs.min()) > 0.999
    assert float(thousandths.max()) < 0.1
    ours, also = (fused([unit * m[None] for m in maps]) for unit in (1, 1e-3))
    assert_close(also, ours)
