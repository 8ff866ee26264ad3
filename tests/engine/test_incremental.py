"""Rows with one changed rectangle answer what the whole network answers on the changed picture."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from service.engine import incremental_graph
from service.engine.incremental.planning import Incremental, NotIncremental
from service.engine.incremental.regions import Region
from service.engine.network.variants import EXACT
from service.models.embedded.efficientnet_lite0 import EfficientNetLite0
from tests import oracles, tiny


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks as small as these only wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FELT = 1e-3  # least change of the outputs, relative to the largest, that a test takes for one


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(network, images, of, corners, patches):
    """The whole network on changed pictures."""
    rows = torch.cat([images[i] for i in of.tolist()]).clone()
    for row, (y, x), patch in zip(rows, corners.tolist(), patches, strict=True):
        row[:, y : y + patch.shape[1], x : x + patch.shape[2]] = patch
    return network(rows)


def corners_of(size, window, count=6, seed=0):
    """Corners of the picture, and some places between."""
    ys, xs = size[0] - window[0], size[1] - window[1]
    generator = torch.Generator().manual_seed(seed)
    inner = [torch.randint(0, last + 1, (count,), generator=generator) for last in (ys, xs)]
    return torch.cat([torch.tensor([[0, 0], [ys, xs], [0, xs], [ys, 0]]), torch.stack(inner, 1)])


@torch.inference_mode()
def check(network, size, window, switch=None, felt=FELT, corners=None):
    """Compare at the plan's own switch and where all that can be is regional; return what was built."""
    network = network.eval()
    dtype = next(network.parameters()).dtype
    images = [noise(1, 3, *size, seed=seed).to(dtype) for seed in (1, 2)]
    built = Incremental.of(network, images[0])
    corners = corners_of(size, window) if corners is None else corners
    of = torch.arange(len(corners)) * 5 // 3 % 2  # in no order
    patches = noise(len(corners), 3, *window, seed=3).to(dtype)
    expected = plain(network, images, of, corners, patches)
    scale = expected.abs().max()
    assert (expected - torch.cat([network(image) for image in images])[of]).abs().max() >= felt * scale
    plan = built.plan(window)
    for tried in {plan.switch, built.furthest} if switch is None else {switch}:
        forced = replace(plan, switch=tried)
        cleans = [built.clean(image, forced) for image in images]
        assert (cleans[1].outputs - network(images[1])).abs().max() <= EXACT * scale
        found = built.outputs(forced, cleans, of, corners, patches)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= EXACT * scale, tried
    return built


def regional(built, name):
    """Whether all operators of a name carry regions."""
    nodes = [node for node in built.nodes if node.name == name]
    return bool(nodes) and all(node.rule is not None and node.index < built.furthest for node in nodes)


class Head(nn.Module):
    """Weighs every position of a map by itself, so that no error anywhere can hide in a mean."""

    def __init__(self, body, size):
        super().__init__()
        self.body = body.eval()
        with torch.no_grad():
            features = self.body(torch.zeros(2, 3, *size)).flatten(1).shape[1]
        self.fc = nn.Linear(features, 2)

    def forward(self, x):
        return self.fc(self.body(x).flatten(1))


def headed(size, *layers):
    torch.manual_seed(0)
    body = nn.Sequential(*[layer() if isinstance(layer, type) else layer for layer in layers])
    return Head(body, size)


# Geometry


@st.composite
def convolutions(draw):
    side = st.integers(1, 3)
    kernel, stride, dilation = ((draw(side), draw(side)) for _ in range(3))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple(draw(st.integers(0, r)) for r in reach)
    size = tuple(draw(st.integers(max(r + 1, 6), 15)) for r in reach)
    window = tuple(draw(st.integers(1, s)) for s in size)
    return kernel, stride, dilation, padding, draw(st.sampled_from([1, 2, 6])), size, window


@settings(max_examples=60, deadline=None, derandomize=True)
@given(convolutions())
def test_convolutions_of_any_geometry(geometry):
    kernel, stride, dilation, padding, groups, size, window = geometry
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups)
    # The first one spreads the change, and the last one reads what the middle one has left of it.
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(6, 6, 2, padding=1)]
    assert regional(check(headed(size, *layers), size, window, felt=0), "conv2d")


@st.composite
def pools(draw):
    kernel, stride = ((draw(st.integers(1, 4)), draw(st.integers(1, 4))) for _ in range(2))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = tuple(draw(st.integers(8, 15)) for _ in range(2))
    window = tuple(draw(st.integers(1, s)) for s in size)
    kind = draw(st.sampled_from(["max", "dilated", "avg", "avg, borders left out", "avg, fixed"]))
    return kind, kernel, stride, padding, draw(st.booleans()), size, window


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pools())
def test_pools_of_any_geometry(geometry):
    kind, kernel, stride, padding, ceil, size, window = geometry
    if kind in ("max", "dilated"):
        dilation = 2 if kind == "dilated" else 1
        pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    else:
        divisor = 3 if kind == "avg, fixed" else None
        pool = nn.AvgPool2d(kernel, stride, padding, ceil, kind == "avg", divisor)
    torch.manual_seed(0)
    # No ReLU before the pool: a border of zeros would be the maximum of negative values.
    network = headed(size, nn.Conv2d(3, 8, 3, padding=1), pool, nn.Conv2d(8, 8, 2, padding=1))
    built = check(network, size, window, felt=0)
    assert regional(built, "max_pool2d" if "avg" not in kind else "avg_pool2d")


@pytest.mark.parametrize("window", [(1, 1), (3, 9), (17, 5), (19, 23)])
def test_every_position_of_a_deep_network(window):
    size = (19, 23)
    layers = [
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, 2, 1)),
    ]
    everywhere = torch.cartesian_prod(torch.arange(size[0] - window[0] + 1), torch.arange(size[1] - window[1] + 1))
    network = headed(size, *layers)
    built = check(network, size, window, corners=everywhere)
    for switch in range(1, built.furthest + 1):
        check(network, size, window, switch=switch)


def test_a_row_at_a_time_needs_the_size_that_the_recurrence_says():
    """`methods.md`: side min(ceil((p + k - 1) / s), size)."""
    built = Incremental.of(tiny.classifier(), noise(2, 3, 32, 32))
    at = np.array([[10, 12]])
    regions = built.regions(built.furthest, Region(at, at + 4, at, (4, 4)))
    met = [(node.name, r.size) for node, r in zip(built.nodes, regions, strict=True) if r]
    # conv 3: 4 + 2; pool 2 of [9, 15): [4, 8); conv 3: 4 + 2
    expected = [("conv2d", (6, 6)), ("max_pool2d", (4, 4)), ("conv2d", (6, 6))]
    assert [pair for pair in met if pair[0] in ("conv2d", "max_pool2d")] == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_regions_hold_all_that_a_change_reaches(data):
    """Rows whose rectangles begin alike may still differ in how far changes reach."""
    bound = data.draw(st.integers(1, 12))

    def region():
        ends = [sorted(data.draw(st.tuples(*[st.integers(0, bound)] * 2))) for _ in range(6)]
        pairs = np.array(ends).reshape(3, 2, 2)
        return Region.around(pairs[..., 0], pairs[..., 1], (bound, bound))

    parts = [region(), region()]
    for held in [*parts, Region.union(parts, (bound, bound))]:
        end = held.start + np.array(held.size)
        assert (held.start >= 0).all()
        assert (end <= bound).all()
        assert ((held.low >= held.start) & (held.high <= end))[held.low < held.high].all()
    for part in parts:
        assert (held.low <= part.low).all()
        assert (held.high >= part.high).all()


# Operators


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.norm, self.slope = nn.BatchNorm2d(8), nn.PReLU(8)

    def forward(self, x):
        return self.b(self.function(self, self.a(x)))


def _shuffled(_, x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def _overwritten(_, x):
    y = x * 2
    F.relu_(y)  # whoever reads `y` from here on reads what is written there now
    return y + x


OPERATORS = {
    "relu": lambda _, x: F.relu(x),
    "relu6": lambda _, x: F.relu6(x),
    "hardtanh": lambda _, x: F.hardtanh(x, -0.5, 0.7),
    "leaky": lambda _, x: F.leaky_relu(x, 0.2),
    "elu": lambda _, x: F.elu(x),
    "silu": lambda _, x: F.silu(x, inplace=True),
    "gelu": lambda _, x: F.gelu(x, approximate="tanh"),
    "hardswish": lambda _, x: F.hardswish(x),
    "hardsigmoid": lambda _, x: F.hardsigmoid(x),
    "mish": lambda _, x: F.mish(x),
    "softplus": lambda _, x: F.softplus(x),
    "sigmoid": lambda _, x: torch.sigmoid(x),
    "tanh": lambda _, x: torch.tanh(x),
    "clamp": lambda _, x: x.clamp(min=-0.1),
    "prelu": lambda m, x: m.slope(x),
    "norm": lambda m, x: m.norm(x),
    "dropout": lambda m, x: F.dropout(F.dropout2d(x, training=False), training=False, inplace=True),
    "scale": lambda m, x: x * m.scale + 0.3,
    "product": lambda m, x: x * torch.sigmoid(x),
    "arithmetic": lambda _, x: (x - 0.2 * x.abs()) / 2 + (1 - x).pow(2),
    "maximum": lambda m, x: torch.maximum(x, m.b(x)),
    "overwritten": _overwritten,
    "shuffle": _shuffled,
    "channel_shuffle": lambda _, x: F.channel_shuffle(x, 4),
    "chunk": lambda _, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split": lambda _, x: torch.cat([x.split([3, 5], 1)[1], x[:, 2:5]], 1),
    "twice": lambda _, x: torch.cat([x[:, :4], x[:, :4]], 1),
    "select": lambda _, x: torch.cat([x[:, i].unsqueeze(1) * (i + 1) for i in range(8)], 1),
    "permute": lambda _, x: x.unflatten(1, (2, 4)).permute(0, 2, 1, 3, 4).flatten(1, 2),
    "pad": lambda _, x: F.pad(x, (0, 1, 2, 3), value=0.5),
    "crop": lambda _, x: x[:, :, 1:-2, 3:],
    "same": lambda m, x: F.conv2d(x, m.b.weight[:, :, :2], padding="same", dilation=3),
    "adaptive": lambda _, x: F.adaptive_avg_pool2d(x, (10, 6)),
    "unchanged": lambda _, x: F.adaptive_avg_pool2d(x, (20, 18)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("window", [(3, 4), (20, 5)])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_carry_regions(name, window):
    size = (20, 18)
    torch.manual_seed(0)
    body = Apply(OPERATORS[name])
    oracles_of_norm(body)
    built = check(Head(body, size), size, window)
    assert built.furthest == len(built.nodes) - 2, built.nodes[built.furthest].name  # all but flatten and linear


def oracles_of_norm(network):
    """Give batch norms something to do."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.5)


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("window", [(3, 4), (20, 5)])
def test_means_over_the_map_are_updated_by_what_changed(window, keepdim):
    size = (20, 18)

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 4)

        def forward(self, x):
            x = torch.sigmoid(self.a(x))
            means = F.adaptive_avg_pool2d(x, 1) if keepdim else x.mean((2, 3))
            return F.log_softmax(self.fc(means.flatten(1)), 1)

    torch.manual_seed(0)
    built = check(Mean(), size, window)
    assert built.furthest == len(built.nodes)


# Joined branches


class Branches(nn.Module):
    """As Inception's, ResNet's and DenseNet's blocks: regions of different sizes and phases meet."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.three = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.halved, self.skip = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 1, 2)
        self.last = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        if self.kind == "inception":
            x = torch.cat([self.one(x), self.three(self.one(x)), F.max_pool2d(x - 1, 3, 1, 1), x], 1)
            x = x[:, :8] + x[:, 8:16] * x[:, 16:24] - x[:, 24:]
        elif self.kind == "residual":
            x = F.relu_(self.three(F.relu(self.three(x))).add_(x))
            x = self.halved(x) + self.skip(x)
        elif self.kind == "dense":
            features = [x]
            for _ in range(3):
                features.append(F.relu(self.three(torch.cat(features, 1)[:, -8:])))
            x = torch.cat(features, 1)[:, 4:12] + features[1]
        else:  # two depths of one map, neither of which holds the other's region at every phase
            x = F.max_pool2d(x, 2) + self.halved(self.three(x)) + F.avg_pool2d(x, 3, 2, 1)
        return self.last(x)


@pytest.mark.parametrize("window", [(2, 3), (5, 20), (24, 22)])
@pytest.mark.parametrize("kind", ["inception", "residual", "dense", "phases"])
def test_branches_are_joined(kind, window):
    size = (24, 22)
    torch.manual_seed(0)
    network = Head(Branches(kind), size)
    built = check(network, size, window)
    for switch in range(1, built.furthest):
        check(network, size, window, switch=switch)


# What callers rely on


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
def test_nothing_that_callers_own_is_changed():
    network = nn.Sequential(nn.ReLU(inplace=True), *tiny.classifier().children()).eval()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    image, patches = noise(1, 3, 32, 32), noise(2, 3, 8, 8)
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
def test_memory_is_counted_and_only_what_the_plan_needs_is_kept():
    image = noise(1, 3, 32, 32)
    built = Incremental.of(tiny.classifier(), image)
    plan = built.plan((4, 4))
    clean = built.clean(image, replace(plan, switch=built.furthest))
    # The picture with its border, the first map without one, the pooled map with its border, the last one, outputs.
    kept = [3 * 34 * 34, 8 * 32 * 32, 8 * 18 * 18, 12 * 16 * 16]
    assert clean.nbytes == 4 * (sum(kept) + 12 + 5)
    assert built.clean(image, replace(plan, switch=1)).nbytes == 4 * (3 * 32 * 32 + 5)


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


@torch.inference_mode()
def test_batches_hold_every_rectangle_once_and_save_work():
    layers = [nn.Conv2d(3 if i == 0 else 6, 6, 5, padding=2) for i in range(6)]
    built = Incremental.of(headed((64, 64), *layers), noise(1, 3, 64, 64))
    plan = replace(built.plan((8, 8), 4), switch=built.furthest, rows=16)
    corners = torch.cartesian_prod(torch.arange(0, 57, 4), torch.arange(0, 57, 4))
    batches = built.batches(plan, corners)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(corners)))
    assert max(map(len, batches)) <= 16
    single, dealt, together = (built.share(plan, corners, rows) for rows in (1, 16, len(corners)))
    assert single < dealt < together < 1
    reading = [built.share(plan, corners[i : i + 16], 16) for i in range(0, len(corners) - 16, 16)]
    assert dealt < sum(reading) / len(reading)


def test_plans_are_kept_and_larger_windows_save_less():
    built = Incremental.of(tiny.classifier(), noise(1, 3, 32, 32))
    assert built.plan((4, 4)) is built.plan((4, 4))
    shares = [built.plan((side, side)).share for side in (1, 8, 32)]
    assert shares[0] < shares[1] <= shares[2] == 1
    assert built.plan((32, 32)).gain == pytest.approx(1, abs=0.2)


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
    "swin": ("swin_t", 64, "."),
    "vgg": ("vgg11_bn", 64, None),
    "vit": ("vit_b_32", 224, "reads whole maps"),
    "wide_resnet": ("wide_resnet50_2", 48, None),
}
OWN = ("efficientnet-lite0",)
LARGE = ("vgg", "wide_resnet")
# Random networks blow rounding up: in float32, this one answers a picture otherwise alone than in a batch.
CHAOTIC = ("efficientnet_v",)


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
    if family in LARGE:  # nothing fades in them anyway
        return network.eval()
    network = oracles.lively(network.eval(), size=side)
    return network.double() if family in CHAOTIC else network.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", [*(family for family, (_, _, why) in FAMILIES.items() if why is None), *OWN])
def test_families_that_are_incremental(name):
    side = FAMILIES.get(name, (name, 64))[1]
    built = check(lively(name, side), (side, side), (side // 8, side // 8))
    assert built.plan((side // 8, side // 8)).share < 1


@pytest.mark.parametrize("family", [family for family, (_, _, why) in FAMILIES.items() if why is not None])
def test_families_that_are_not(family):
    representative, side, why = FAMILIES[family]
    network = torchvision.models.get_model(representative).eval()
    with pytest.raises(NotIncremental, match=why):
        Incremental.of(network, noise(1, 3, side, side))


# Why rows have to be plain


class Forward(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.group, self.layer = nn.GroupNorm(2, 8), nn.LayerNorm([8, 16, 16])
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.deep = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])

    def forward(self, x):
        return self.function(self, self.conv(x))

    def head(self, x):
        return self.fc(self.deep(x).mean((2, 3)))


def _tokens(m, x):
    t = x.flatten(2).transpose(1, 2)
    return m.head(m.attention(t, t, t)[0].transpose(1, 2).reshape(x.shape))


def _viewed(m, x):
    first = x[:, :4]
    x += 1
    return m.head(torch.cat([first, x[:, 4:]], 1))


def _hidden_state(m, x):
    m.calls = getattr(m, "calls", 0) + 1
    return m.head(x) * m.calls


REASONS = {
    "gate": (lambda m, x: m.head(x * torch.sigmoid(x.mean((2, 3), keepdim=True))), "mul, combines maps"),
    "group norm": (lambda m, x: m.head(m.group(x)), "group_norm, reads whole maps"),
    "layer norm": (lambda m, x: m.head(m.layer(x)), "layer_norm, reads whole maps"),
    "instance norm": (lambda m, x: m.head(F.instance_norm(x)), "instance_norm, reads whole maps"),
    "attention": (_tokens, "reads whole maps"),
    "reflection": (lambda m, x: m.head(F.pad(x, (1, 1, 1, 1), mode="reflect")), "pad, reads whole maps"),
    "softmax of places": (lambda m, x: m.head(x.flatten(2).softmax(2).view(x.shape)), "reads whole maps"),
    "turned": (lambda m, x: m.head(x.transpose(2, 3)), "transpose, reads whole maps"),
    "decision": (lambda m, x: m.head(x) if x.sum().item() > 1e9 else m.head(-x), "decision|mixes"),
    "batch": (lambda m, x: m.head(x - x.mean(0, keepdim=True)), "mixes the rows"),
    "overwritten view": (_viewed, "overwrites a view"),
    "hidden state": (_hidden_state, "outputs differ"),
    "tuple": (lambda m, x: (m.head(x),), "does not return one"),
    "constant": (lambda m, x: torch.zeros(len(x), 4), "does not return one"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_followed_is_named(name):
    torch.manual_seed(0)
    function, why = REASONS[name]
    with pytest.raises(NotIncremental, match=why):
        Incremental.of(Forward(function).eval(), noise(1, 3, 16, 16))


def test_a_wrong_rule_is_found_out_by_the_proof(monkeypatch):
    monkeypatch.setattr(incremental_graph, "_POINTWISE", incremental_graph._POINTWISE | {"cumsum"})
    torch.manual_seed(0)
    network = Forward(lambda m, x: m.head(x.cumsum(2))).eval()
    with pytest.raises(NotIncremental, match="outputs differ"):
        Incremental.of(network, noise(1, 3, 16, 16))
