"""Forwards that keep activations, and their backwards: one pass for the parts of several requests."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from service.contract import INPUT, Part, Trace, Tracing
from service.engine.network.capture import ActivatedCapture, Done, Tape, recording
from service.engine.network.rules import RuleMode
from service.engine.network.variants import Variant

Table = Callable[[object], Tensor]
"""Makes a table (N, K) of what a network returns."""


def trace_parts(
    network: Variant, table: Table, repeated: Collection[str], parts: Sequence[Part], tracing: Tracing
) -> list[Trace | Exception]:
    """Trace several parts in one forward; backward t is that of every part's column t.

    Rows do not influence each other, so that the gradient of the sum is each row's own. A part whose objective fails
    fails alone.

    Args:
        network: what to run; its module has the recording hooks.
        table: reads its outputs.
        repeated: paths of modules that are called more than once in a forward.
        parts: rows, and what is asked of them.
        tracing: what to keep, and what to differentiate with respect to.
    """
    addresses = {*tracing.layers, *tracing.wrt} - {INPUT}
    tape = Tape(addresses, differentiable=set(tracing.wrt) - {INPUT}, repeated=repeated, stop=tracing.partial)
    differentiated = parts[0].objective is not None
    with torch.set_grad_enabled(differentiated), recording(tape):
        # A copy, so that the gradient lands on ours, and a first layer in place overwrites no caller's picture.
        leaf = network.laid_out(torch.cat([part.x.detach() for part in parts])).requires_grad_(INPUT in tracing.wrt)
        given = leaf.clone() if leaf.requires_grad else leaf
        outputs = _recorded(network.module, table, given, tape, tracing)
        pieces = _pieces(parts, outputs, tape)
        columns = [_columns(part, piece) for part, piece in zip(parts, pieces, strict=True)]
        sources = [leaf if name == INPUT else tape.kept[name] for name in tracing.wrt]
        gradients = _gradients([c for c in columns if isinstance(c, Tensor)], sources) if tracing.wrt else []
    results: list[Trace | Exception] = []
    start = 0
    for part, piece, column in zip(parts, pieces, columns, strict=True):
        rows = slice(start, start + len(part.x))
        start = rows.stop
        results.append(
            column if isinstance(column, Exception) else _result(part, piece, column, rows, tracing, gradients)
        )
    return results


def _result(
    part: Part, piece: Trace, column: Tensor, rows: slice, tracing: Tracing, gradients: Sequence[Sequence[Tensor]]
) -> Trace | Exception:
    """Return a part's trace, detached."""
    found = Trace(
        outputs=piece.outputs.detach(),
        activations={name: piece.activations[name].detach() for name in tracing.layers},
        objective=column.detach(),
        gradients={
            name: torch.stack([of[i][rows] for of in gradients[: column.shape[1]]])
            for i, name in enumerate(tracing.wrt)
            if column.shape[1]
        },
        first=part.first,
    )
    try:
        return found.totalled(part.total)
    except Exception as error:
        return error


def _pieces(parts: Sequence[Part], outputs: Tensor | None, tape: Tape) -> list[Trace]:
    """Return what each part's objective meets."""
    found, start = [], 0
    for part in parts:
        rows = slice(start, start + len(part.x))
        start = rows.stop
        own = outputs[rows] if outputs is not None else part.x.new_empty(len(part.x), 0)
        found.append(Trace(own, {name: a[rows] for name, a in tape.kept.items()}, first=part.first))
    return found


def _recorded(module: nn.Module, table: Table, x: Tensor, tape: Tape, tracing: Tracing) -> Tensor | None:
    """Run a forward; None where the tape ended it early."""
    with ExitStack() as modes:
        if tracing.rule is not None:
            modes.enter_context(RuleMode(tracing.rule))
        if tape.activated:
            modes.enter_context(ActivatedCapture(tape))
        try:
            return table(module(x))
        except Done:
            return None


def _columns(part: Part, piece: Trace) -> Tensor | Exception:
    """Return a part's objective (N, T), or the error it ended in: its own, not its neighbours'."""
    if part.objective is None:
        return part.x.new_empty(len(part.x), 0)
    try:
        return part.objective(piece)
    except Exception as error:
        return error


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
