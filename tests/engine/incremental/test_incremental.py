"""Rows with one changed rectangle answer what the whole network answers on the changed picture."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from service.engine.incremental import Incremental, NotIncremental, incremental, regions
from service.engine.incremental.batch import Layout
from service.engine.network.variants import EXACT, Variant
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.models.embedded.efficientnet_lite0 import EfficientNetLite0
from service.settings import Settings
from service.tuning import Tuner
from service.tuning.steps import Steps
from tests import oracles, tiny
from tests.engine.incremental.checks import FELT, Forward, check, corners_of, noise, plain


@torch.inference_mode()
def test_rows_of_several_pictures_share_a_batch():
    network = tiny.functional()
    images = [noise(1, 3, 32, 32, seed=seed) for seed in range(4)]
    built = Incremental.of(network, images[0])
    plan = built.plan((6, 6))
    cleans = [built.clean(image, plan) for image in images]
    of = torch.tensor([2, 0, 2, 3, 0])  # not the second one
    corners = torch.tensor([[0, 0], [3, 26], [11, 5], [26, 26], [3, 26]])
    patches = noise(5, 3, 6, 6, seed=9)
    found = built.outputs(plan, cleans, of, corners, patches)
    expected = plain(network, images, of, corners, patches)
    assert (found - expected).abs().max() <= EXACT * expected.abs().max()
    assert (found[1] - found[4]).abs().max() > FELT * expected.abs().max()  # same place and picture, other content


@torch.inference_mode()
def test_where_rectangles_lie_is_kept_for_the_next_picture_up_to_so_many_bytes(monkeypatch):
    network = tiny.functional()
    images = [noise(1, 3, 32, 32, seed=seed) for seed in range(2)]
    built = Incremental.of(network, images[0])
    plan = built.plan((6, 6))
    cleans = [built.clean(image, plan) for image in images]
    made = []

    def reached(*given):
        made.append(given)
        return regions.reached(*given)

    monkeypatch.setattr(incremental, "reached", reached)

    def ask(seed, rows=8):
        corners = torch.randint(0, 27, (rows, 2), generator=torch.Generator().manual_seed(seed))
        of = torch.full((rows,), seed % 2)
        found = built.outputs(plan, cleans, of, corners, patches := noise(rows, 3, 6, 6, seed=seed))
        expected = plain(network, images, of, corners, patches)
        assert (found - expected).abs().max() <= EXACT * expected.abs().max()
        return len(made)

    assert ask(0) == 1
    (layout,) = built._layouts.values()
    held = layout.nbytes
    assert held > Layout(layout.regions).nbytes > 8 * 2 * 8  # what its first batch found counts
    monkeypatch.setattr(incremental, "_LAYOUTS_BYTES", 4 * held)
    assert ask(0) == 1
    for seed in range(1, 30):
        assert ask(seed) == 1 + seed
        assert 0 < sum(layout.nbytes for layout in built._layouts.values()) <= 4 * held
    assert ask(29) == 30
    assert ask(0) == 31  # that was used least recently
    ask(1, rows=200)
    assert not built._layouts  # one that is larger than all that may be kept is not


@torch.inference_mode()
def test_nothing_that_callers_own_is_changed():
    network = nn.Sequential(nn.ReLU(inplace=True), *tiny.classifier().children()).eval()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    # channels last, so that what is given is not laid out anew before the first operator
    image, patches = (x.to(memory_format=torch.channels_last) for x in (noise(1, 3, 32, 32), noise(2, 3, 8, 8)))
    kept = image.clone(), patches.clone()
    built = Incremental.of(network, image)
    plan = built.plan((8, 8))
    clean = built.clean(image, plan)
    maps = {key: m.values.clone() for key, m in clean.maps.items()}
    for _ in range(2):
        built.outputs(plan, [clean], torch.zeros(2, dtype=torch.long), torch.tensor([[0, 0], [9, 9]]), patches)
    assert torch.equal(image, kept[0])
    assert torch.equal(patches, kept[1])
    assert maps
    assert all(torch.equal(clean.maps[key].values, values) for key, values in maps.items())
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@torch.inference_mode()
def test_misuse_is_refused():
    image = noise(1, 3, 32, 32)
    built = Incremental.of(tiny.classifier(), image)
    plan = built.plan((4, 4))
    clean = built.clean(image, plan)
    zero, patch = torch.zeros(1, dtype=torch.long), noise(1, 3, 4, 4)
    for corner in ([-1, 0], [0, 29]):
        with pytest.raises(ValueError, match="inside the picture"):
            built.outputs(plan, [clean], zero, torch.tensor([corner]), patch)
    other = replace(plan, switch=plan.switch - 1)
    with pytest.raises(ValueError, match="another plan"):
        built.outputs(other, [clean], zero, torch.tensor([[0, 0]]), patch)


# Threads


def test_only_steps_run_the_network():
    """Whoever owns the device decides which thread that is."""
    network, ran = tiny.classifier(), []
    network.conv1.register_forward_hook(lambda *_: ran.append(threading.current_thread()))
    with ThreadPoolExecutor(1) as pool:
        owner = pool.submit(threading.current_thread).result()
        built = Incremental.of(network, noise(2, 3, 32, 32), lambda step: pool.submit(step).result())
    assert set(ran) == {owner}
    assert built.plan((4, 4)).gain > 0


def test_an_error_on_the_device_is_a_reason():
    def on_device(step):
        raise RuntimeError("no kernel")

    with pytest.raises(NotIncremental, match="cannot be repeated: no kernel"):
        Incremental.of(tiny.classifier(), noise(1, 3, 32, 32), on_device)


class Resident:
    """Of a model what is written down; it notes who changes it."""

    device = torch.device("cpu")

    def __init__(self, network):
        vars(self).update(variants={"fp32": Variant("plain", network.eval())}, changed=[])

    def example(self):
        return noise(2, 3, 16, 16)

    def __setattr__(self, name, value):
        vars(self)[name] = value
        self.changed.append((name, threading.current_thread()))


@pytest.mark.parametrize(("name", "reason"), [("plain", None), ("group", "group_norm, reads whole maps")])
def test_only_the_device_thread_changes_a_resident_model(name, reason):
    model = Resident(Forward(lambda m, x: m.head(m.group(x) if name == "group" else x)))
    device = Device(torch.device("cpu"), max_batch_rows=8)
    try:
        owner = device.call(threading.current_thread, Run())
        Tuner(device, Settings(device="cpu"))._write_down(model, Steps(device, threading.Event()))
    finally:
        device.close()
    assert {name for name, _ in model.changed} == {"incremental", "whole", "max_batch_s"}
    assert {thread for _, thread in model.changed} == {owner}
    if reason is None:
        assert model.whole is None
        assert model.incremental.plan((4, 4)).gain > 0
    else:
        assert model.incremental is None
        assert reason in model.whole


# Families

# The least network of each of torchvision's families, its picture's side, and why rows have to be plain.
FAMILIES = {
    "alexnet": ("alexnet", 96, None),
    "convnext": ("convnext_tiny", 64, "permute, reads whole maps"),
    "densenet": ("densenet121", 64, None),
    "efficientnet_b": ("efficientnet_b0", 64, "mul, combines maps"),
    "efficientnet_v": ("efficientnet_v2_s", 48, None),  # its first half is without gates
    "googlenet": ("googlenet", 64, None),
    "inception_v": ("inception_v3", 96, None),
    "maxvit_t": ("maxvit_t", 224, "mul, combines maps"),
    "mnasnet": ("mnasnet0_5", 64, None),
    "mobilenet_v2": ("mobilenet_v2", 64, None),
    "mobilenet_v3": ("mobilenet_v3_small", 64, "mul, combines maps"),
    "regnet_x": ("regnet_x_400mf", 64, None),
    "regnet_y": ("regnet_y_400mf", 64, "mul, combines maps"),
    "resnet": ("resnet18", 64, None),
    "resnext": ("resnext50_32x4d", 48, None),
    "shufflenet_v": ("shufflenet_v2_x0_5", 64, None),
    "squeezenet": ("squeezenet1_0", 64, None),
    "swin": ("swin_t", 64, "overwrites a view"),
    "vgg": ("vgg11_bn", 64, None),
    "vit": ("vit_b_32", 224, "reads whole maps"),
    "wide_resnet": ("wide_resnet50_2", 48, None),
}
OWN = ("efficientnet-lite0",)
LARGE = ("vgg", "wide_resnet")
DEEP = ("efficientnet_v", "resnext", "wide_resnet")  # their stages repeat blocks: two of each are all that there is
# Random networks blow rounding up, the more so the farther pictures are from those that they were scaled on: in float32
# these answer a picture otherwise alone than in a batch. In float64 and with pictures of less contrast they do not.
CHAOTIC = ("efficientnet_v", "inception_v")


def test_no_family_of_torchvision_is_forgotten():
    names = torchvision.models.list_models(module=torchvision.models)
    forgotten = [name for name in names if not any(re.match(family, name) for family in FAMILIES)]
    assert not forgotten
    assert all(representative in names for representative, *_ in FAMILIES.values())


def lively(family, side):
    name = FAMILIES.get(family, (family,))[0]
    torch.manual_seed(0)
    if name in OWN:
        network = EfficientNetLite0()
    else:
        options = {"init_weights": False, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
        network = torchvision.models.get_model(name, **options)
    for _, stage in network.named_modules() if family in DEEP else ():
        if isinstance(stage, nn.Sequential) and len({type(block) for block in stage}) == 1 and len(stage) > 2:
            del stage[2:]
    if family in LARGE:  # nothing fades in them anyway
        return network.eval()
    network = oracles.lively(network.eval(), size=side)
    return network.double() if family in CHAOTIC else network.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", [*(family for family, (_, _, why) in FAMILIES.items() if why is None), *OWN])
def test_families_that_are_incremental(name):
    side = FAMILIES.get(name, (name, 64))[1]
    contrast = 0.3 if name in CHAOTIC else 1.0
    size, window = (side, side), (side // 8, side // 8)
    built = check(lively(name, side), size, window, corners=corners_of(size, window, count=2), contrast=contrast)
    assert built.plan((side // 8, side // 8)).arithmetic < 1


@pytest.mark.parametrize("family", [family for family, (_, _, why) in FAMILIES.items() if why is not None])
def test_families_that_are_not(family):
    representative, side, why = FAMILIES[family]
    network = torchvision.models.get_model(representative).eval()
    with pytest.raises(NotIncremental, match=why):
        Incremental.of(network, noise(1, 3, side, side))
