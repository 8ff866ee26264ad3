"""Forwards that are watched: what each module answers, and what becomes of it."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from service.contract import Layout
from service.engine.network.capture import Tape, recording
from service.engine.network.endings.seen import Endings
from service.engine.network.forms.addresses import sums
from service.engine.network.places.grids import attends, scattered, seen_of, told, turned
from service.engine.network.places.looking import Own, own_places
from service.engine.network.places.tokens import Open
from service.engine.network.proofs.attentions import Seen
from service.engine.network.rules.activations import Activations
from service.engine.network.trace import straight

Run = Callable[[Tensor], Any]
"""Runs a network on rows (N, C, H, W)."""


@dataclass
class Call:
    """What one call of a module answered."""

    path: str
    module: nn.Module
    shape: tuple[int, ...]  # without the batch dimension
    aligned: bool = True  # whether its rows are the pictures; windows of pictures are not
    length: int = 0  # of the first axis
    first: Tensor | None = None  # sums of the first row's part, where rows are not the pictures
    layout: Layout | None = None  # where it is a grid
    elsewhere: bool = False  # whether it has the axes of maps, and none of the picture's places
    scattered: bool = False  # whether what changes in it lies at other places than what was changed in the picture
    own: Own = None  # whether its cells look at their own places of the picture
    pooled: Tensor | None = None  # its maps' means (N, C), and below those of their positive parts
    rectified: Tensor | None = None
    output: Tensor | None = None
    same: int = 0  # equal for calls that answered with the same tensor
    followed_by: str | None = None
    only_pool: bool = False  # whether a pooling function made it
    turned: "Call | None" = None  # the same, if its second axis is the pictures': (T, N, C)


@dataclass
class Changes:
    """What a forward of changed pictures showed."""

    calls: list[Call]
    returned: Any
    rectifiers: int = 0
    max_pools: int = 0
    smooth: tuple[str, ...] = ()

    @property
    def paths(self) -> list[str]:
        """Which modules were called, in order."""
        return [call.path for call in self.calls]


def shapes(run: Run, x: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all answers, without the batch dimension, by path and number of the call."""
    found: dict[str, tuple[int, ...]] = {}
    met: Counter[str] = Counter()

    def observe(path: str, module: nn.Module, output: Tensor) -> None:
        met[path] += 1
        found[f"{path}#{met[path]}"] = tuple(output.shape[1:])

    with torch.no_grad(), recording(Tape(observe=observe)):
        run(x)
    return found


def watch_changes(run: Run, rows: Tensor, *, singly: bool, widths: Collection[int] | None = None) -> Changes:
    """Run a picture, it with each square changed, and further pictures; find which answers are grids.

    Args:
        run: the network.
        rows: what `probed` or `changed` make of a picture, and further pictures behind them.
        singly: whether each row is run alone.
        widths: numbers of channels of the maps that are averaged; None: all are.
    """
    looks = _Looks(len(rows), (rows.shape[2], rows.shape[3]), widths)
    calls: list[Call] = []
    seen: dict[int, tuple[Call, _Look]] = {}
    watch = Activations(1) if singly else Activations(len(rows), lambda x: looks.at(x).layout)

    def meet(call: Call, output: Tensor) -> None:
        if output.ndim == 3 and output.shape[1] == len(rows):
            call.turned = Call(call.path, call.module, (len(output), *output.shape[2:]), length=len(rows))
            meet_rows(call.turned, output.transpose(0, 1))
        meet_rows(call, output)

    def meet_rows(call: Call, output: Tensor) -> None:
        seen[id(call)] = call, looks.at(output)

    def observe(path: str, module: nn.Module, output: Tensor) -> None:
        count, length = 1 if singly else len(rows), output.shape[0] if output.ndim else 0
        call = Call(path, module, tuple(output.shape[1:]), output.shape[:1] == (count,), length)
        if not call.aligned and length and length % count == 0:
            call.first = sums(output[: length // count])
        calls.append(call)
        if not singly:
            meet(call, output)  # now: a later function in place may overwrite it

    with torch.no_grad(), watch:
        if not singly:
            with recording(Tape(observe=observe)):
                returned = run(rows)
        else:
            returned, answers = [], []
            for i in range(len(rows)):
                own: list[Tensor] = []
                with recording(Tape(observe=partial(_keep, own))):
                    returned.append(run(rows[i : i + 1]))
                answers.append(own)
            with recording(Tape(observe=observe)):
                run(rows[:1])
            if len({len(own) for own in answers}) > 1:
                calls.clear()  # which modules are called depends on the picture
            for call, *outputs in zip(calls, *answers, strict=False):
                if len({output.shape for output in outputs}) == 1:
                    axis = 1 if outputs[0].ndim == 3 and outputs[0].shape[0] != 1 == outputs[0].shape[1] else 0
                    meet(call, torch.cat(outputs, axis))
    whole = {call.shape[0] for call, look in seen.values() if look.layout is not None and look.layout.axes == "tokens"}
    # As many tokens as a grid elsewhere in the network has are no smaller grid among some without a place.
    holding = told([look.opened for call, look in seen.values() if look.opened and call.shape[0] not in whole])
    for call, look in seen.values():
        look = next((look.ways[way] for way in holding if way in look.ways), look)
        call.layout, call.pooled, call.rectified = look.layout, look.pooled, look.rectified
        call.elsewhere, call.own, call.scattered = look.elsewhere, look.own, look.scattered
    if singly:
        watch.rectifiers //= len(rows) + 1
        watch.max_pools //= len(rows) + 1
    return Changes(calls, returned, watch.rectifiers, watch.max_pools, tuple(sorted(+watch.smooth)))


@dataclass(frozen=True)
class _Look:
    """What was seen of one tensor."""

    layout: Layout | None = None
    pooled: Tensor | None = None
    rectified: Tensor | None = None
    elsewhere: bool = False
    own: Own = None
    scattered: bool = False
    opened: Open | None = None  # tokens that stand in one of some ways, which all layers together tell
    ways: "Mapping[Layout, _Look]" = field(default_factory=dict)  # what is seen with each of them


class _Looks:
    """Looks at answers, at each tensor once.

    Modules answer from the inside out, often several of them with one tensor, which is then what a function is given.
    """

    def __init__(self, rows: int, size: tuple[int, int], widths: Collection[int] | None) -> None:
        self.rows, self.size, self.widths = rows, size, widths
        self._last: tuple[Tensor, int, _Look] | None = None  # held, so that no other tensor gets its place

    def at(self, output: Tensor) -> _Look:
        """Return what is seen of an answer (N, ...), or of what a function is given."""
        version = None if output.is_inference() else output._version  # what has none may be written to unseen
        if self._last is not None and self._last[0] is output and self._last[1] == version:
            return self._last[2]
        with torch._C.DisableTorchFunction():  # what is computed here is not the network's, and quicker unwatched
            found = self._look(output)
        self._last = (output, version, found) if version is not None else None
        return found

    def _look(self, output: Tensor) -> _Look:
        if not output.ndim or len(output) != self.rows:
            return _Look()
        layout = seen_of(output, self.size)
        if isinstance(layout, Open):
            return _Look(opened=layout, ways={way: self._averaged(way, way.maps(output)) for way in layout.ways})
        if layout is not None:
            maps = layout.maps(output)
        elif output.ndim == 4 and output.is_floating_point():
            maps = output  # its size may still follow the input's
        else:
            return _Look()
        if layout is not None:
            return self._averaged(layout, maps)
        other = turned(maps)
        found = self._averaged(layout, maps, turned=other, other=other or attends(maps))
        return replace(found, scattered=scattered(maps))

    def _averaged(self, layout: Layout | None, maps: Tensor, *, turned: bool = False, other: bool = False) -> _Look:
        own = own_places(maps, self.size, grid=layout is not None, turned=turned)
        if self.widths is not None and maps.shape[1] not in self.widths:
            return _Look(layout, elsewhere=other, own=own)
        maps = maps.float()  # parts of a network may compute in other formats, and its head in this one
        pooled = maps.mean((2, 3))
        return _Look(layout, pooled, maps.relu().mean((2, 3)), other, own)


def _keep(own: list[Tensor], path: str, module: nn.Module, output: Tensor) -> None:
    own.append(output.clone())


@dataclass
class Watched:
    """What a forward with gradients showed."""

    calls: list[Call]
    returned: Any
    endings: Endings
    x: Tensor  # what it was given, to differentiate with respect to
    leaves: list[Tensor] = field(default_factory=list)  # of each call
    backwards: int = 0  # that were run
    fails: bool = False  # whether the last backward has failed
    attentions: Seen = field(default_factory=Seen)
    at_input: Tensor | None = None  # the first gradient there that is not zero everywhere

    @property
    def paths(self) -> list[str]:
        """Which modules were called, in order."""
        return [call.path for call in self.calls]

    def gradients(self, score: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
        """Return the score's gradients at the input and at each call's answer; None where there is none."""
        if not score.requires_grad:
            return None, [None] * len(self.calls)
        sources = [self.x, *self.leaves]
        differentiable = [source for source in sources if source.requires_grad]
        self.backwards += 1
        self.fails = True  # until it has not
        found = torch.autograd.grad(score, differentiable, retain_graph=True, allow_unused=True)
        self.fails = False
        by_source = dict(zip(map(id, differentiable), found, strict=True))
        gradients = [by_source.get(id(source)) for source in sources]
        if self.at_input is None and gradients[0] is not None and gradients[0].any():
            self.at_input = gradients[0]
        return gradients[0], gradients[1:]

    def projects(self, call: int) -> bool:
        """Whether a gradient gets from a call's answer to the input.

        The graph tells, but for functions with a backward of their own, which may pass none on, and where a backward
        has failed.
        """
        start = self.leaves[call]
        todo = [start.grad_fn] if start.grad_fn is not None else []
        met, arrives, own = set(todo), False, False
        while todo:
            node: Any = todo.pop()
            arrives = arrives or getattr(node, "variable", None) is self.x
            own = own or isinstance(node, torch.autograd.function.BackwardCFunction)
            follow = {follower for follower, _ in node.next_functions if follower is not None} - met
            met |= follow
            todo += follow
        if not (arrives and (own or self.fails)):
            return arrives
        self.backwards += 1
        try:
            return torch.autograd.grad(start.sum(), self.x, retain_graph=True, allow_unused=True)[0] is not None
        except (Exception, SystemExit):  # of a backward of the network's own
            return False


def watch_gradients(run: Run, x: Tensor) -> Watched:
    """Run some pictures with gradients; find which activation function follows each answer, and what made the last.

    Each answer is handed on as a copy, so that what a function in place makes of it does not count as it.
    """
    calls: list[Call] = []
    leaves: list[Tensor] = []
    same: dict[int, int] = {}
    since: list[int] = []
    going_on: list[Tensor] = []
    watch, endings, attentions = Activations(len(x)), Endings(), Seen()

    def observe(path: str, module: nn.Module, output: Tensor) -> Tensor | None:
        call = Call(path, module, tuple(output.shape[1:]), only_pool=output.data_ptr() in watch.pooled)
        differentiable = output.is_floating_point() and not output.is_quantized
        if differentiable and not output.requires_grad:
            # Nothing before here has a gradient: as when this layer alone is asked for, the graph begins here.
            output = output.detach().requires_grad_()
        handed = output.clone() if differentiable else output
        endings.handed_on(output, handed)
        call.same = same.get(id(output), len(calls))
        same[id(handed)] = call.same
        if call.same != len(calls):
            call.only_pool = calls[call.same].only_pool
        calls.append(call)
        leaves.append(output)
        going_on.append(handed)
        since.append(len(watch.calls))
        return handed

    given = x.clone().requires_grad_()
    with torch.enable_grad(), straight(), ExitStack() as modes:
        modes.enter_context(recording(Tape(observe=observe)))
        modes.enter_context(attentions.watching(len(x)))
        modes.enter_context(watch)
        modes.enter_context(endings)
        returned = run(given * 1)
    called: dict[int, list[tuple[int, str]]] = {}
    for at, (key, name) in enumerate(watch.calls):
        called.setdefault(key, []).append((at, name))
    for call, handed, after in zip(calls, going_on, since, strict=True):
        # A function in place hands on the tensor that it was given: only what is called later follows its output.
        call.followed_by = next((name for at, name in called.get(id(handed), ()) if at >= after), None)
    return Watched(calls, returned, endings, given, leaves, attentions=attentions)


def addresses(calls: Sequence[Call]) -> tuple[list[str], frozenset[str]]:
    """Return each call's address, `path` or `path#n`, and the paths that are called more than once."""
    counts = Counter(call.path for call in calls)
    met: Counter[str] = Counter()
    found = []
    for call in calls:
        met[call.path] += 1
        found.append(f"{call.path}#{met[call.path]}" if counts[call.path] > 1 else call.path)
    return found, frozenset(path for path, count in counts.items() if count > 1)
