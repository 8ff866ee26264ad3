"""What a few forward passes at load tell of a network: its layers, and what numbers prove about its head."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from service.contract import Facts, Head, LayerInfo, Part, Tracing
from service.engine.network.activations import Activations
from service.engine.network.capture import Tape, recording
from service.engine.network.trace import trace_parts
from service.engine.network.variants import Variant
from service.errors import CatalogError
from service.models.spec import ModelSpec

# Largest relative error at which sum(map)/(h*w) + bias counts as equal to the output. Floating-point noise stays
# below 1e-5; a head of another structure misses by far more than 1e-3.
HEAD_TOLERANCE = 1e-4
_POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.MaxPool2d)
_RELU = "+relu"


def probe_input(size: tuple[int, int], channels: int = 3) -> Tensor:
    """Return a seeded input (2, C, H, W) with structure at all scales, so that every layer has something to answer."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(2, channels, *size)
    for cells in (4, 16, 64):
        coarse = torch.randn(2, channels, cells, cells, generator=generator)
        x += nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return x


@dataclass(frozen=True)
class Examined:
    """What was found out about a network."""

    facts: Facts
    repeated: frozenset[str]  # modules that are called more than once in a forward


def examine(spec: ModelSpec, module: nn.Module, device: torch.device) -> Examined:
    """Run a network with recording hooks, on the device it lies on, and look what it does.

    Raises:
        CatalogError: it returns nothing that its task can be read from, or has another number of labels.
    """
    return _Examination(spec, module, device).examined()


class _Examination:
    def __init__(self, spec: ModelSpec, module: nn.Module, device: torch.device) -> None:
        self.spec, self.module, self.device = spec, module, device
        self.modules = dict(module.named_modules())
        self.repeated: frozenset[str] = frozenset()

    def examined(self) -> Examined:
        size = self.spec.transform.crop
        x = probe_input(size, len(self.spec.transform.channels)).to(self.device)
        seen = self._watch(x)
        self.repeated = frozenset(path for path, count in seen.calls.items() if count > 1)
        layers = {info.path: info for info in seen.layers}
        for path, axes in self._spatial(seen, size).items():
            layers[path] = replace(layers[path], spatial=axes)
        facts = Facts(
            name=self.spec.name,
            task=self.spec.task,
            outputs=seen.outputs.shape[1],
            input_size=size,
            mean=self.spec.transform.statistics[0],
            std=self.spec.transform.statistics[1],
            layers=layers,
            default_layer=self._default_layer(seen, layers),
            head=None,
            rectifiers=seen.activations.rectifiers,
            max_pools=seen.activations.max_pools,
            other_activations=tuple(sorted(seen.activations.smooth)),
            labels=tuple(self.spec.labels),
            channels=self.spec.transform.channels,
        )
        if facts.labels and len(facts.labels) != facts.outputs:
            raise CatalogError(
                f"model {facts.name!r}: {len(facts.labels)} labels for {facts.outputs} outputs; "
                "give as many labels as the network has outputs"
            )
        return Examined(self._with_head(facts, x, seen.outputs), self.repeated)

    def _table(self, output: object) -> Tensor:
        return self.spec.task.table(output, self.spec.name)

    def _activations(self, x: Tensor, layers: list[str]) -> Mapping[str, Tensor]:
        plain = Variant("plain", self.module)
        (found,) = trace_parts(plain, self._table, self.repeated, [Part(x)], Tracing(layers=tuple(layers)))
        if isinstance(found, Exception):
            raise found
        return found.activations

    def _watch(self, x: Tensor) -> "Seen":
        watch = Activations(len(x))
        seen = Seen(watch)
        with torch.inference_mode(), recording(Tape(observe=seen.observe)), watch:
            seen.outputs = self._table(self.module(x))
        repeated = seen.calls
        numbers: Counter[str] = Counter()
        for path, module, output, followed_by in seen.followed():
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
                    followed_by=followed_by,
                    kernel=tuple(weight.shape) if is_convolution and weight is not None else None,
                )
            )
        return seen

    def _spatial(self, seen: "Seen", size: tuple[int, int]) -> dict[str, bool]:
        """Find which outputs are (C, h, w): their last two axes, and not the first, follow the input's size."""
        other = size[0], size[1] + 64
        try:
            x = probe_input(other, len(self.spec.transform.channels)).to(self.device)
            wider = {info.path: info.shape for info in self._watch(x).layers}
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
        kept = self._activations(x, list(spatial)[-24:])
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
                addresses.append((path + _RELU, maps.relu()))
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
        if head.layer.endswith(_RELU):
            plain = layers[head.layer.removesuffix(_RELU)]
            layers[head.layer] = replace(plain, path=head.layer, type="relu", followed_by=None, kernel=None)
            captured = self._captured(x, head.layer)
            if captured is None or not torch.equal(captured, kept[plain.path].relu()):
                return facts  # the ReLU that follows is a module's, or another one: it cannot be addressed here
        elif default is not None and default in kept and torch.equal(kept[default], kept[head.layer]):
            head = replace(head, layer=default)  # two names of one tensor
        return replace(facts, layers=layers, default_layer=head.layer, head=head)

    def _captured(self, x: Tensor, layer: str) -> Tensor | None:
        """Return what an address answers; None where nothing does."""
        try:
            return self._activations(x, [layer])[layer]
        except KeyError:
            return None


@dataclass
class Seen:
    """What one watched forward showed."""

    activations: Activations
    layers: list[LayerInfo] = field(default_factory=list)
    outputs: Tensor = field(default_factory=lambda: torch.empty(0))
    calls: Counter[str] = field(default_factory=Counter)
    ids: list[int] = field(default_factory=list)  # of the layers' output tensors
    answers: list[tuple[str, nn.Module, Tensor, int]] = field(default_factory=list)

    def observe(self, path: str, module: nn.Module, output: Tensor) -> None:
        """Take note of a module's output; holding it keeps its `id` its own."""
        self.calls[path] += 1
        self.answers.append((path, module, output, len(self.activations.calls)))

    def followed(self) -> list[tuple[str, nn.Module, Tensor, str | None]]:
        """Return each module's output, and the activation function that was called on it first, if any was."""
        calls: dict[int, list[tuple[int, str]]] = {}
        for at, (key, name) in enumerate(self.activations.calls):
            calls.setdefault(key, []).append((at, name))
        # A function in place hands on the tensor that it was given: only what is called later follows its output.
        return [
            (path, module, output, next((name for at, name in calls.get(id(output), ()) if at >= since), None))
            for path, module, output, since in self.answers
        ]


def _pointlike(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[1] * shape[2] == 1
