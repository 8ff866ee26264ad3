"""What is true of a network, found on the library's own network by plain hooks and autograd.

A method's `oracle` stands in its own test and speaks of maps (1, C, h, w) at a module. Here a network's layer is laid
out so for it, whatever the layer's layout is; and the few oracles that ask for more than that, such as which linear
layer is the head or that a network can be traced, have a stand-in that asks for nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests import oracles
from tests.explainers.cam.test_grad_cam import oracle as grad_cam
from tests.oracles import Case
from tests.zoo.networks import Logits

TAP = "tap"
_RECTIFIERS = ("ReluBackward", "HardtanhBackward", "ClampBackward", "ClampMinBackward")


@dataclass(frozen=True)
class Place:
    """Where a layer answers, and how it holds its maps."""

    path: str  # of the module
    call: int = 1
    layout: str = (
        "chw"  # axes, and how many tokens before and behind the others have no place: `tokens+1`, `tokens+1+4`
    )
    grid: tuple[int, int] = (1, 1)
    rectified: bool = False  # whether what a ReLU makes of it is meant

    @staticmethod
    def of(address: str, layout: str, shape: tuple[int, ...]) -> Place:
        """Return the place of an address `path`, `path#2` or `path+relu`, whose maps have the shape (C, h, w)."""
        path, _, function = address.partition("+")
        if function not in ("", "relu"):
            raise ValueError(f"{address}: what {function} makes of a layer has no oracle here")
        path, _, call = path.partition("#")
        return Place(path, int(call or 1), layout, (shape[1], shape[2]), bool(function))

    def maps(self, output: Tensor) -> Tensor:
        """Return an output as (N, C, h, w)."""
        axes, first = self._axes()
        h, w = self.grid
        if axes == "hwc":
            return output.permute(0, 3, 1, 2)
        if axes == "tokens":
            return output[:, first : first + h * w].transpose(1, 2).reshape(len(output), -1, h, w)
        return output if axes == "chw" else output.reshape(*output.shape[:2], h, w)

    def answer(self, maps: Tensor, output: Tensor) -> Tensor:
        """Return maps as the layer answers with them, beside what of its output has no place."""
        axes, first = self._axes()
        if axes == "hwc":
            return maps.permute(0, 2, 3, 1)
        if axes == "tokens":
            tokens = maps.flatten(2).transpose(1, 2)
            return torch.cat([output[:, :first], tokens, output[:, first + tokens.shape[1] :]], 1)
        return maps if axes == "chw" else maps.flatten(2)

    def _axes(self) -> tuple[str, int]:
        axes, *beside = self.layout.split("+")
        return axes, int(beside[0]) if beside else 0


class Tapped(nn.Module):
    """A library's network that answers with a table, one of whose layers shows its maps (N, C, h, w) at `tap`."""

    def __init__(
        self, network: nn.Module, place: Place | None = None, like: Tensor | None = None, *, turned: bool = False
    ) -> None:
        """Take a network.

        Args:
            network: it answers with a table, or with an object that holds `logits`.
            place: the layer; None: none.
            like: (E,) where the network embeds pictures: the answer is the cosine to it.
            turned: whether it takes blue first, and is given red first.
        """
        super().__init__()
        self.network, self.place, self.like, self.turned = Logits(network), place, like, turned
        self.tap = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        with ExitStack() as hooks:
            if self.place is not None:
                module = self.network.network.get_submodule(self.place.path)
                hooks.callback(module.register_forward_hook(self._through(self.place)).remove)
            table = self.network(x.flip(1) if self.turned else x)
        if self.like is not None:
            return functional.cosine_similarity(table, self.like[None], dim=1)[:, None]
        return table

    def read(self, x: Tensor, tokens: int) -> Tensor:
        """Return how much the outputs take of each token (T,) where tokens are last seen: their gradient there."""
        met: list[Tensor] = []

        def keep(_: nn.Module, __: object, output: object) -> object:
            if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[1] != tokens:
                return None
            met.append(output.detach().requires_grad_())
            return met[-1].clone()

        hooks = [module.register_forward_hook(keep) for module in self.network.network.modules()]
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self(x)[0].square().sum(), met[-1])
        for hook in hooks:
            hook.remove()
        return g[0].abs().amax(-1)

    def _through(self, place: Place) -> Callable[..., object]:
        met: list[int] = []

        def hook(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> object:
            met.append(1)
            if len(met) != place.call:
                return None
            first = output if isinstance(output, Tensor) else output[0]
            shown = place.answer(self.tap(place.maps(first)), first)
            return shown if isinstance(output, Tensor) else (shown, *output[1:])

        return hook


def cam(case: Case) -> Tensor:
    """CAM without looking for the head: M = sum_k w_k A_k, and w_k is h * w times the logit's slope at each place.

    Behind the layer all is linear, so that the slope is the weight wherever a ReLU in between is open; where it is
    closed the rectified map is zero.
    """
    a, g = oracles.maps_and_gradients(case.network, case.x, case.layer, case.target)
    return a.shape[1] * a.shape[2] * (a * g).sum(0)


def deconvnet(case: Case) -> Tensor:
    """The kept activation sent back by autograd, whose nodes of rectifiers pass on the positive part of the signal."""
    channel = case.params["channels"][0]
    duplicate, inner = oracles.isolated(case.network, case.layer)
    met: list[Tensor] = []
    inner.register_forward_hook(lambda _module, _inputs, output: met.append(output))
    with torch.enable_grad():
        leaf = case.x.clone().requires_grad_()
        duplicate(leaf)
    signal = torch.zeros_like(met[-1])
    plane = met[-1][0, channel].detach()
    row, column = divmod(int(plane.flatten().argmax()), plane.shape[1])
    signal[0, channel, row, column] = plane[row, column]
    for node in nodes(met[-1].grad_fn):
        if rectifies(node):
            node.register_hook(lambda _, signals: (signals[0].clamp(min=0),))
    return torch.autograd.grad(met[-1], leaf, signal)[0][0]


def guided_backprop(case: Case) -> Tensor:
    """The logit sent back by autograd, whose nodes of rectifiers pass on what is positive where they were open."""
    network = oracles.plain_copy(case.network)
    with torch.enable_grad():
        leaf = case.x.clone().requires_grad_()
        y = oracles.score_of(network, leaf, case.target, case.params.get("score", "logit")).sum()
    for node in nodes(y.grad_fn):
        if rectifies(node):
            node.register_hook(lambda signals, _: (signals[0].clamp(min=0), *signals[1:]))
    return torch.autograd.grad(y, leaf)[0][0]


def guided_grad_cam(case: Case) -> Tensor:
    """The same times the enlarged Grad-CAM."""
    size = (case.x.shape[2], case.x.shape[3])
    return guided_backprop(case) * oracles.enlarge(grad_cam(case), size)


def attentions(tapped: Tapped, x: Tensor) -> list[Tensor]:
    """Return each block's attention as the library itself hands it out, (heads, ..., T, T) of one picture.

    transformers and `nn.MultiheadAttention` do when they are asked; timm's modules show it to the dropout behind it.
    """
    network = copy.deepcopy(tapped.network.network)
    x = x.flip(1) if tapped.turned else x
    if hasattr(network, "set_attn_implementation"):
        network.set_attn_implementation("eager")
        found = getattr(network(x, output_attentions=True), "attentions", None) or ()
        return [a.detach()[0] for a in found]
    met: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(
                lambda _m, given, named: (given, named | {"need_weights": True, "average_attn_weights": False}),
                with_kwargs=True,
            )
            module.register_forward_hook(lambda _m, _given, made: met.append(made[1].detach()[0]))
        elif isinstance(getattr(module, "fused_attn", None), bool) and hasattr(module, "attn_drop"):
            module.fused_attn = False
            module.attn_drop.register_forward_hook(lambda _m, _given, made: met.append(made.detach()[0]))
    with torch.no_grad():
        network(x)
    return met


def over_all_tokens(found: list[Tensor]) -> bool:
    """Whether all blocks let all of the same tokens attend to all."""
    shapes = {tuple(a.shape[1:]) for a in found}
    return len(shapes) == 1 and all(len(shape) == 2 and 1 < shape[0] == shape[1] for shape in shapes)


def _row(case: Case, r: Tensor) -> Tensor:
    """Return the mean row of the tokens that the outputs are made of, of (T, T), as a map."""
    place = case.network.place
    assert place is not None
    h, w = place.grid
    taken = case.network.read(case.x, len(r)) > 0
    return r[taken].mean(0)[len(r) - h * w :].reshape(h, w)


def attention(case: Case) -> Tensor:
    """The last block's attention, its heads averaged."""
    return _row(case, attentions(case.network, case.x)[-1].mean(0))


def attention_rollout(case: Case) -> Tensor:
    """The product over blocks of (A + 1) with rows that add up to one, heads averaged."""
    found = attentions(case.network, case.x)
    r = torch.eye(found[0].shape[-1])
    for a in found:
        mixed = a.mean(0) + torch.eye(len(r))
        r = mixed / mixed.sum(1, keepdim=True) @ r
    return _row(case, r)


OWN: Mapping[str, Callable[[Case], Tensor]] = {
    "attention": attention,
    "attention-rollout": attention_rollout,
    "cam": cam,
    "deconvnet": deconvnet,
    "guided-backprop": guided_backprop,
    "guided-grad-cam": guided_grad_cam,
    "ram": cam,
}


def nodes(start: object) -> Iterator[torch.autograd.graph.Node]:
    """Yield all nodes of a graph, each once."""
    met, waiting = set(), [start]
    while waiting:
        node = waiting.pop()
        if node is None or node in met:
            continue
        met.add(node)
        yield node
        waiting += [before for before, _ in node.next_functions]


def rectifies(node: torch.autograd.graph.Node) -> bool:
    """Whether a node is a ReLU's, or that of a clamp at zero."""
    name = node.name().rpartition("::")[2]
    if not name.startswith(_RECTIFIERS):
        return False
    low = getattr(node, "_saved_min_val", getattr(node, "_saved_min", 0))
    return low == 0


def rectified_maps(network: nn.Module, x: Tensor) -> int:
    """Return how many ReLUs of a forward see four axes: maps, or the heads of an attention."""
    with torch.enable_grad():
        outputs = network(x.clone().requires_grad_())
    count = 0
    for node in nodes(outputs.grad_fn):
        saved = getattr(node, "_saved_result", getattr(node, "_saved_self", None))
        four = isinstance(saved, Tensor) and saved.ndim == 4 and saved.shape[2] * saved.shape[3] > 1
        count += rectifies(node) and four
    return count


def averages(network: nn.Module, x: Tensor, places: Mapping[str, Place], target: int) -> list[str]:
    """Return the layers of whose averages the answer is a linear map.

    Its slope there is one for all places and inputs (or zero where a ReLU follows that is closed), and what the slope
    does not account for is the same for all inputs.
    """
    pictures = torch.cat([x, x.flip(3) * 0.5, x.roll((7, 11), (2, 3)) + 0.3])
    met: dict[tuple[str, int], Tensor] = {}
    duplicate = oracles.plain_copy(network)
    counts: dict[str, int] = {}
    hooks = []
    for path in {place.path for place in places.values()}:

        def keep(_: nn.Module, __: object, output: object, path: str = path) -> object:
            counts[path] = counts.get(path, 0) + 1
            first = output if isinstance(output, Tensor) else output[0]
            if not first.requires_grad:
                first = first.detach().requires_grad_()
            met[path, counts[path]] = first
            return first.clone() if isinstance(output, Tensor) else (first.clone(), *output[1:])

        hooks.append(duplicate.network.network.get_submodule(path).register_forward_hook(keep))
    with torch.enable_grad():
        table = duplicate(pictures)
        held = {name: met[place.path, place.call] for name, place in places.items() if (place.path, place.call) in met}
        slopes = torch.autograd.grad(table[:, target].sum(), list(held.values()), allow_unused=True)
    found = []
    for (name, a), g in zip(held.items(), slopes, strict=True):
        if g is None:
            continue
        slope = places[name].maps(g)
        w = slope.abs().amax((0, 2, 3))  # (C,)
        signed = torch.where(slope.amax((0, 2, 3)) >= w, w, -w)[None, :, None, None]
        near = (slope - signed).abs() <= 1e-4 * w.max()
        open_ = places[name].maps(a) > 0
        if not float(w.max()) > 0 or not bool((near | (~open_ & (slope == 0))).all()):
            continue
        rest = table[:, target].detach() - (slope * places[name].maps(a)).sum((1, 2, 3)).detach()
        if float(rest.max() - rest.min()) <= 1e-3 * float(table[:, target].detach().abs().max()):
            found.append(name)
    return found


def alive(network: Tapped, x: Tensor, tries: int = 8) -> int | None:
    """Return the first channel of the tapped layer that a blank picture moves: ascent has a direction there.

    A direction is there where the gradient has a length; None where no channel of those tried has one.
    """
    duplicate, inner = oracles.isolated(network, TAP)
    met: list[Tensor] = []
    inner.register_forward_hook(lambda _module, _inputs, output: met.append(output))
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        duplicate(leaf)
        for channel in range(min(tries, met[-1].shape[1])):
            (g,) = torch.autograd.grad(met[-1][0, channel].mean(), leaf, retain_graph=True)
            length = float(g.square().mean().sqrt())
            if length > 0 and math.isfinite(length):
                return channel
    return None


def weighted(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a library's network with other weights, evaluating; all of them have to fit."""
    duplicate = copy.deepcopy(network)
    duplicate.load_state_dict(state, strict=True)  # itself: beside the values it says which version they are of
    return duplicate.eval().requires_grad_(False)
