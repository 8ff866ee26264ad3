"""A `Probe` without an engine: no thread, no cache, no batching. What a new method is written against.

probe = PlainProbe(network, facts)
found = MyMethod().explain(probe, x, Targets(facts, [281]))
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from service.contract import INPUT, At, Facts, Objective, Pairs, Readout, Rows, Sketch, Total, Trace, Tracing
from service.engine.network.attention import Attentions
from service.engine.network.rules import arrived, read, rule_mode


class _Follower(TorchFunctionMode):
    """Keeps what the first function of a name makes of a tensor: `conv+relu` is what `relu` makes of conv's output."""

    def __init__(
        self, kept: dict[str, Tensor], awaited: dict[int, str], instead: Callable[[Tensor], Tensor] = torch.clone
    ) -> None:
        super().__init__()
        self.kept, self.awaited, self.instead = kept, awaited, instead

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        address = self.awaited.get(id(args[0])) if args else None
        result = func(*args, **(kwargs or {}))
        if address is None or address.rpartition("+")[2] not in func.__name__:
            return result
        self.kept[address] = result
        return self.instead(result)


class PlainProbe:
    """A network in evaluation mode, asked row by row."""

    def __init__(self, module: nn.Module, facts: Facts, readout: Readout | None = None) -> None:
        self.module, self.facts, self.device = module, facts, torch.device("cpu")
        self.readout = readout or facts.task.whole

    def scores(self, rows: Rows, *, sketch: Sketch | None = None) -> Tensor:
        run = partial(self._started, rows) if isinstance(rows, At) else self._table
        with torch.no_grad():
            return torch.cat([run(rows.build(i, i + 1)) for i in range(rows.count)])

    def trace(
        self, rows: Rows, tracing: Tracing, objective: Objective | None = None, *, total: Total | None = None
    ) -> Trace:
        pieces = []
        for i in range(rows.count):
            x = rows.build(i, i + 1)
            if isinstance(rows, Pairs):  # a picture, and what it is compared with
                x = torch.cat([x, rows.references(i, i + 1)])
            pieces.append(self._traced(x, i, tracing, objective))
        return Trace.joined([piece.totalled(total) for piece in pieces])

    def weight(self, layer: str) -> Tensor:
        return self.module.get_submodule(layer).weight.detach()

    def offset(self, layer: str) -> Tensor | None:
        module = self.module.get_submodule(layer.partition("#")[0])
        if isinstance(module, nn.BatchNorm2d):  # what it makes of nothing
            return module(torch.zeros(1, module.num_features, 1, 1)).flatten().detach()
        bias = module.bias if isinstance(module, nn.Conv2d | nn.Linear) else None
        return None if bias is None else bias.detach()

    def _table(self, x: Tensor) -> Tensor:
        return self.readout(self.module(x))

    def _started(self, rows: At, maps: Tensor) -> Tensor:
        """Run all of the network on the picture, with other maps (1, C, h, w) where the layer has answered."""
        path, _, function = rows.layer.partition("+")
        path, _, number = path.partition("#")
        layout = self.facts.layers[rows.layer if rows.layer in self.facts.layers else path].layout
        calls: Counter[str] = Counter()
        awaited: dict[int, str] = {}
        held = []

        def instead(output: Tensor) -> Tensor:
            return layout.filled(output, maps) if layout is not None else maps.clone()

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            calls[path] += 1
            held.append(output)
            if number and calls[path] != int(number):
                return output
            if function:
                awaited[id(output)] = f"{path}+{function}"
                return output
            return (instead(output[0]), *output[1:]) if isinstance(output, tuple) else instead(output)

        handle = self.module.get_submodule(path).register_forward_hook(hook)
        try:
            with _Follower({}, awaited, instead):
                return self._table(rows.image.clone())
        finally:
            handle.remove()

    def _maps(self, address: str, output: Tensor, tracing: Tracing) -> Tensor:
        """Return an output, or a gradient there, as (N, C, h, w) where it has maps."""
        if tracing.whole:
            return output
        layout = self.facts.layers[address if address in self.facts.layers else address.partition("+")[0]].layout
        return layout.maps(output) if layout is not None else output

    def _arrived(self, name: str, g: Tensor, source: Tensor, tracing: Tracing) -> Tensor:
        g = arrived(tracing.rule, g, source)[:1]
        return g if name == INPUT else self._maps(name, g, tracing)

    def _traced(self, x: Tensor, i: int, tracing: Tracing, objective: Objective | None) -> Trace:
        kept: dict[str, Tensor] = {}
        awaited: dict[int, str] = {}
        addresses = {*tracing.layers, *tracing.wrt} - {INPUT}
        calls: Counter[str] = Counter()
        held = []  # so that no id is used twice

        def keeping(path: str) -> Callable[..., Tensor | None]:
            def keep(_: nn.Module, __: Any, output: Any) -> Tensor | None:
                calls[path] += 1
                for name in (path, f"{path}#{calls[path]}"):
                    if name in addresses:
                        kept[name] = output
                        output = output.clone()  # a function in place would overwrite what is kept
                    awaited.update({id(output): wanted for wanted in addresses if wanted.startswith(f"{name}+")})
                held.append(output)
                return output

            return keep

        def keep_attention(address: str, a: Tensor) -> Tensor:
            if address not in addresses:
                return a
            kept[address] = a
            return a.clone()

        hooks = [m.register_forward_hook(keeping(path)) for path, m in self.module.named_modules() if path]
        try:
            with torch.enable_grad():
                leaf = x.detach().clone().requires_grad_()
                given = leaf * 1
                rule = rule_mode(tracing.rule, given) if tracing.rule else nullcontext()
                with Attentions(len(x), keep_attention), rule, _Follower(kept, awaited):
                    raw = self.module(given)
                outputs = read(self.readout, raw, tracing.rule)
                maps = {name: self._maps(name, a[:1], tracing) for name, a in kept.items()}
                met = Trace(outputs[:1, :0] if tracing.partial else outputs[:1], maps, first=i)
                columns = objective(met) if objective is not None else x.new_empty(1, 0)
                sources = [leaf if name == INPUT else kept[name] for name in tracing.wrt]
                found = [
                    torch.autograd.grad(column.sum(), sources, retain_graph=True, allow_unused=True)
                    for column in columns.T
                    if sources
                ]
        finally:
            for hook in hooks:
                hook.remove()
        return Trace(
            met.outputs.detach(),
            {name: maps[name].detach() for name in tracing.layers},
            columns.detach(),
            {
                name: torch.stack([self._arrived(name, g[s], sources[s], tracing) for g in found])
                for s, name in enumerate(tracing.wrt)
                if found
            },
            first=i,
            references=outputs[1:].detach(),
        )
