"""Every method on every kind of network: `python -m tests.matrix [NETWORK ...] [--method REGEX] [--out FOLDER]`.

At 64 pixels a side, sampling parameters at their lower bounds. A cell of the table is one of

    =   maps of the documented shape, finite, the same again, the model untouched, and the engine's maps are those of
        the plain probe, which has no thread, no cache and no batches
    ~   the same, but in float32 the maps are further apart than the tolerance, where what is rounded otherwise opens a
        gate or chooses another winner: with the network in float64, which rounds a billionth of that, they agree
    -   refused beforehand, for a reason that plain hooks on the plain network confirm
    !   a fault, which is printed below the table

Each network is held in a call of its own where several calls share the folder: the table joins what is there.
"""

import argparse
import functools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from service.contract import Explanation, Targets
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.explainers.base import Explainer, registry
from service.images import Transform
from service.models.embedded.efficientnet_lite0 import efficientnet_lite0
from service.models.identity import digest
from service.models.spec import ModelSpec
from service.pipeline import applicability
from service.process import use_threads
from service.tasks import task
from tests import oracles
from tests.parity import few, least
from tests.plain import PlainProbe

SIZE = 64
BUDGET_S = 12.0  # of one run of a method on the plain network; a layer of fewer channels is taken where it is more
TOLERANCE = 1e-4  # of the largest value
SHAPES: Mapping[str, int] = {"positive": 2, "signed": 2, "grid": 3, "picture": 3, "rgb": 3, "regions": 2}


def transformer(name: str) -> nn.Module:
    """Return one of torchvision's vision transformers for small pictures, seeded and made lively."""
    import torchvision

    with torch.random.fork_rng(devices=[]), oracles.quiet():
        torch.manual_seed(0)
        sized = {"image_size": SIZE} if name.startswith("vit") else {}
        model = torchvision.models.get_model(name, weights=None, **sized)
    return oracles.lively(model, size=SIZE)


def convolutional(name: str) -> nn.Module:
    """Return one of torchvision's convolutional networks, seeded and made lively."""
    return oracles.network(name, size=SIZE)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "efficientnet-lite0": efficientnet_lite0,
    **{
        name: functools.partial(convolutional, name)
        for name in ("resnet18", "vgg11_bn", "densenet121", "googlenet", "mobilenet_v2", "convnext_tiny")
    },
    **{name: functools.partial(transformer, name) for name in ("vit_b_16", "swin_t")},
}


@dataclass
class Cell:
    """What became of one method on one network."""

    mark: str
    layer: str = ""
    error: float = 0.0
    reason: str = ""
    seconds: float = 0.0


class Watching(TorchFunctionMode):
    """Notes what kinds of functions a forward calls."""

    def __init__(self) -> None:
        super().__init__()
        self.rectified = self.attentions = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        self.rectified += name in ("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp_min", "clamp")
        if name in ("multi_head_attention_forward", "scaled_dot_product_attention"):
            self.attentions += 1
        return func(*args, **(kwargs or {}))


def in_double(network: nn.Module) -> None:
    """Let a network compute in float64, whatever it is given; gradients at what it is given are float32."""
    network.double().register_forward_pre_hook(lambda _, given: tuple(x.double() for x in given))


class Holding:
    """One network, resident and plain."""

    def __init__(self, name: str, build: Callable[[], nn.Module], size: int = SIZE) -> None:
        self.build, self.size = build, size
        self.name, self.device = name, Device(torch.device("cpu"), max_batch_rows=16)
        self.plain, ours = build().eval().requires_grad_(False), build().eval().requires_grad_(False)
        transform = Transform(size, (size, size), oracles.IMAGENET_MEAN, oracles.IMAGENET_STD)
        spec = ModelSpec(name, lambda: ours, transform, task("classification"))
        self.model = self.device.call(lambda: Model(spec, ours, self.device.device))
        self.facts = self.model.facts
        self.x = oracles.photograph("chelsea", size)
        with torch.no_grad():
            began = time.perf_counter()
            outputs = self.plain(self.x)[0]
            self.forward_s = time.perf_counter() - began
        self.targets = [int(outputs.argmax()), int(outputs.argsort(descending=True)[1])]

    @functools.cached_property
    def doubled(self) -> "Holding":
        """The same network in float64."""
        other = Holding(self.name, self.build, self.size)
        for network in (other.plain, other.model.module):  # proofs at load are of float32
            in_double(network)
        return other

    def close(self) -> None:
        """Stop the engine."""
        self.device.close()
        if "doubled" in vars(self):
            self.doubled.close()

    def explained(self, explainer: Explainer, probe: Any, x: Tensor | None = None) -> Explanation:
        """Explain a photograph's two best classes, or the network itself."""
        image = self.x if x is None else x
        return explainer.explain(
            probe, image if explainer.needs_image else image[:0], Targets(self.facts, self.targets)
        )

    def cell(self, method: type[Explainer]) -> Cell:
        """Hold one method against all that the table says."""
        began = time.perf_counter()
        try:
            reason = applicability(self.facts)[method.name]
            cell = self._refused(reason) if reason else self._answered(method)
        except Exception as error:
            cell = Cell("!", reason=f"{type(error).__name__}: {error}")
        cell.seconds = time.perf_counter() - began
        return cell

    def _answered(self, method: type[Explainer]) -> Cell:
        explainer, layer = self._explainer(method)
        before = self._state()
        found, again, plain = self.asked(explainer)
        faults = [*self._faults(method, found)]
        if self._state() != before:
            faults.append("the model is not what it was")
        if _named(found) != _named(plain):
            return Cell("!", layer, reason="; ".join([*faults, "the plain probe's maps are of other things"]))
        error, mark = max(_apart(found, plain), _apart(again, found)), "="
        if error > TOLERANCE:
            mark = "~"
            found, again, plain = self.doubled.asked(explainer)
            exact = max(_apart(found, plain), _apart(again, found)) if _named(found) == _named(plain) else math.inf
            if not exact <= TOLERANCE:
                faults.append(f"the plain probe's maps are off by {error:.1e}, in float64 by {exact:.1e}")
        return Cell("!" if faults else mark, layer, error, "; ".join(faults))

    def asked(self, explainer: Explainer) -> tuple[Explanation, Explanation, Explanation]:
        """Return what the engine explains, what it explains again, and what the plain probe does."""
        ours = (self.explained(explainer, ModelProbe(self.model, self.device, Run())) for _ in range(2))
        return *ours, self.explained(explainer, PlainProbe(self.plain, self.facts))

    def _faults(self, method: type[Explainer], found: Explanation) -> list[str]:
        said = []
        if not found.maps:
            said.append("no maps")
        elif not any(bool(m.array.any()) for m in found.maps):
            said.append("all maps are zero, so that nothing is compared")
        if method.takes_targets and [m.target for m in found.maps if m.target is None]:
            said.append("a map of no target")
        for m in found.maps:
            if not bool(torch.isfinite(m.array).all()):
                said.append("a number is none")
            if m.array.ndim != SHAPES[m.kind] or m.array.dtype != torch.float32:
                said.append(f"{m.kind} maps of shape {tuple(m.array.shape)}, {m.array.dtype}")
            if m.kind == "positive" and float(m.array.min()) < 0:
                said.append("a positive map is negative")
            if m.kind == "rgb" and not 0 <= float(m.array.min()) <= float(m.array.max()) <= 1:
                said.append("colours beyond 0..1")
        if method.needs_image and (found.outputs is None or found.outputs.shape != (self.facts.outputs,)):
            said.append("no outputs of the picture")
        return [*dict.fromkeys(said)]

    def _state(self) -> Any:
        network = self.model.module
        hooks = [
            (n, m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for n, m in network.named_modules()
        ]
        return digest(network), hooks, [(p.requires_grad, p.grad is None) for p in network.parameters()]

    def _explainer(self, method: type[Explainer]) -> tuple[Explainer, str]:
        """Return a method that does as little as it may, at its default layer where that does not take too long."""
        params = few(method)
        if "top_k" in method.model_fields:  # the strongest one: a channel that is named may be dead on this picture
            params = {name: value for name, value in params.items() if name != "channels"} | {"top_k": 1}
        default = method(**params)
        layered = {"layer", "layers"} & {*method.model_fields}
        if not layered or default.passes(self.facts, 2) * self.forward_s <= BUDGET_S:
            return default, ""
        # No later than the default: the patches of a transformer's last tokens may tell nothing.
        infos = [*self.facts.layers.values()]
        last = max(i for i, info in enumerate(infos) if info.path == self.facts.default_layer)
        narrow = [
            info for info in infos[: last + 1] if info.spatial and info.gradient and not {"#", "+"} & {*info.path}
        ]
        params |= {name: max(least(method.model_fields[name])) for name in {"samples"} & {*params}}
        path = min(reversed(narrow), key=lambda info: max(info.shape[0], 48)).path
        named = {"layer": path, "layers": (path,)}
        return method(**params, **{name: named[name] for name in layered}), path

    # Reasons

    def _refused(self, reason: str) -> Cell:
        true = [words for words, truth in _REASONS.items() if re.search(words, reason) and truth(self)]
        remedy = re.search(r"[uU]se '([a-z0-9+-]+)'", reason)
        works = remedy is not None and applicability(self.facts).get(remedy[1], "unknown") is None
        if not true or not works:
            return Cell("!", reason=f"{'an untrue reason' if not true else 'no remedy'}: {reason}")
        return Cell("-", reason=reason)

    @functools.cached_property
    def watched(self) -> Watching:
        """What functions the plain network calls."""
        with torch.enable_grad(), Watching() as watching:
            self.plain(self.x.clone().requires_grad_())
        return watching

    @functools.cached_property
    def averages(self) -> bool:
        """Whether outputs are a linear map of some module's averages over places: its slope is the same at each."""
        met: list[Tensor] = []

        def keep(_: nn.Module, __: object, output: object) -> object:
            if not isinstance(output, Tensor) or output.ndim not in (3, 4) or not output.is_floating_point():
                return None
            met.append(output if output.requires_grad else output.detach().requires_grad_())
            return met[-1].clone()

        network = oracles.plain_copy(self.plain)
        hooks = [m.register_forward_hook(keep) for p, m in network.named_modules() if p]
        pictures = torch.cat([self.x, self.x.flip(3) * 0.5])
        with torch.enable_grad():
            table = network(pictures)
            slopes = torch.autograd.grad(table[:, self.targets[0]].sum(), met, allow_unused=True)
        for hook in hooks:
            hook.remove()
        for a, g in zip(met, slopes, strict=True):
            if g is None or a[0].numel() == max(a[0].shape):  # one place is no map
                continue
            axes = (0, 2, 3) if a.ndim == 4 else (0, 1)
            for spread in (axes, (0, 1, 2)) if a.ndim == 4 else (axes,):
                w = g.amax(spread, keepdim=True)
                if float(w.abs().max()) > 0 and bool(((g - w).abs() <= 1e-4 * w.abs().max()).all()):
                    return True
        return False


_REASONS: Mapping[str, Callable[[Holding], bool]] = {
    "needs a regression model": lambda one: len(one.plain(one.x)[0]) > 1,
    "needs global average pooling": lambda one: not one.averages,
    "has no ReLU": lambda one: one.watched.rectified == 0,
    "reads attention of all tokens": lambda one: one.watched.attentions == 0 or "swin" in one.name,
}


def _named(found: Explanation) -> list[tuple[Any, ...]]:
    """Return what an explanation's maps are of."""
    return [(m.target, m.layer, m.channel, m.kind) for m in found.maps]


def _apart(found: Explanation, expected: Explanation) -> float:
    """Return the largest difference of two explanations' maps, in units of the expected one's largest value."""
    off = 0.0
    for a, b in zip(found.maps, expected.maps, strict=True):
        if a.array.shape != b.array.shape:
            return float("inf")
        scale = float(b.array.abs().max()) or 1.0
        off = max(off, float((a.array.double() - b.array.double()).abs().max()) / scale)
    return off


def table(found: Mapping[str, Mapping[str, Cell]]) -> str:
    """Return the table of all networks, and what is to be said of its cells."""
    names = [name for name in NETWORKS if name in found]
    width = max(map(len, registry()))
    lines = [" " * width + "".join(f" {name[:9]:>10}" for name in names)]
    for method in registry():
        cells = [found[name].get(method) for name in names]
        shown = ["" if c is None else c.mark + (f" {c.error:.0e}" if c.mark in "=~" else "") for c in cells]
        lines.append(f"{method:<{width}}" + "".join(f" {one:>10}" for one in shown))
    said: dict[str, list[str]] = {}
    for name in names:
        for method, cell in found[name].items():
            if cell.mark == "!":
                said.setdefault(f"! {cell.reason}", []).append(f"{method} on {name}")
            elif cell.mark == "-":
                reason = cell.reason.replace(name, "NETWORK").replace(method, "METHOD")
                said.setdefault(f"- {reason}", []).append(f"{method} on {name}")
    lines += ["", *(f"{reason}\n    {', '.join(where)}" for reason, where in sorted(said.items()))]
    counts = {mark: sum(c.mark == mark for cells in found.values() for c in cells.values()) for mark in "=~-!"}
    return "\n".join([*lines, "", ", ".join(f"{count} {mark}" for mark, count in counts.items())])


def main(arguments: Sequence[str] | None = None) -> int:
    """Hold the networks asked for; print the table of all that is known; return 1 where there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--method", default="", help="a regular expression; default: all")
    parser.add_argument("--out", type=Path, help="folder of what is found, a file for each network")
    parser.add_argument("--missing", action="store_true", help="only what the folder does not have yet")
    given = parser.parse_args(arguments)
    if unknown := {*given.networks} - {*NETWORKS}:
        parser.error(f"no such network: {', '.join(unknown)}")
    use_threads(1)
    found: dict[str, dict[str, Cell]] = {}
    for name in NETWORKS:
        file = given.out / f"{name}.json" if given.out else None
        if file is not None and file.exists():
            found[name] = {method: Cell(**cell) for method, cell in json.loads(file.read_text()).items()}
        if given.networks and name not in given.networks:
            continue
        known = found.get(name, {}) if given.missing else {}
        holding = Holding(name, NETWORKS[name])
        try:
            for method in registry().values():
                if re.search(given.method, method.name) and method.name not in known:
                    cell = found.setdefault(name, {})[method.name] = holding.cell(method)
                    said = f"{cell.mark} {cell.error:.1e} {cell.seconds:5.1f} s {cell.layer} {cell.reason}"
                    print(f"{name} {method.name} {said}", file=sys.stderr, flush=True)
                    if file is not None:
                        given.out.mkdir(parents=True, exist_ok=True)
                        file.write_text(json.dumps({m: asdict(c) for m, c in found[name].items()}, indent=1))
        finally:
            holding.close()
    print(table(found))
    return int(any(cell.mark == "!" for cells in found.values() for cell in cells.values()))


if __name__ == "__main__":
    sys.exit(main())
