"""What a few forwards at load tell of a network: its answer, its layers, its head, and whether it keeps the rules.

Everything is found by numbers, at the one input size that the network is made for.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from service.contract import Check, Facts, LayerInfo, Part, Tracing
from service.engine.network.capture import install
from service.engine.network.endings.made import Made, flat, logits_of, made, meant_by
from service.engine.network.forms.adapted import prepared
from service.engine.network.forms.addresses import Addresses
from service.engine.network.forms.failures import NoAnswer
from service.engine.network.proofs.answering import Answering
from service.engine.network.proofs.attentions import find_attentions
from service.engine.network.proofs.checks import Checks, Refused, first_line, state, written
from service.engine.network.proofs.heads import prove
from service.engine.network.proofs.layers import RELU, Layers, find_layers, parts
from service.engine.network.proofs.watch import Changes, Watched
from service.engine.network.trace import trace_parts
from service.engine.network.variants import Variant
from service.errors import CatalogError
from service.images import Transform, photographs
from service.models.exported.graphs import unspoken
from service.models.networks import enclosed, holding
from service.models.networks.forms import BlackBox
from service.models.spec import ModelSpec
from service.tasks.guess import Meaning


def probe_input(size: tuple[int, int], channels: int = 3) -> Tensor:
    """Return a seeded input (2, C, H, W) with structure at all scales, so that every layer has something to answer."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(2, channels, *size)
    for cells in (4, 16, 64):
        coarse = torch.randn(2, channels, cells, cells, generator=generator)
        x += nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return x


def probe_pictures(transform: Transform) -> Tensor:
    """Return the same as two pictures are to a model: pixels between black and white, less mean, over deviation."""
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in transform.statistics)
    return (probe_input(transform.crop, len(transform.channels)).sigmoid() - mean) / std


@dataclass(frozen=True)
class Examined:
    """A network as the engine runs it, and what was found out about it."""

    module: nn.Module  # returns one tensor (N, ...); has the recording hooks
    facts: Facts
    addresses: Addresses
    singly: bool = False  # whether pictures have to be run one at a time
    keeps: bool = False  # whether it keeps tensors of a forward for later ones
    row_bytes: int = 0  # of the tensors alive at the most crowded moment of one picture's forward


def examine(spec: ModelSpec, module: nn.Module, device: torch.device) -> Examined:
    """Put a network on a device, run it there with recording hooks, and look what it does.

    Raises:
        CatalogError: it would answer falsely, or not at all; the message says what to change.
    """
    examination = _Examination(spec, module, device)
    try:
        return examination.examined()
    except Refused:
        raise
    except CatalogError as error:
        found, _, remedy = str(error).removeprefix(f"model {spec.name!r}: ").partition("; ")
        line = Check("answer", "refused", found, remedy or None)
        raise Refused(str(error), (*examination.checks.lines, line)) from error


class _Examination:
    def __init__(self, spec: ModelSpec, module: nn.Module, device: torch.device) -> None:
        self.spec = spec
        self.checks = Checks(spec.name)
        self.network, said = prepared(module, device, spec.name)
        for one in said:
            self.checks.passed("form", one)
        strangers = holding.unregistered(self.network)
        if weighted := [path for path, module in strangers if holding.tensors(module)]:
            told = f"{len(weighted)} modules with weights stand in no module's table (such as {weighted[0]!r})"
            self.checks.warn(
                "weights",
                f"{told}: no state dict has them, so that no weights file reaches them; they are served as they are",
                "let an nn.ModuleList or nn.ModuleDict hold them",
            )
        if hidden := enclosed.hidden(self.network):
            self.checks.warn(
                "weights",
                f"{len(hidden)} modules lie in functions or objects that are no modules (such as {hidden[0]!r}): the "
                "version does not count their weights, and nothing tells them to evaluate",
                "let them be attributes of the network itself",
            )
        install(self.network)
        pictures = probe_pictures(spec.transform).to(device)
        self.answering = Answering(
            spec, self.network, pictures, self.checks, lambda: photographs(spec.transform)[:2].to(device)
        )
        self.no_gradient: str | None = None
        self.source: Made | None = None  # what makes its answer

    def examined(self) -> Examined:
        answering, before = self.answering, state(self.network)
        changes, raw = answering.first(before)
        changes, watched = self._watched(changes)
        self.source = made(answering, raw, watched)
        found = meant_by(answering, raw, watched, self.source)
        raw, meant = logits_of(answering, raw, self.source, found)
        gradients = self._gradients(watched, meant)
        classes, partial = raw.shape[1] if raw.ndim == 4 else None, parts(watched, answering.outlet.boxes)
        layers = find_layers(answering, changes, watched, gradients, classes, partial)
        self.checks.backwards = watched.backwards if watched is not None else 0
        if names := [*written(before, self.network), *filter(None, (answering.past.counting,))]:
            told = f"a forward changes {', '.join(map(repr, names[:3]))}"
            self.checks.warn("state", told, "keep nothing of one picture for the next")
        else:
            self.checks.passed("state", "a forward changes no parameter and no buffer")
        facts = self._with_attentions(self._facts(changes, raw, meant, found, layers), watched, layers.gradients)
        if not meant.task.looks and raw.ndim == 2:
            facts = self._with_head(facts, layers, raw)
        layouts = {i.path: i.layout for i in facts.layers.values() if i.layout and i.layout.axes != "chw"}
        answer = None if answering.outlet.boxes else tuple(raw.shape[1:])
        addresses = Addresses(layers.repeated, layouts, layers.folds, answer)
        facts = replace(facts, checks=self.checks.finished(), singly=answering.singly)
        return Examined(answering.adapted(), facts, addresses, answering.singly, answering.keeps, answering.row_bytes)

    def _watched(self, changes: Changes) -> tuple[Changes, Watched | None]:
        """Run a picture with gradients, and see that the same modules are called as for changed ones."""
        answering = self.answering
        watched = answering.watched()
        if watched is not None and not answering.singly and watched.paths != changes.paths:
            # Only one picture at a time has addresses.
            answering.one_at_a_time("how often its modules are called depends on how many pictures there are")
            changes = answering.changes(singly=True)
            watched = answering.watched()
        if watched is not None and watched.paths != changes.paths:
            changes.calls.clear()  # which modules are called depends on the picture: none has an address
        return changes, watched

    # Gradients

    def _gradients(self, watched: Watched | None, meant: Meaning) -> list[Tensor | None] | None:
        """Return the score's gradient at each call's answer, and check that it reaches the input."""
        if watched is None:
            self.no_gradient = self.answering.failure
            self.checks.warn("gradient", str(self.no_gradient), "methods that need a gradient do not apply")
            return None
        answer = watched.returned
        if not answer.numel():
            self.checks.warn(
                "gradient",
                "it detects nothing in pictures of noise and in photographs: whether a gradient gets to the input, and "
                "from which layer on, is not known",
                "load trained weights, or let it keep boxes of lower scores",
            )
            return None
        if self.answering.cut is not None and self.source is not None:
            answer = self.source.ending.given.reshape(answer.shape)
        table = meant.task.scores(meant.task.whole(answer.float()), meant.task.kinds[0])
        try:
            at_input, gradients = watched.gradients(table.amax(1).sum())
            if at_input is not None and not at_input.any():  # the largest may be at a bound
                weights = torch.linspace(1, 2, table.shape[1], device=table.device)
                at_input, gradients = watched.gradients((table * weights).sum())
        except (Exception, SystemExit) as error:
            self.no_gradient = f"its backward fails ({first_line(error)})"
            self.checks.warn("gradient", self.no_gradient, "methods that need a gradient do not apply")
            return [None] * len(watched.calls)
        if at_input is None:
            self.no_gradient = "none gets there: " + _why_no_gradient(self.network)
            self.checks.warn(
                "gradient",
                f"no gradient of the outputs gets to the input: {_why_no_gradient(self.network)}",
                "methods that need one do not apply; let its forward pass gradients on",
            )
        elif not torch.isfinite(at_input).all():
            self.checks.warn(
                "gradient",
                "the gradient at the input is not finite for a picture of noise",
                "look for a root or a logarithm at zero in it",
            )
        elif not at_input.any() and (function := flat(answer)) is not None:
            self.no_gradient = f"it is zero everywhere: what {function}() makes does not follow small changes"
            self.checks.warn(
                "gradient",
                f"the gradient at the input is zero everywhere: what {function}() makes does not follow small changes",
                f"methods that need one do not apply; let it return what it has before {function}()",
            )
            return [None] * len(watched.calls)
        elif not at_input.any():
            self.checks.warn(
                "gradient",
                "the gradient at the input is zero everywhere for pictures of noise",
                "the network may be dead: load trained weights",
            )
        else:
            self.checks.passed("gradient", "a gradient of the outputs gets to the input")
        return gradients

    # Facts

    def _facts(self, changes: Changes, raw: Tensor, meant: Meaning, found: Meaning, layers: Layers) -> Facts:
        spec = self.spec
        black_box = self._why_nothing_inside(layers)
        if black_box:
            self.checks.warn("layers", black_box, "methods that look at a layer do not apply")
        elif layers.default is None:
            self.checks.warn(
                "layers",
                "no layer answers with a grid over the picture",
                "methods that look at a layer do not apply; let modules answer with maps, if there are any",
            )
        else:
            grids = sum(info.spatial for info in layers.infos.values())
            self.checks.passed("layers", f"{grids} layers answer with maps; the default one is {layers.default!r}")
        self._reach_of(layers)
        facts = Facts(
            name=spec.name,
            task=meant.task,
            outputs=meant.task.outputs(raw, spec.labels),
            input_size=spec.transform.crop,
            mean=spec.transform.statistics[0],
            std=spec.transform.statistics[1],
            layers=layers.infos,
            default_layer=layers.default,
            head=None,
            rectifiers=changes.rectifiers,
            max_pools=changes.max_pools,
            other_activations=changes.smooth,
            labels=tuple(spec.labels),
            channels=spec.transform.channels,
            task_assumed=found.assumed is not None,
            black_box=black_box,
            opaque=_why_opaque(self.network, self.answering.closed),
            no_gradient=self.no_gradient,
        )
        if facts.labels and len(facts.labels) != facts.outputs:
            raise CatalogError(
                f"model {facts.name!r}: {len(facts.labels)} labels for {facts.outputs} outputs; "
                "give as many labels as the network has outputs"
            )
        return facts

    def _reach_of(self, layers: Layers) -> None:
        """Check that a gradient of the outputs gets to each layer that is offered."""
        offered = [path for path, info in layers.infos.items() if info.spatial]
        without = [path for path in offered if not layers.infos[path].gradient]
        if self.no_gradient is not None or not offered:
            return  # which has been said
        if without:
            self.checks.warn(
                "layer-gradients",
                f"no gradient of the outputs gets to {len(without)} of {len(offered)} layers with maps: "
                + ", ".join(map(repr, without[:3])),
                "name another layer for methods that need one",
            )
        else:
            self.checks.passed("layer-gradients", "a gradient of the outputs gets to each layer with maps")

    def _with_attentions(self, facts: Facts, watched: Watched | None, gradients: list[Tensor | None]) -> Facts:
        """Give every attention over all tokens an address, or say why there is none."""
        if watched is None:
            return replace(facts, no_attention=f"what happens inside was not seen: {self.no_gradient}")
        attentions, why = find_attentions(watched.attentions, facts.layers, gradients)
        if attentions:
            self.checks.passed("attention", f"{len(attentions)} attentions span all tokens")
        return replace(facts, layers={**facts.layers, **attentions}, no_attention=why)

    def _with_head(self, facts: Facts, layers: Layers, outputs: Tensor) -> Facts:
        """Prove that the outputs are a linear map of averaged maps; make that layer the default one."""
        head = prove(self.network, layers.averaged[-48:], outputs)
        if head is None:
            return facts
        infos, default = dict(facts.layers), facts.default_layer
        if head.layer.endswith(RELU):
            plain = infos[head.layer.removesuffix(RELU)]
            if not self._addressed(plain, layers):
                return facts  # the ReLU that follows is a module's, or another one: it cannot be addressed here
            infos[head.layer] = replace(plain, path=head.layer, type="relu", followed_by=None, kernel=None)
        elif default is not None and layers.same[default] == layers.same[head.layer]:
            head = replace(head, layer=default)  # two names of one tensor
        self.checks.passed("head", f"the outputs are a linear map of the averages of {head.layer!r}")
        return replace(facts, layers=infos, default_layer=head.layer, head=head)

    def _addressed(self, plain: LayerInfo, layers: Layers) -> bool:
        """Whether `path+relu` answers with the positive part of what `path` answers with."""
        x = self.answering.pictures[:1]
        self.checks.count(1)
        both = Tracing(layers=(plain.path, plain.path + RELU), partial=True)
        try:
            found = trace_parts(Variant("plain", self.network), Addresses(layers.repeated), [Part(x)], both)[0]
        except NoAnswer:
            return False
        if isinstance(found, Exception):
            return False
        kept = found.activations
        return torch.equal(kept[plain.path].relu(), kept[plain.path + RELU])

    def _why_nothing_inside(self, layers: Layers) -> str | None:
        if layers.infos:
            return None
        if isinstance(self.network, BlackBox):
            return f"{self.network.form}, so that nothing inside of it can be seen"
        if any(isinstance(module, torch.jit.ScriptModule) for _, module in holding.modules(self.network)):
            return "what is inside of it is compiled by TorchScript, which shows no layers"
        return "its forward calls none of its modules, so that nothing inside of it has an address"


def _why_opaque(network: nn.Module, closed: str | None) -> str | None:
    if closed is not None:
        return f"its forward calls {closed!r} with functions, whose operators cannot be seen"
    for path, module in holding.modules(network):
        if isinstance(module, torch.jit.ScriptModule | BlackBox):
            what = f"its part {path!r} is compiled" if path or not isinstance(module, BlackBox) else module.form
            return f"{what}, so that its operators cannot be seen"
        for name in unspoken(module):
            return f"its exported graph calls the operator {name!r}, which is no function that rules are made for"
    return None


def _why_no_gradient(network: nn.Module) -> str:
    if any(isinstance(m, torch.jit.ScriptModule | BlackBox) for _, m in holding.modules(network)):
        return "a part that TorchScript or torch.export has compiled passes none on"
    if any("quantized" in type(m).__module__ for _, m in holding.modules(network)):
        return "it computes with whole numbers (int8), which have no gradient"
    return "something in its forward passes none on (no_grad, inference_mode, detach, .data, argmax)"
