"""Forwards that keep activations, and their backwards: one pass for the parts of several requests."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from service.contract import INPUT, Part, Relevance, Rescale, Rules, Trace, Tracing
from service.engine.network.attention import ADDRESS, Attentions
from service.engine.network.capture import ActivatedCapture, Done, Tape, recording
from service.engine.network.forms.addresses import Addresses, Fold, single
from service.engine.network.forms.failures import NoAnswer, checked
from service.engine.network.rules import arrived, read, rule_mode
from service.engine.network.variants import Variant
from service.errors import NotApplicable


def trace_parts(
    network: Variant, addresses: Addresses, parts: Sequence[Part], tracing: Tracing
) -> list[Trace | Exception]:
    """Trace several parts in one forward; backward t is that of every part's column t.

    Rows do not influence each other, so that the gradient of the sum is each row's own. A part whose objective fails
    fails alone.

    Args:
        network: what to run; its module has the recording hooks.
        addresses: of its layers.
        parts: rows, and what is asked of them.
        tracing: what to keep, and what to differentiate with respect to.
    """
    if tracing.whole:
        addresses = Addresses(addresses.repeated, folds=addresses.folds)
    wanted = {*tracing.layers, *tracing.wrt} - {INPUT}
    tape = Tape(wanted, differentiable=set(tracing.wrt) - {INPUT}, repeated=addresses.repeated, stop=tracing.partial)
    differentiated = parts[0].objective is not None
    with torch.set_grad_enabled(differentiated), recording(tape), straight():
        # A copy, so that the gradient lands on ours, and a first layer in place overwrites no caller's picture.
        x = torch.cat([*(part.x.detach() for part in parts), *_references(parts, tracing)])
        # Relevance is shared among all that depends on the picture, also with what goes around a layer.
        leaf = network.laid_out(x).requires_grad_(INPUT in tracing.wrt or isinstance(tracing.rule, Relevance))
        given = leaf.clone() if leaf.requires_grad else leaf
        raw = _recorded(network.module, given, tape, tracing, addresses)
        _all_met(tape, len(leaf), addresses)
        pieces = _pieces(parts, raw, tape, addresses, tracing.rule)
        columns = [
            piece if isinstance(piece, Exception) else _columns(part, piece)
            for part, piece in zip(parts, pieces, strict=True)
        ]
        sources = {name: leaf if name == INPUT else tape.kept[name] for name in tracing.wrt}
        gradients = _gradients([c for c in columns if isinstance(c, Tensor)], sources) if tracing.wrt else []
    gradients = [
        {name: None if g is None else arrived(tracing.rule, g, sources[name]) for name, g in of.items()}
        for of in gradients
    ]
    results: list[Trace | Exception] = []
    start = 0
    for part, piece, column in zip(parts, pieces, columns, strict=True):
        rows = slice(start, start + len(part.x))
        start = rows.stop
        if isinstance(piece, Exception) or isinstance(column, Exception):
            results.append(piece if isinstance(piece, Exception) else column)  # type: ignore[arg-type]
            continue
        try:
            results.append(_result(part, piece, column, rows, tracing, gradients, addresses))
        except Exception as error:
            results.append(error)
    return results


def _references(parts: Sequence[Part], tracing: Tracing) -> list[Tensor]:
    """Return the second half of a batch of pairs: what each part's rows are compared with."""
    if not isinstance(tracing.rule, Rescale):
        return []
    references = [part.references for part in parts if part.references is not None]
    if len(references) < len(parts):
        raise ValueError("a rule that compares takes `Pairs`")
    return references


def _all_met(tape: Tape, rows: int, addresses: Addresses) -> None:
    """Raise `NoAnswer` where a layer did not answer to each row: which modules are called may depend on the picture."""
    for address in tape.layers:
        if address not in tape.kept:
            raise NoAnswer(f"its forward does not come by layer {address!r}, as it did when it was loaded")
        met = addresses.folds.get(address, Fold()).count(tape.kept[address])
        if met != rows:
            raise NoAnswer(f"layer {address!r} answers to {met} of {rows} rows")


def _result(
    part: Part,
    piece: Trace,
    column: Tensor,
    rows: slice,
    tracing: Tracing,
    gradients: Sequence[Mapping[str, Tensor | None]],
    addresses: Addresses,
) -> Trace:
    """Return a part's trace, detached."""
    own = gradients[: column.shape[1]]
    if tracing.wrt and column.shape[1] and not column.requires_grad:
        raise NotApplicable(_NOTHING.format(_place(tracing.wrt[0])))
    return Trace(
        outputs=piece.outputs.detach(),
        activations={name: piece.activations[name].detach() for name in tracing.layers},
        objective=column.detach(),
        references=piece.references.detach(),
        gradients={
            name: torch.stack([_reaching(name, of[name], rows, addresses) for of in own])
            for name in tracing.wrt
            if len(own)
        },
        first=part.first,
    ).totalled(part.total)


_NOTHING = (
    "no gradient of what is asked gets to {}: something on the way passes none on (no_grad, detach, whole "
    "numbers, a compiled part), or what is asked does not depend on it; use 'occlusion', which needs none"
)


def _place(name: str) -> str:
    return "the input" if name == INPUT else f"layer {name!r}"


def _reaching(name: str, gradient: Tensor | None, rows: slice, addresses: Addresses) -> Tensor:
    """Return a part's rows of a gradient, as methods see it.

    Raises:
        NotApplicable: there is none: it is not zero, it does not exist.
    """
    if gradient is None:
        raise NotApplicable(_NOTHING.format(_place(name)))
    own = single(addresses.rows(name, gradient))[rows]
    layout = addresses.layout(name)
    if layout is None:
        return own
    found = layout.maps(own)
    if (layout.prefix or layout.suffix) and not found.any() and own.any():
        raise NotApplicable(
            f"behind layer {name!r} only the token that has no place in the picture is read, so that no gradient of "
            "what is asked gets to the others; name an earlier layer, or leave `layer` out"
        )
    return found


def _pieces(
    parts: Sequence[Part], raw: Tensor | None, tape: Tape, addresses: Addresses, rule: Rules | None
) -> list[Trace | Exception]:
    """Return what each part's objective meets, or the error that its readout ended in."""
    found: list[Trace | Exception] = []
    start = 0
    kept = {name: addresses.maps(name, a) for name, a in tape.kept.items()}
    for part in parts:
        rows = slice(start, start + len(part.x))
        start = rows.stop
        own = {name: a[rows] for name, a in kept.items()}
        try:
            nothing = part.x.new_empty(len(part.x), 0)
            outputs, references = (nothing, nothing) if raw is None else _tables(part, raw, rows, rule)
            found.append(Trace(outputs, own, first=part.first, references=references))
        except Exception as error:
            found.append(error)
    return found


def _tables(part: Part, raw: Tensor, rows: slice, rule: Rules | None) -> tuple[Tensor, Tensor]:
    """Return the tables of a part's rows and of what these are compared with; of nothing it has no rows."""
    both = raw[rows] if part.references is None else torch.cat([raw[rows], raw[len(raw) // 2 :][rows]])
    table = read(part.readout, both, rule)
    return table[: len(part.x)], table[len(part.x) :]


def _recorded(module: nn.Module, x: Tensor, tape: Tape, tracing: Tracing, addresses: Addresses) -> Tensor | None:
    """Run a forward; None where the tape ended it early."""
    with ExitStack() as modes:
        if tracing.rule is not None:
            modes.enter_context(rule_mode(tracing.rule, x))
        if any(address.startswith(ADDRESS) for address in tape.layers):
            modes.enter_context(Attentions(len(x), tape.keep_wanted))
        if tape.activated:
            modes.enter_context(ActivatedCapture(tape))
        try:
            return checked(module(x), len(x), addresses.answer)
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


def _gradients(columns: Sequence[Tensor], sources: Mapping[str, Tensor]) -> list[Mapping[str, Tensor | None]]:
    """Return, for each t, the gradients of the sum of all columns t by source; None where there is none."""
    result: list[Mapping[str, Tensor | None]] = []
    most = max((c.shape[1] for c in columns), default=0)
    reached = {name: source for name, source in sources.items() if source.requires_grad}
    for t in range(most):
        sums = [c[:, t].sum() for c in columns if c.shape[1] > t and c.requires_grad]
        found: dict[str, Tensor | None] = dict.fromkeys(sources)
        if sums and reached:
            gradients = torch.autograd.grad(
                torch.stack(sums).sum(), tuple(reached.values()), retain_graph=t < most - 1, allow_unused=True
            )
            found |= dict(zip(reached, gradients, strict=True))
        result.append(found)
    return result


class _Straight:
    """Runs what a network would recompute in the backward once, as any other part of it."""

    @staticmethod
    def apply(function: Any, _: bool, *args: Any) -> Any:
        return function(*args)


class _Straightened:
    """How many threads have blocks run straight. PyTorch keeps one function for all of them."""

    lock = threading.Lock()
    threads = 0
    before: Any = None


@contextmanager
def straight() -> Iterator[None]:
    """Let gradients be taken of activations inside a block that is checkpointed in the reentrant way.

    Such a block keeps no graph of its forward, so that nothing inside of it can be differentiated. Threads that are in
    here at once do not undo each other's; to a thread outside it makes no difference but memory.
    """
    of = _Straightened
    with of.lock:
        if of.threads == 0:
            of.before, checkpoint.CheckpointFunction = checkpoint.CheckpointFunction, _Straight  # type: ignore[misc,assignment]
        of.threads += 1
    try:
        yield
    finally:
        with of.lock:
            of.threads -= 1
            if of.threads == 0:
                checkpoint.CheckpointFunction = of.before  # type: ignore[misc]
