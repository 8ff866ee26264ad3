"""What a few forwards at load tell of a network, over the families of torchvision."""

import pytest
import torch

from service.contract import Rows
from service.engine.network.resident import Model
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import RowsWork
from service.errors import CatalogError
from service.images import Transform
from service.models.catalogue import requested
from service.models.spec import ModelSpec
from service.pipeline import applicability
from service.tasks import task
from tests import oracles, tiny


@pytest.fixture(scope="module")
def device():
    device = Device(torch.device("cpu"), max_batch_rows=4)
    yield device
    device.close()


def _load(device, name):
    spec = requested([f"{name}=random"], None)[0][name]
    module = spec.build()
    return device.call(lambda: Model(spec, module, device.device))


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("vit_b_32", {"cam", "ram", "deconvnet"}),
        ("swin_t", {"ram", "deconvnet"}),  # its last block's maps are averaged into one linear layer: CAM holds
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


HEADS = {
    "resnet18": "layer4",
    "densenet121": "features+relu",
    "squeezenet1_1": "classifier.2",
    "googlenet": "inception5b",
    "mobilenet_v2": "features",
    "shufflenet_v2_x1_0": "conv5",
    "efficientnet_b0": "features",
    "alexnet": None,
    "vgg11": None,
    "mobilenet_v3_small": None,
    "convnext_tiny": None,
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_proved_by_numbers(device, name):
    module = oracles.NETWORKS[name]()
    spec = ModelSpec(
        name,
        lambda: module,
        Transform(96, (96, 96), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD),
        task("classification"),
    )
    facts = device.call(lambda: Model(spec, module, device.device)).facts
    assert (facts.head.layer if facts.head else None) == HEADS[name]
    if facts.head:
        assert facts.head.residual <= 1e-5
        assert facts.default_layer == facts.head.layer


def test_a_network_that_returns_something_else_is_refused(device):
    class Pair(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x

    spec = ModelSpec("pair", Pair, Transform(32, (32, 32), (0.5,) * 3, (0.5,) * 3), task("classification"))
    with pytest.raises(CatalogError, match="one tensor"):
        device.call(lambda: Model(spec, Pair(), device.device))


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
