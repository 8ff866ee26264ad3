"""What a few forwards at load tell of a network, over the families of torchvision."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from service.contract import Rows, Targets
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import RowsWork
from service.errors import CatalogError, NotApplicable
from service.explainers.base import registry
from service.explainers.cam.grad_cam import GradCAM
from service.explainers.cam.score_cam import ScoreCAM
from service.images import Transform
from service.models.spec import ModelSpec
from service.pipeline import applicability
from service.tasks import task
from tests import oracles, tiny


@pytest.fixture(scope="module")
def device():
    device = Device(torch.device("cpu"), max_batch_rows=4)
    yield device
    device.close()


# As torchvision makes them, of few and narrow layers.
TRANSFORMERS = {
    "vit": lambda: torchvision.models.VisionTransformer(32, 8, 3, 4, 48, 96, num_classes=7),
    "swin": lambda: torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=7),
}


def _load(device, name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = oracles.lively(TRANSFORMERS[name](), size=32).eval()
    transform = Transform(32, (32, 32), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD)
    spec = ModelSpec(name, lambda: module, transform, task("classification"))
    return device.call(lambda: Model(spec, module, device.device))


RECTIFIED = {"deconvnet", "excitation-backprop", "guided-backprop", "guided-grad-cam"}  # need a ReLU
ATTENTION = {name for name, cls in registry().items() if cls.family == "attention"}


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("vit", {"cam", "ram"} | RECTIFIED),
        # Its last block's maps are averaged into one linear layer: CAM holds; its attention is of windows.
        ("swin", {"ram"} | RECTIFIED | ATTENTION),
    ],
)
def test_transformers_load_predict_and_say_what_does_not_apply(device, name, refused):
    model = _load(device, name)
    x = model.example()
    outputs = device.submit(RowsWork(model, tuple(x.shape[1:]), Rows.of(x[:1])), Run())
    torch.testing.assert_close(outputs, model.module(x[:1]), rtol=1e-4, atol=1e-5)
    reasons = {method: reason for method, reason in applicability(model.facts).items() if reason}
    assert set(reasons) == refused
    assert all("use '" in reason.lower() for reason in reasons.values())
    attentions = [info.shape for info in model.facts.layers.values() if info.attention is not None]
    assert attentions == ([(4, 17, 17)] * 3 if name == "vit" else [])
    assert ("attention" in {check.name for check in model.facts.checks}) == bool(attentions)


class Grid(nn.Module):
    """Convolutions whose maps go on in another layout, and a head that reads all of them."""

    def __init__(self, layout: str, prefix: int = 0, suffix: int = 0) -> None:
        super().__init__()
        self.layout, self.prefix, self.suffix = layout, prefix, suffix
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.mixed, self.last, self.fc = nn.Identity(), nn.Linear(8, 8), nn.Linear(8, 5)

    def without_place(self, tokens, count):
        own = tokens[:, :1].expand(-1, count, -1) * 0.5
        return own if not self.suffix else torch.full_like(own, 0.5)  # as what was learnt is, whatever the picture

    def forward(self, x):
        a = self.stem(x).tanh()
        if self.layout == "hwc":
            return self.fc(self.mixed(a.permute(0, 2, 3, 1)).square().mean((1, 2)))
        if self.layout == "ct":
            return self.fc(self.mixed(a.flatten(2)).square().mean(2))
        tokens = a.flatten(2).mT
        before, behind = (self.without_place(tokens, count) for count in (self.prefix, self.suffix))
        tokens = torch.cat([before, tokens, behind], 1)
        if self.layout == "sequence first":
            return self.fc(self.last(self.mixed(tokens.transpose(0, 1)).square()).mean(0).tanh())
        read = self.last(self.mixed(tokens).square())  # a linear projection is no layer to look at
        return self.fc((read if self.layout == "all tokens" else read[:, 1:]).mean(1).tanh())


@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=str)
@pytest.mark.parametrize(
    ("layout", "prefix", "found"),
    [
        ("hwc", 0, "hwc"),
        ("ct", 0, "ct"),
        ("all tokens", 0, "tokens"),
        ("tokens", 1, "tokens+1"),
        ("all tokens", 2, "tokens+2"),
        ("tokens", 5, "tokens+5"),
        ("tokens", 8, "tokens+8"),
        ("all tokens", (0, 1), "tokens+0+1"),
        ("tokens", (1, 4), "tokens+1+4"),
        ("sequence first", 0, "tokens"),
        ("sequence first", (1, 2), "tokens+1+2"),
    ],
)
def test_methods_see_maps_whatever_the_layout(device, layout, prefix, found, size):
    torch.manual_seed(0)
    before, behind = prefix if isinstance(prefix, tuple) else (prefix, 0)
    network = Grid(layout, before, behind).eval()
    plain = copy.deepcopy(network)
    spec = ModelSpec("grid", lambda: network, Transform(size[0], size, (0.5,) * 3, (0.2,) * 3), task("classification"))
    model = device.call(lambda: Model(spec, network, device.device))
    info = model.facts.layers["mixed"]
    height, width = size[0] // 4, size[1] // 4
    assert model.facts.default_layer == "mixed"
    assert (str(info.layout), info.shape) == (found, (8, height, width))
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    probe = ModelProbe(model, device, Run())
    cam = GradCAM().explain(probe, x, Targets(model.facts, [2])).maps[0].array
    # By hand: the maps are those of the stem, wherever their axes went.
    a = plain.stem(x).tanh().detach().requires_grad_()
    a_in, plain.stem = a, nn.Identity()
    plain.forward = lambda maps: Grid.forward(plain, maps.atanh())
    (g,) = torch.autograd.grad(plain(a_in)[0, 2], a)
    if prefix:  # tokens without a place are made of the first place: what they say is not said at that place
        with torch.no_grad():
            tokens = a.flatten(2).mT
            own = [plain.without_place(tokens, count) for count in (before, behind)]
            tokens = torch.cat([own[0], tokens, own[1]], 1)
        tokens.requires_grad_()
        read = plain.last(tokens.square())
        y = plain.fc((read[:, 1:] if layout == "tokens" else read).mean(1).tanh())
        g = torch.autograd.grad(y[0, 2], tokens)[0][:, before : tokens.shape[1] - behind].mT.reshape(a.shape)
    expected = torch.einsum("c,chw->hw", g[0].mean((1, 2)), a[0].detach()).relu()
    torch.testing.assert_close(cam, expected, rtol=1e-4, atol=1e-6)
    score_cam = ScoreCAM().explain(probe, x, Targets(model.facts, [2])).maps[0].array
    assert score_cam.shape == (height, width)


# Those that ask for averaged maps in front of a linear layer, or for rectifiers alone.
REFUSED = {"cam", "ram", "deconvnet", "excitation-backprop", "guided-backprop", "guided-grad-cam"}


def test_behind_the_last_block_of_a_transformer_only_the_class_token_is_read(device):
    """The default layer is the last one in which all of its places still matter."""
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(network.heads.head.weight)
    spec = ModelSpec("vit", lambda: network, Transform(32, (32, 32), (0.5,) * 3, (0.2,) * 3), task("classification"))
    model = device.call(lambda: Model(spec, network, device.device))
    assert model.facts.default_layer == "encoder.layers.encoder_layer_1.ln_1"
    assert str(model.facts.layers["encoder.ln"].layout) == "tokens+1"
    reasons = applicability(model.facts)
    assert {name for name, reason in reasons.items() if reason} == REFUSED
    probe, x = ModelProbe(model, device, Run()), model.example()[:1]
    with pytest.raises(NotApplicable, match="earlier layer"):
        GradCAM(layer="encoder.ln").explain(probe, x, Targets(model.facts, [2]))


class LinearAttention(nn.Module):
    """Rectifies queries and keys, and no features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, 32, 4, 4), nn.Conv2d(32, 96, 1)
        self.norm, self.fc = nn.BatchNorm2d(32), nn.Linear(32, 5)

    def forward(self, x):
        a = torch.nn.functional.silu(self.stem(x))
        q, k, v = self.qkv(a).reshape(len(x), 3, 2, 16, 64).mT.unbind(1)  # (N, 2, 64, 16): four axes, as maps
        q, k = q.relu(), k.relu()
        mixed = (q @ (k.mT @ v)).mT.reshape(a.shape)
        return self.fc(self.norm(a + mixed / 64).mean((2, 3)))


def test_rectified_queries_are_no_rectified_features(device):
    torch.manual_seed(0)
    network = LinearAttention().eval()
    spec = ModelSpec("linear", lambda: network, Transform(32, (32, 32), (0.5,) * 3, (0.2,) * 3), task("classification"))
    facts = device.call(lambda: Model(spec, network, device.device)).facts
    assert facts.rectifiers == 0
    assert "no ReLU" in applicability(facts)["deconvnet"]


def test_labels_have_to_fit(device):
    spec = ModelSpec(
        "few",
        tiny.classifier,
        Transform(32, (32, 32), (0.5,) * 3, (0.5,) * 3),
        task("classification"),
        labels=("a", "b"),
    )
    with pytest.raises(CatalogError, match="2 labels for 5 outputs"):
        device.call(lambda: Model(spec, tiny.classifier(), device.device))


class InLists(nn.Module):
    """Its layers stand in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [*tiny.classifier()]
        self.scale = torch.ones(5, dtype=torch.float32)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.scale


def test_layers_in_a_plain_list_have_addresses_and_are_told() -> None:
    transform = Transform(tiny.SIZE, (tiny.SIZE, tiny.SIZE), (0.5,) * 3, (0.25,) * 3)
    spec = ModelSpec("m", nn.Module, transform, task("classification"))
    whole, lists = (Model(spec, network, torch.device("cpu")) for network in (tiny.classifier(), InLists()))
    assert lists.facts.default_layer == "layers.5"
    assert len(lists.facts.layers) == len(whole.facts.layers)
    assert lists.facts.head is not None
    lines = {line.name: line for line in lists.facts.checks}
    assert "layers.0" in lines["weights"].found
    assert "ModuleList" in lines["weights"].remedy
    torch.testing.assert_close(lists.forward(lists.example()), whole.forward(whole.example()))


class Branches(nn.Module):
    """Goes one of two ways, by an operator that is given both."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny.classifier()

    def forward(self, x):
        y = self.inner(x)
        return torch.ops.higher_order.cond(x.sum() > 0, lambda y: 2 * y, lambda y: -y, (y,))


def test_an_operator_that_is_given_functions_is_run_on_one_picture_at_a_time_and_not_looked_into(device) -> None:
    module = Branches().eval()
    transform = Transform(32, (32, 32), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD)
    spec = ModelSpec("ways", lambda: module, transform, task("classification"))
    model = device.call(lambda: Model(spec, module, device.device))
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.cat([module(row[None]) for row in x])
        assert 0 < (x.sum((1, 2, 3)) > 0).sum() < 8
    assert model.facts.singly
    assert torch.equal(ModelProbe(model, device, Run()).answer(x[:1]), expected[0])
    torch.testing.assert_close(model.module(x), expected)
    with pytest.raises(NotApplicable, match="'cond' with functions, whose operators cannot be seen"):
        model.facts.require_operators("lrp")
