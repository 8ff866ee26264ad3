"""Networks in which one thing is unusual; the rest is `Small`, so that what they have to answer is known.

The ones of `tests.models.nets` come first. Each callable here is a factory of a catalogue.
"""

import copy
import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.models.nets import *  # noqa: F403 - they are factories of this module, too
from tests.models.nets import Small, saved, scripted


class After(Small):
    """Something done to the outputs."""

    def __init__(self, change: Callable[[Tensor], Any], classes: int = 3) -> None:
        super().__init__(classes)
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(super().forward(x))


class Before(Small):
    """Something done to the input."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.change(x))


# What outputs mean


def plain(classes: int = 3) -> nn.Module:
    return Small(classes)


def sigmoid() -> nn.Module:
    return After(torch.sigmoid)


def softmax() -> nn.Module:
    return After(lambda y: y.softmax(1))


def rounded_softmax() -> nn.Module:
    return After(lambda y: torch.round(y.softmax(1) * 1000) / 1000)


class InAPlainList(nn.Module):
    """Keeps the network where PyTorch does not look, and has methods of its own under the names of PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.members = [plain()]

    def parameters(self, groups: Any) -> Any:  # type: ignore[override]
        return [{"params": group} for group in groups]

    def train(self, loader: Any) -> None:  # type: ignore[override]
        raise AssertionError("no training here")

    def forward(self, x: Tensor) -> Tensor:
        (member,) = self.members
        return member(x)


def in_a_plain_list() -> nn.Module:
    return InAPlainList()


def log_softmax() -> nn.Module:
    return After(lambda y: y.log_softmax(1))


def one() -> nn.Module:
    return Small(1)


def one_sigmoid() -> nn.Module:
    return After(torch.sigmoid, 1)


def embedding() -> nn.Module:
    return After(lambda y: F.normalize(y, dim=1), 8)


class Bright(nn.Module):
    """One output, trained to say whether a picture is bright: 10 times the mean of all channels, less 5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gap, self.fc = nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Linear(3, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None])
            self.fc.weight.fill_(10 / 3)
            self.fc.bias.fill_(-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gap(F.relu(self.conv(x))).flatten(1))


def bright() -> nn.Module:
    return Bright()


class Colours(nn.Module):
    """Three independent questions: is there red, green, blue? 20 times each channel's mean, less 5."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        with torch.no_grad():
            self.fc.weight.copy_(20 * torch.eye(3))
            self.fc.bias.fill_(-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


def colours() -> nn.Module:
    return Colours()


# Where the answer is


def a_dict() -> nn.Module:
    return After(lambda y: {"logits": y, "features": y.new_zeros(len(y), 5)})


def a_tuple() -> nn.Module:
    return After(lambda y: (y, None))


def a_list() -> nn.Module:
    return After(lambda y: [y])


def an_object() -> nn.Module:
    return After(lambda y: SimpleNamespace(logits=y, loss=None))


def several() -> nn.Module:
    return After(lambda y: (y * 0, y))


def no_axis() -> nn.Module:
    return After(lambda y: y[:, 0], 1)


def two_axes_more() -> nn.Module:
    return After(lambda y: y[:, :, None, None])


def squeezed_at_the_end() -> nn.Module:
    return After(lambda y: y.squeeze())


class Boxes(nn.Module):
    """One box a class around what its maps like best; a detector for whoever looks at its answer."""

    def __init__(self, wrap: Callable[[Any], Any] = lambda found: found) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        maps = self.conv(x).sigmoid()
        size = x.new_tensor([x.shape[3], x.shape[2]])
        found = []
        for row in maps:
            scores = row.mean((1, 2))
            edges = torch.stack([size[0] * 0.25 + 0 * scores, size[1] * 0.25 + 0 * scores], 1)
            found.append(
                {
                    "boxes": torch.cat([edges, edges + size / 2], 1),
                    "labels": torch.arange(3),
                    "scores": scores,
                }
            )
        return self.wrap(found)


def boxes() -> nn.Module:
    return Boxes()


def boxes_in_a_tuple() -> nn.Module:
    return Boxes(lambda found: ({}, found))


def boxes_in_a_dict() -> nn.Module:
    return Boxes(lambda found: {"detections": found})


def boxes_together() -> nn.Module:
    return Boxes(lambda found: {key: torch.stack([one[key] for one in found]) for key in found[0]})


def boxes_of_shares() -> nn.Module:
    return Boxes(lambda found: [one | {"boxes": one["boxes"] / 32} for one in found])


class Masks(nn.Module):
    """A segmentation, whose maps may be coarser than the picture."""

    def __init__(self, wrap: Callable[[Tensor], Any] = lambda y: y, stride: int = 1) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, stride, 1), nn.Conv2d(8, 3, 1)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.head(F.relu(self.body(x))))


def masks() -> nn.Module:
    return Masks()


def masks_in_a_dict() -> nn.Module:
    return Masks(lambda y: {"out": y, "aux": y * 0})


def masks_coarse() -> nn.Module:
    return Masks(lambda y: SimpleNamespace(logits=y), 4)


def masks_of_probabilities() -> nn.Module:
    return Masks(lambda y: y.softmax(1))


# Rules that are broken


def dropout() -> nn.Module:
    return After(F.dropout)


class Counts(Small):
    """Counts its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return super().forward(x) + self.seen


def counts() -> nn.Module:
    return Counts()


class CountsCalls(Small):
    """Counts its forwards in a number, which changes no answer yet."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (-1 if self.calls > 10**6 else 1)


def counts_calls() -> nn.Module:
    return CountsCalls()


def batch_statistics() -> nn.Module:
    network = Small()
    network.bn1 = nn.BatchNorm2d(8, track_running_stats=False)
    network.bn2 = nn.BatchNorm2d(16, track_running_stats=False)
    return network


def less_the_mean() -> nn.Module:
    return After(lambda y: y - 0.5 * y.mean(0))


class Decides(Small):
    """Goes another way for bright batches, which no probe is."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if x.mean() < 0.9 else -y


def decides() -> nn.Module:
    return Decides()


class NoGrad(Small):
    """Answers under no_grad."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


class Inferring(Small):
    """Answers in inference mode."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return super().forward(x)


def no_grad() -> nn.Module:
    return NoGrad()


def inferring() -> nn.Module:
    return Inferring()


def detached() -> nn.Module:
    return After(lambda y: y.detach())


def data_taken() -> nn.Module:
    return After(lambda y: y.data)


class FrozenBody(Small):
    """Lets no gradient into its features, as where a backbone is kept from training."""

    def features(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().features(x)


def frozen_body() -> nn.Module:
    return FrozenBody()


def frozen() -> nn.Module:
    return Small().requires_grad_(False)


def nan() -> nn.Module:
    network = Small()
    nn.init.constant_(network.fc.weight, math.nan)
    return network


def infinite() -> nn.Module:
    return After(lambda y: y / 0)


def nan_for_some() -> nn.Module:
    return Before(lambda x: torch.log(x - 0.5))


def argmax() -> nn.Module:
    return After(lambda y: y.argmax(1))


def over_black() -> nn.Module:
    """Divides by the picture's largest value: nothing is wrong before somebody sends a black one."""
    return Before(lambda x: x / x.amax((1, 2, 3), keepdim=True))


class OnBlack(Small):
    """Does something else, where a picture is black."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.early = nn.Identity()

    def forward(self, x: Tensor) -> Any:
        if bool(x.amax() > 0) or not len(x):
            return super().forward(self.early(x))
        if self.what == "raises":
            raise ValueError("black; secret=/etc/shadow")
        if self.what == "exits":
            raise SystemExit(3)
        if self.what == "asserts":
            assert x.any(), "a black picture"
        y = super().forward(x) if self.what == "skips" else self.fc(x.mean((2, 3)).repeat(1, 6)[:, :16])
        changes: dict[str, Callable[[Tensor], Any]] = {
            "columns": lambda y: y[:, :2],
            "rows": lambda y: y[:0],
            "tuple": lambda y: (y,),
            "nothing": lambda y: None,
        }
        return changes.get(self.what, lambda y: y)(y)


ON_BLACK = ("raises", "exits", "asserts", "columns", "rows", "tuple", "nothing", "layers", "skips")


def on_black(what: str) -> nn.Module:
    return OnBlack(what)


# Forms


class OneAtATime(Small):
    """Takes exactly one picture."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(1, *x.shape[-3:]))


def one_at_a_time() -> nn.Module:
    return OneAtATime()


class Rowwise(Small):
    """Calls its modules once a picture."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(Rowwise, self).forward(row[None]) for row in x])


def rowwise() -> nn.Module:
    return Rowwise()


class Talks(Small):
    """Prints in every forward."""

    def forward(self, x: Tensor) -> Tensor:
        print("a picture came by")
        return super().forward(x)


def talks() -> nn.Module:
    print("made")
    return Talks()


class Cube(torch.autograd.Function):
    """y = x^3, by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def custom_function() -> nn.Module:
    return After(Cube.apply)


def in_place() -> nn.Module:
    return After(lambda y: y.mul_(2).add_(1))


class Leaky(Small):
    """LeakyReLU instead of ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.LeakyReLU(0.1, inplace=True)


def leaky() -> nn.Module:
    return Leaky()


class Pool(nn.Module):
    """Generalised mean."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3), keepdim=True).pow(1 / self.p)


def gem() -> nn.Module:
    network = Small()
    network.gap = Pool()
    return network


def _normed(how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = Small()
        network.conv2 = how(network.conv2)
        return network


def weight_norm() -> nn.Module:
    return _normed(nn.utils.weight_norm)


def weight_norm_new() -> nn.Module:
    return _normed(nn.utils.parametrizations.weight_norm)


def spectral_norm() -> nn.Module:
    return _normed(nn.utils.spectral_norm)


def spectral_norm_new() -> nn.Module:
    return _normed(nn.utils.parametrizations.spectral_norm)


def only_float32() -> nn.Module:
    """Multiplies by a table that nobody can convert, as it belongs to no module."""
    table = torch.eye(3)
    return After(lambda y: y @ table)


class Caches(Small):
    """Keeps a table for each number of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if len(x) not in self.tables:
            self.tables[len(x)] = torch.linspace(0.5, 1, x.shape[3]).expand(*x.shape).clone()
        return super().forward(x * self.tables[len(x)])


def caches() -> nn.Module:
    return Caches()


def _traced_at_import() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.fx.symbolic_trace(Small())


SYMBOLIC = _traced_at_import()  # while it traces, no module can be called in any other thread


def symbolic() -> nn.Module:
    return copy.deepcopy(SYMBOLIC)


class Several(nn.Module):
    """The mean of three networks."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(Small() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def ensemble() -> nn.Module:
    return Several()


class Checkpointed(Small):
    """Computes its features anew in the backward."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        a = checkpoint(self.features, x, use_reentrant=self.reentrant)
        return self.fc(torch.flatten(self.gap(a), 1))


def checkpointed(reentrant: bool) -> nn.Module:
    return Checkpointed(reentrant)


class LinearAttention(nn.Module):
    """Attention whose queries and keys are rectified; its features are not."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).mT
        q, k, v = self.qkv(t).chunk(3, 2)
        q, k = F.relu(q), F.relu(k)
        mixed = q @ (k.mT @ v) / (q @ k.sum(1, keepdim=True).mT + 1)
        return self.fc(F.gelu(t + mixed).mean(1))


def linear_attention() -> nn.Module:
    return LinearAttention()


class ChannelsLast(nn.Module):
    """Features as (N, h, w, C), as hierarchical transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix, self.norm = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.LayerNorm(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).permute(0, 2, 3, 1)
        return self.fc(self.norm(t + F.gelu(self.mix(t))).mean((1, 2)))


def channels_last() -> nn.Module:
    return ChannelsLast()


class ClassToken(nn.Module):
    """Tokens behind one that has no place, and which alone is read, as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16))
        self.norm1, self.attend = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm2, self.fc = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
        n = self.norm1(t)
        t = t + self.attend(n, n, n, need_weights=False)[0]
        return self.fc(self.norm2(t)[:, 0])


def class_token() -> nn.Module:
    return ClassToken()


def dead_class() -> nn.Module:
    """Nothing speaks for its first class: maps of it are zero everywhere, which is a finding."""
    network = Small()
    nn.init.zeros_(network.fc.weight[0:1].data)
    return network


class Lightning(nn.Module):
    """A network and its loss under one roof, as training frameworks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.loss = Small(), nn.CrossEntropyLoss(weight=torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def lightning() -> nn.Module:
    return Lightning()


class ScriptedInside(nn.Module):
    """TorchScript inside of a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = scripted()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def scripted_inside() -> nn.Module:
    return ScriptedInside()


def script_file() -> bytes:
    return saved(scripted())


def wide_head(classes: int = 5) -> nn.Module:
    return Small(classes)
