"""What the zoo takes for true, held against networks whose truth is known by hand."""

import pytest
import torch
from torch import Tensor, nn

from tests import oracles, tiny
from tests.explainers.conftest import tiny_input
from tests.explainers.propagation.test_deconvnet import oracle as by_modules
from tests.oracles import Case
from tests.zoo import truths
from tests.zoo.truths import TAP, Place, Tapped

LAYOUTS = {
    "chw": (Place("layer", layout="chw", grid=(4, 6)), (2, 5, 4, 6)),
    "hwc": (Place("layer", layout="hwc", grid=(4, 6)), (2, 4, 6, 5)),
    "tokens": (Place("layer", layout="tokens", grid=(4, 6)), (2, 24, 5)),
    "tokens+2": (Place("layer", layout="tokens+2", grid=(4, 6)), (2, 26, 5)),
    "ct": (Place("layer", layout="ct", grid=(4, 6)), (2, 5, 24)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_maps_go_back_to_where_they_came_from(layout):
    place, shape = LAYOUTS[layout]
    output = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    maps = place.maps(output)
    assert maps.shape == (2, 5, 4, 6)
    assert torch.equal(place.answer(maps, output), output)


def test_a_tap_shows_the_call_that_is_asked_for_and_changes_nothing():
    network, x = tiny.functional(), tiny_input()
    for call in (1, 2):
        tapped = Tapped(network, Place.of(f"conv2#{call}", "chw", (8, 16, 16)))
        assert torch.equal(tapped(x), network(x))
        met: list[Tensor] = []
        hook = network.conv2.register_forward_hook(lambda _module, _inputs, output, met=met: met.append(output.clone()))
        network(x)
        hook.remove()
        assert torch.equal(oracles.layer_output(tapped, x, TAP), met[call - 1])


def test_gradients_at_a_tap_are_those_at_the_layer():
    network, x = tiny.classifier(), tiny_input()
    a, g = oracles.maps_and_gradients(Tapped(network, Place.of("relu2", "chw", (12, 16, 16))), x, TAP, 2)
    b, h = oracles.maps_and_gradients(network, x, "relu2", 2)
    assert torch.equal(a, b)
    assert torch.equal(g, h)


@pytest.mark.parametrize("layer", ["relu2", "conv2"])
def test_cam_needs_no_head(layer):
    """Behind a ReLU, too, whose slope is one or nothing."""
    network, x = tiny.classifier(), tiny_input()
    case = Case(Tapped(network, Place.of(layer, "chw", (12, 16, 16))), x, TAP, 3)
    expected = oracles.weighted_maps(Case(network, x, "relu2", 3))[0]
    assert oracles.relative_error(truths.cam(case), expected) < 1e-5


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_deconvnet_by_the_graph_is_deconvnet_by_modules(name):
    network, layer = oracles.NETWORKS[name]().requires_grad_(False), {"resnet18": "layer1"}.get(name, "features.4")
    x = oracles.photograph("chelsea", 64)
    shape = tuple(oracles.layer_output(network, x, layer).shape[1:])
    found = truths.deconvnet(Case(Tapped(network, Place.of(layer, "chw", shape)), x, TAP, params={"channels": (1,)}))
    expected = by_modules(Case(network, x, layer, params={"channels": (1,)}))
    assert float(expected.abs().max()) > 0
    assert oracles.relative_error(found, expected) < 1e-4


class Attention(nn.Module):
    """A linear attention, which rectifies queries and keys, behind a smooth layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.heads, self.fc = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = nn.functional.gelu(self.conv(x)).flatten(2).mT
        q = self.heads(tokens).view(len(x), -1, 2, 4).relu()
        return self.fc((q * q.mean(1, keepdim=True)).flatten(2).mean(1))


@pytest.mark.parametrize(("build", "count"), [(tiny.classifier, 2), (tiny.functional, 3), (Attention, 1)])
def test_rectifiers_are_counted_where_autograd_meets_them(build, count):
    assert truths.rectified_maps(build().requires_grad_(False), tiny_input()) == count


def test_layers_whose_averages_are_the_answer_are_found():
    places = {name: Place.of(name, "chw", (12, 16, 16)) for name in ("conv2", "relu2")}
    earlier = {"conv1": Place.of("conv1", "chw", (8, 32, 32))}
    classifier = Tapped(tiny.classifier().requires_grad_(False))
    # The slope at the convolution is that at its ReLU, wherever it is open.
    assert truths.averages(classifier, tiny_input(), places | earlier, 1) == ["conv2", "relu2"]
    vgg = Tapped(tiny.vgg().requires_grad_(False))
    assert truths.averages(vgg, tiny_input(), places | earlier, 1) == []


def test_a_blank_picture_moves_a_channel_that_is_alive():
    network = tiny.classifier().requires_grad_(False)
    network.conv2.bias.data[:2] = -100.0
    network.conv2.bias.data[2] = 100.0
    tapped = Tapped(network, Place.of("relu2", "chw", (12, 16, 16)))
    assert truths.alive(tapped, torch.zeros(1, 3, 32, 32)) == 2
    for layer in (network.conv1, network.conv2):
        layer.weight.data.zero_()
    assert truths.alive(tapped, torch.zeros(1, 3, 32, 32)) is None
