"""A network runs well before anything is measured: what is chosen is proved, and computes the same."""

import threading

import pytest
import torch
from torch import nn

from service.contract import Boxes
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import IDLE, Run
from service.engine.settling import prove_boxes, settle
from service.engine.store import Store
from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task
from tests import tiny

SIZE = 32


def _model(network):
    transform = Transform(SIZE, (SIZE, SIZE), (0.5,) * 3, (0.25,) * 3)
    spec = ModelSpec("mine", lambda: network, transform, task("classification"))
    return Model(spec, network.eval(), torch.device("cpu"))


def test_a_request_for_boxes_waits_for_the_proof_and_no_longer(device) -> None:
    model = _model(tiny.classifier())
    settle(model)
    assert not model.proved.is_set()
    found, asks = [], threading.Event()
    x = model.example()[:1]
    boxes = Boxes.on(x, torch.zeros(3, SIZE, SIZE), [(i, i, i + 4, i + 4) for i in range(12)])
    run = Run()

    def ask() -> None:
        asks.set()
        found.append(ModelProbe(model, device, run).scores(boxes))

    thread = threading.Thread(target=ask)
    thread.start()
    assert asks.wait(60)
    prove_boxes(model, device)
    thread.join(60)
    torch.testing.assert_close(found[0], tiny.classifier()(boxes.build(0, boxes.count)), rtol=1e-4, atol=1e-5)
    assert model.boxes is not None


def test_the_proof_gives_way_to_requests_until_one_waits_for_it(device) -> None:
    model = _model(tiny.classifier())
    settle(model)
    priorities = []
    put = device.put

    def seen(work, run):
        priorities.append(run.priority)
        return put(work, run)

    device.put = seen
    prove_boxes(model, device)
    assert priorities.count(IDLE) > 1  # a step that is not run soon goes as a request's, too
    assert not model.wanted.is_set()
    priorities.clear()
    model.proved.clear()
    model.wanted.set()
    prove_boxes(model, device)
    assert priorities
    assert IDLE not in priorities


def test_the_first_request_of_a_fresh_model_computes_what_boxes_reach(device) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)).eval()
    spec = ModelSpec(
        "mine",
        lambda: network,
        Transform(96, (96, 96), (0.5,) * 3, (0.25,) * 3),
        task("classification"),
    )
    store = Store({"mine": spec}, "mine", device)
    store.start()
    try:
        assert store.wait(60, proofs=False)
        model, run = store.get(None), Run()
        x = model.example()[:1]
        boxes = Boxes.on(x, torch.zeros(3, 96, 96), [(i, i, i + 16, i + 16) for i in range(0, 80, 8)])
        found = ModelProbe(model, device, run).scores(boxes)
        torch.testing.assert_close(found, network(boxes.build(0, boxes.count)), rtol=1e-4, atol=1e-5)
        assert 0 < run.usage.incremental < 0.5  # of the multiplications of whole rows
    finally:
        store.close()
        store.join(60)


class Keeps(nn.Module):
    """Holds a tensor of the first forward of so many pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.kept = tiny.classifier(), {}

    def forward(self, x):
        self.kept.setdefault(len(x), torch.ones_like(x))
        return self.inner(x * self.kept[len(x)])


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (tiny.classifier, "folded, channels-last"),
        (tiny.vgg, "folded, channels-last"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Linear(64, 4), nn.Flatten()), "plain"),
        (Keeps, "plain"),
    ],
    ids=["classifier", "no batch norm", "one convolution", "keeps tensors"],
)
def test_a_copy_is_made_where_there_is_something_to_gain(device, build, name) -> None:
    network = build().eval()
    model = _model(network)
    settle(model)
    assert model.variants["fp32"].name == name
    x = model.example()
    torch.testing.assert_close(model.forward(x), network(x).flatten(1), rtol=1e-4, atol=1e-5)


def test_what_reads_whole_maps_says_why(device) -> None:
    model = _model(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5)))
    settle(model)
    prove_boxes(model, device)
    assert model.incremental is None
    assert "multiplications" in model.whole


def test_what_was_measured_earlier_is_left_as_it_was(device) -> None:
    model = _model(tiny.classifier())
    settle(model, known=True)
    assert model.variants["fp32"].name == "plain"
    assert not model.proved.is_set()
