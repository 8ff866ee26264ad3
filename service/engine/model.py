"""A network on a device: how pictures enter it, what its layers are, and what numbers prove about it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from service.engine.device import Device, RowsJob, Run
from service.engine.tape import (
    RELU_SUFFIX,
    Activations,
    Done,
    RectifiedCapture,
    RectifierRule,
    Tape,
    install,
    recording,
)
from service.errors import CatalogError, InvalidParameter
from service.explainers.base import INPUT, Facts, Head, LayerInfo, Objective, Rectifier, Task, Trace
from service.images import Transform

# Largest relative error at which sum(map)/(h*w) + bias counts as equal to the output. Floating-point noise stays
# below 1e-5; a head of another structure misses by far more than 1e-3.
HEAD_TOLERANCE = 1e-4
_POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.MaxPool2d)


@dataclass(frozen=True)
class ModelSpec:
    """How to make a model: nothing is loaded before `build` is called."""

    name: str
    build: Callable[[], nn.Module]  # with its weights in place
    transform: Transform
    task: Task = "classification"
    labels: Sequence[str] = ()
    source: str = ""  # where network and weights come from, for people


def digest(module: nn.Module) -> str:
    """Return `sha256:...` over names, types, shapes and values of all parameters and buffers."""
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        array = value.detach().cpu().contiguous()
        sha.update(f"{name} {array.dtype} {tuple(array.shape)};".encode())
        sha.update(array.reshape(-1).view(torch.uint8).numpy() if array.numel() else b"")
    return f"sha256:{sha.hexdigest()}"


def probe_input(size: tuple[int, int]) -> Tensor:
    """Return a seeded input (2, 3, H, W) with structure at all scales, so that every layer has something to answer."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(2, 3, *size)
    for cells in (4, 16, 64):
        coarse = torch.randn(2, 3, cells, cells, generator=generator)
        x += nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return x


class Model:
    """A network resident on a device. Everything in here runs on the device thread, or is read only."""

    def __init__(self, spec: ModelSpec, module: nn.Module, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.version = digest(module)
        # No parameter ever needs a gradient: what is differentiated are activations and inputs.
        self.module = module.eval().requires_grad_(False).to(device)
        self.modules = dict(self.module.named_modules())
        install(self.module)
        self.repeated: frozenset[str] = frozenset()
        self.facts = self._examine()
        if spec.labels and len(spec.labels) != self.facts.outputs:
            raise CatalogError(
                f"model {spec.name!r}: {len(spec.labels)} labels for {self.facts.outputs} outputs; "
                "give as many labels as the network has outputs"
            )

    def forward(self, rows: Tensor) -> Tensor:
        """Return outputs (N, K) of inputs (N, 3, H, W)."""
        with torch.inference_mode():
            outputs: Tensor = self.module(rows)
            return outputs

    def trace(
        self,
        x: Tensor,
        *,
        layers: Sequence[str] = (),
        wrt: Sequence[str] = (),
        objective: Objective | None = None,
        rectifier: Rectifier | None = None,
        partial: bool = False,
    ) -> Trace:
        """Run one forward and its backwards; see `Probe.trace`."""
        wanted = {*layers, *wrt} - {INPUT}
        tape = Tape(wanted, differentiable=set(wrt) - {INPUT}, repeated=self.repeated, stop=partial)
        outputs: Tensor | None = None
        with torch.set_grad_enabled(objective is not None), recording(tape):
            # A copy, so that the gradient lands on ours, and a first layer in place overwrites no caller's picture.
            leaf = x.detach().clone().requires_grad_(INPUT in wrt)
            entering = leaf.clone() if leaf.requires_grad else leaf
            with ExitStack() as modes:
                if rectifier is not None:
                    modes.enter_context(RectifierRule(rectifier))
                if any(path.endswith(RELU_SUFFIX) for path in wanted):
                    modes.enter_context(RectifiedCapture(tape))
                try:
                    outputs = self.module(entering)
                except Done:
                    outputs = None
            columns = None
            gradients: dict[str, list[Tensor]] = {name: [] for name in wrt}
            if objective is not None:
                columns = objective(outputs if outputs is not None else x.new_empty(0), tape.kept)  # (N, T)
                sources = [leaf if name == INPUT else tape.kept[name] for name in wrt]
                for t in range(columns.shape[1] if sources else 0):
                    last = t == columns.shape[1] - 1
                    if not columns.requires_grad:  # nothing on the way depends on the sources
                        found: tuple[Tensor | None, ...] = (None,) * len(sources)
                    else:
                        found = torch.autograd.grad(
                            columns[:, t].sum(), sources, retain_graph=not last, allow_unused=True
                        )
                    for name, source, gradient in zip(wrt, sources, found, strict=True):
                        gradients[name].append(torch.zeros_like(source) if gradient is None else gradient)
        return Trace(
            outputs=outputs.detach() if outputs is not None else None,
            activations={name: tape.kept[name].detach() for name in layers if name in tape.kept},
            objective=columns.detach() if columns is not None else None,
            gradients={name: torch.stack(columns_of) for name, columns_of in gradients.items() if columns_of},
        )

    # What a few forward passes at load tell

    def _examine(self) -> Facts:
        size = self.spec.transform.crop
        x = probe_input(size).to(self.device)
        seen = self._watch(x)
        if seen.outputs.ndim != 2:
            raise CatalogError(
                f"model {self.spec.name!r} returned shape {tuple(seen.outputs.shape)} for a batch of two; "
                "a network has to return one (N, outputs) tensor"
            )
        self.repeated = frozenset(path for path, count in seen.calls.items() if count > 1)
        layers = {info.path: info for info in seen.layers}
        for path, axes in self._spatial(seen, size).items():
            layers[path] = replace(layers[path], spatial=axes)
        default = self._default_layer(seen, layers)
        facts = Facts(
            name=self.spec.name,
            task=self.spec.task,
            outputs=seen.outputs.shape[1],
            input_size=size,
            mean=self.spec.transform.mean,
            std=self.spec.transform.std,
            layers=layers,
            default_layer=default,
            head=None,
            rectifiers=seen.rectifiers,
            max_pools=seen.max_pools,
            other_activations=tuple(sorted(seen.smooth)),
        )
        return self._with_head(facts, x, seen.outputs)

    def _watch(self, x: Tensor) -> "Seen":
        seen = Seen()
        watch = Activations(len(x))
        with torch.inference_mode(), recording(Tape(observe=seen.observe)), watch:
            seen.outputs = self.module(x)
        if not isinstance(seen.outputs, Tensor):
            raise CatalogError(
                f"model {self.spec.name!r} returned a {type(seen.outputs).__name__}; it has to return one tensor"
            )
        seen.rectifiers, seen.max_pools, seen.smooth = watch.rectifiers, watch.max_pools, watch.smooth
        followed = dict(reversed(watch.calls))  # the first call on each tensor
        repeated = Counter(path for path, *_ in seen.outputs_of)
        numbers: Counter[str] = Counter()
        for path, module, output in seen.outputs_of:
            numbers[path] += 1
            seen.ids.append(id(output))
            weight = getattr(module, "weight", None)
            is_convolution = isinstance(module, nn.Conv2d) and isinstance(weight, Tensor)
            seen.layers.append(
                LayerInfo(
                    path=f"{path}#{numbers[path]}" if repeated[path] > 1 else path,
                    type=type(module).__name__,
                    shape=tuple(output.shape[1:]),
                    spatial=False,
                    followed_by=followed.get(id(output)),
                    kernel=tuple(weight.shape) if is_convolution and weight is not None else None,
                )
            )
        seen.calls = repeated
        seen.outputs_of.clear()
        return seen

    def _spatial(self, seen: "Seen", size: tuple[int, int]) -> dict[str, bool]:
        """Find which outputs are (C, h, w): their last two axes, and not the first, follow the input's size."""
        other = size[0], size[1] + 64
        try:
            wider = {info.path: info.shape for info in self._watch(probe_input(other).to(self.device)).layers}
        except Exception:  # the network takes one size only: a square map of a convolution is what it looks like
            wider = {}
        result = {}
        for info in seen.layers:
            shape = info.shape
            if len(shape) != 3 or shape[1] * shape[2] < 2:
                result[info.path] = False
            elif info.path in wider and len(wider[info.path]) == 3:
                c, _, w = wider[info.path]
                grows = w > shape[2]
                pooled = wider[info.path] == shape  # adaptive pooling: fixed, but still maps
                result[info.path] = c == shape[0] and (grows or (pooled and shape[1] == shape[2]))
            else:
                kinds = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, *_POOLS)
                result[info.path] = shape[1] == shape[2] and isinstance(self._module(info), kinds)
        return result

    def _default_layer(self, seen: "Seen", layers: Mapping[str, LayerInfo]) -> str | None:
        """Return the last spatial feature map before pooling; None where tokens come after it."""
        met = list(zip(seen.layers, seen.ids, strict=True))
        spread = [(info, key) for info, key in met if len(info.shape) >= 2 and not _pointlike(info.shape)]
        if not spread or not layers[spread[-1][0].path].spatial:
            return None
        pooled = {key for info, key in met if isinstance(self._module(info), _POOLS)}
        maps = [(info, key) for info, key in spread if layers[info.path].spatial and key not in pooled]
        if not maps:
            return None
        # Modules answer from the inside out: the last name of a tensor is its outermost, `layer4` and not `layer4.1`.
        return [info.path for info, key in met if key == maps[-1][1]][-1]

    def _module(self, info: LayerInfo) -> nn.Module:
        module: nn.Module = self.modules[info.path.split("#")[0]]
        return module

    def _with_head(self, facts: Facts, x: Tensor, outputs: Tensor) -> Facts:
        """Prove `output == weight @ mean(A) + bias` on one of the last feature maps, as it is or rectified."""
        linear = [module for module in self.modules.values() if isinstance(module, nn.Linear)][-1:]
        spatial = {info.path: info for info in facts.layers.values() if info.spatial}
        kept = self.trace(x, layers=list(spatial)[-24:]).activations
        k = facts.outputs
        none = torch.zeros(k, device=self.device)
        for path, maps in reversed(list(kept.items())):
            heads: list[tuple[Tensor, Tensor]] = [
                (module.weight, none if module.bias is None else module.bias)
                for module in linear
                if module.weight.shape == (k, maps.shape[1])
            ]
            if maps.shape[1] == k and k > 1:
                heads.append((torch.eye(k, device=self.device), none))  # pooling comes last: a map is its class's own
            addresses = [(path, maps)]
            if spatial[path].followed_by == "relu":
                addresses.append((path + RELU_SUFFIX, maps.relu()))
            for address, a in addresses:
                for weight, bias in heads:
                    evidence = outputs - bias  # nothing is proved by outputs that say nothing, as of a head of zeros
                    scale = evidence.abs().max()
                    residual = float((a.mean((2, 3)) @ weight.T - evidence).abs().max() / scale.clamp(min=1e-12))
                    if scale > 1e-6 * outputs.abs().max().clamp(min=1e-6) and residual <= HEAD_TOLERANCE:
                        return self._adopt(facts, Head(address, weight, bias, residual), kept, x)
        return facts

    def _adopt(self, facts: Facts, head: Head, kept: Mapping[str, Tensor], x: Tensor) -> Facts:
        """Make the head's layer the default one; add its `+relu` address, where that is what was proved."""
        default, layers = facts.default_layer, dict(facts.layers)
        if head.layer.endswith(RELU_SUFFIX):
            plain = layers[head.layer.removesuffix(RELU_SUFFIX)]
            layers[head.layer] = replace(plain, path=head.layer, type="relu", followed_by=None, kernel=None)
            captured = self.trace(x, layers=[head.layer]).activations.get(head.layer)
            if captured is None or not torch.equal(captured, kept[plain.path].relu()):
                return facts  # the ReLU that follows is a module's, or another one: it cannot be addressed here
        elif default is not None and default in kept and torch.equal(kept[default], kept[head.layer]):
            head = replace(head, layer=default)  # two names of one tensor
        return replace(facts, layers=layers, default_layer=head.layer, head=head)


@dataclass
class Seen:
    """What one watched forward showed."""

    layers: list[LayerInfo] = field(default_factory=list)
    outputs_of: list[tuple[str, nn.Module, Tensor]] = field(default_factory=list)
    outputs: Tensor = field(default_factory=lambda: torch.empty(0))
    calls: Counter[str] = field(default_factory=Counter)
    ids: list[int] = field(default_factory=list)  # of the layers' output tensors
    rectifiers: int = 0
    max_pools: int = 0
    smooth: Counter[str] = field(default_factory=Counter)

    def observe(self, path: str, module: nn.Module, output: Tensor) -> None:
        """Take note of a module's output; holding it keeps its `id` its own."""
        self.outputs_of.append((path, module, output))


def _pointlike(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[1] * shape[2] == 1


class ModelProbe:
    """A `Probe` of one model for one request: it sends all work to the device thread."""

    def __init__(self, model: Model, device: Device, run: Run) -> None:
        self.facts = model.facts
        self.device = model.device
        self._model, self._scheduler, self._run = model, device, run

    def scores(self, count: int, rows: Callable[[int, int], Tensor]) -> Tensor:
        """See `Probe.scores`."""
        shape = (3, *self.facts.input_size)
        return self._scheduler.submit(RowsJob(self._run, self._model, shape, count, rows))

    def trace(
        self,
        x: Tensor,
        *,
        layers: Sequence[str] = (),
        wrt: Sequence[str] = (),
        objective: Objective | None = None,
        rectifier: Rectifier | None = None,
        partial: bool = False,
    ) -> Trace:
        """See `Probe.trace`."""
        return self._scheduler.call(
            lambda: self._model.trace(
                x, layers=layers, wrt=wrt, objective=objective, rectifier=rectifier, partial=partial
            ),
            self._run,
            rows=len(x),
        )

    def weight(self, layer: str) -> Tensor:
        """See `Probe.weight`."""
        module = self._model.modules.get(layer)
        if not isinstance(module, nn.Conv2d):
            raise InvalidParameter.at("/params/layer", f"layer {layer!r} is not a convolution")
        return module.weight.detach()
