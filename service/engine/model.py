"""A network on a device: how pictures enter it, what its layers are, and what numbers prove about it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from service.engine.incremental import Incremental
from service.engine.jobs import Part
from service.engine.precision import Precision
from service.engine.tape import (
    RELU_SUFFIX,
    Activations,
    Done,
    RectifiedCapture,
    RectifierRule,
    Tape,
    install,
    recording,
    uninstall,
)
from service.engine.variants import EXACT, Variant, candidates, live_bytes
from service.errors import CatalogError
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
        # What rows are sent through, by precision; others than this one are made when first asked for.
        self.variants: dict[Precision, Variant] = {"fp32": Variant("plain", self.module)}
        self.traced: Variant | None = None  # for gradients of the default layer, where a copy agrees
        self.incremental: Incremental | None = None  # for rows that are pictures with a box changed
        self.whole: str | None = "not measured yet"  # why there is none
        self.max_batch_s = 0.25
        self.preferred: Precision = "fp32"  # where a method tolerates less and nobody asked for more
        self.facts = self._examine()
        self.row_bytes = live_bytes(self.module, self.example()[:1])
        if spec.labels and len(spec.labels) != self.facts.outputs:
            raise CatalogError(
                f"model {spec.name!r}: {len(spec.labels)} labels for {self.facts.outputs} outputs; "
                "give as many labels as the network has outputs"
            )

    def forward(self, rows: Tensor, precision: Precision = "fp32") -> Tensor:
        """Return outputs (N, K) float32 of inputs (N, 3, H, W) float32."""
        with torch.inference_mode():
            if precision not in self.variants:
                self.variants[precision] = candidates(self.module, self.example(), precision)[-1]
            return self.variants[precision](rows)

    def example(self) -> Tensor:
        """Return a seeded input (2, 3, H, W) on the device."""
        return probe_input(self.spec.transform.crop).to(self.device)

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
        (result,) = self.trace_parts(
            [(x, objective)], layers=frozenset(layers), wrt=tuple(wrt), rectifier=rectifier, partial=partial
        )
        if isinstance(result, Exception):
            raise result
        return result

    def trace_parts(
        self,
        parts: Sequence[Part],
        *,
        layers: frozenset[str],
        wrt: tuple[str, ...],
        rectifier: Rectifier | None,
        partial: bool,
    ) -> list[Trace | Exception]:
        """Trace several (x, objective) in one forward; backward t is that of every part's column t.

        Rows do not influence each other, so that the gradient of the sum is each row's own.
        """
        addresses = {*layers, *wrt} - {INPUT}
        tape = Tape(addresses, differentiable=set(wrt) - {INPUT}, repeated=self.repeated, stop=partial)
        network = self._tracing(tape, wrt, rectifier)
        differentiated = parts[0][1] is not None
        with torch.set_grad_enabled(differentiated), recording(tape):
            # A copy, so that the gradient lands on ours, and a first layer in place overwrites no caller's picture.
            leaf = network.laid_out(torch.cat([x.detach() for x, _ in parts])).requires_grad_(INPUT in wrt)
            outputs = self._recorded(network.module, leaf.clone() if leaf.requires_grad else leaf, tape, rectifier)
            slices, start = [], 0
            for x, _ in parts:
                slices.append(slice(start, start + len(x)))
                start += len(x)
            columns = [
                self._columns(objective, outputs, tape.kept, part)
                for (_, objective), part in zip(parts, slices, strict=True)
            ]
            sources = [leaf if name == INPUT else tape.kept[name] for name in wrt]
            gradients = _gradients([c for c in columns if isinstance(c, Tensor)], sources) if wrt else []
        results: list[Trace | Exception] = []
        for part, column in zip(slices, columns, strict=True):
            if isinstance(column, Exception):
                results.append(column)
                continue
            count = column.shape[1] if column is not None else 0
            results.append(
                Trace(
                    outputs=outputs[part].detach() if outputs is not None else None,
                    activations={name: a[part].detach() for name, a in tape.kept.items() if name in layers},
                    objective=column.detach() if column is not None else None,
                    gradients={
                        name: torch.stack([of[i][part] for of in gradients[:count]])
                        for i, name in enumerate(wrt)
                        if count
                    },
                )
            )
        return results

    def trace_with(self, variant: Variant) -> bool:
        """Differentiate the default layer's maps in a copy of the network from now on; return whether it agrees.

        Gradients that pass rectifiers are not: near zero the last bit of an activation decides whether one is open.
        """
        layer = self.facts.default_layer
        if variant.module is self.module or layer is None or layer.split("+")[0] in variant.folded:
            return False
        before, self.traced = self.traced, None

        def traced() -> list[Tensor]:
            found = self.trace(self.example(), layers=[layer], wrt=[layer], objective=lambda outputs, _: outputs[:, :4])
            assert found.outputs is not None
            return [found.outputs, found.activations[layer], found.gradients[layer]]

        expected = traced()
        install(variant.module)
        self.traced = variant
        if any(
            float((a - b).abs().max()) > EXACT * float(a.abs().max()) for a, b in zip(expected, traced(), strict=True)
        ):
            uninstall(variant.module)
            self.traced = before
        return self.traced is variant

    def _tracing(self, tape: Tape, wrt: tuple[str, ...], rectifier: Rectifier | None) -> Variant:
        """Return what to trace with: the copy for what it was held against the network in."""
        if self.traced is not None and tape.layers == {self.facts.default_layer} == set(wrt) and rectifier is None:
            return self.traced
        return Variant("plain", self.module)

    @staticmethod
    def _recorded(module: nn.Module, x: Tensor, tape: Tape, rectifier: Rectifier | None) -> Tensor | None:
        """Run a forward; None where the tape ended it early."""
        with ExitStack() as modes:
            if rectifier is not None:
                modes.enter_context(RectifierRule(rectifier))
            if any(path.endswith(RELU_SUFFIX) for path in tape.layers):
                modes.enter_context(RectifiedCapture(tape))
            try:
                outputs: Tensor = module(x)
            except Done:
                return None
        return outputs

    @staticmethod
    def _columns(
        objective: Objective | None, outputs: Tensor | None, kept: Mapping[str, Tensor], part: slice
    ) -> Tensor | Exception | None:
        """Return a part's objective (N, T), or the error it ended in: its own, not its neighbours'."""
        if objective is None:
            return None
        try:
            own = outputs[part] if outputs is not None else torch.empty(0)
            return objective(own, {name: a[part] for name, a in kept.items()})
        except Exception as error:
            return error

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


def _gradients(columns: Sequence[Tensor], sources: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return, for each t, the gradients of the sum of all columns t with respect to the sources."""
    result = []
    most = max((c.shape[1] for c in columns), default=0)
    for t in range(most):
        sums = [c[:, t].sum() for c in columns if c.shape[1] > t and c.requires_grad]
        found: tuple[Tensor | None, ...] = (None,) * len(sources)
        if sums:  # else nothing on the way depends on the sources
            found = torch.autograd.grad(torch.stack(sums).sum(), sources, retain_graph=t < most - 1, allow_unused=True)
        result.append([torch.zeros_like(s) if g is None else g for s, g in zip(sources, found, strict=True)])
    return result


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
