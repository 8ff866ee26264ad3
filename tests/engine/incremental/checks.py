"""Rows with one changed rectangle against the whole network on the changed picture, and networks to try that on."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from service.engine.incremental import Incremental
from service.engine.network.variants import EXACT

FELT = 1e-3  # least change of the outputs, relative to the largest, that a test takes for one


def noise(*shape, seed=0):
    """Seeded white noise."""
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
def check(network, size, window, everywhere=False, felt=FELT, corners=None, contrast=1.0):
    """Compare at the plan's switch and where all that can be is regional, or at every switch; return what was built.

    Pictures and changes are white noise with a standard deviation of `contrast`.
    """
    network = network.eval()
    dtype = next(network.parameters()).dtype
    images = [noise(1, 3, *size, seed=seed).to(dtype) * contrast for seed in (1, 2)]
    built = Incremental.of(network, images[0])
    corners = corners_of(size, window) if corners is None else corners
    of = torch.arange(len(corners)) * 5 // 3 % 2  # in no order
    patches = noise(len(corners), 3, *window, seed=3).to(dtype) * contrast
    expected = plain(network, images, of, corners, patches)
    scale = expected.abs().max()
    assert (expected - torch.cat([network(image) for image in images])[of]).abs().max() >= felt * scale
    plan = built.plan(window)
    furthest = built.recording.furthest
    for tried in range(1, furthest + 1) if everywhere else {plan.switch, furthest}:
        forced = replace(plan, switch=tried)
        cleans = [built.clean(image, forced) for image in images]
        assert (cleans[1].outputs - network(images[1])).abs().max() <= EXACT * scale
        found = built.outputs(forced, cleans, of, corners, patches)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= EXACT * scale, tried
    return built


def regional(built, name):
    """Whether all operators of a name carry regions."""
    nodes = [node for node in built.recording.nodes if node.name == name]
    return bool(nodes) and all(node.rule is not None and node.index < built.recording.furthest for node in nodes)


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
