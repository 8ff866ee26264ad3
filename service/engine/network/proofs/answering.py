"""A network's answer: where it is in what the network returns, and whether it is the picture's own."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from service.engine.network.forms.adapted import Adapted, joined, released, usable
from service.engine.network.forms.decisions import Decisions
from service.engine.network.forms.generators import advanced, generators, own_generators
from service.engine.network.forms.outlet import Outlet, find, merges
from service.engine.network.forms.past import Past
from service.engine.network.memory import counting
from service.engine.network.places.looking import probed
from service.engine.network.proofs.checks import ALONE, REPEATS, Checks, difference, first_line, written
from service.engine.network.proofs.heads import widths
from service.engine.network.proofs.watch import Changes, Watched, watch_changes, watch_gradients
from service.errors import CatalogError
from service.models.networks import holding
from service.models.spec import ModelSpec
from service.tasks import task

_DRAWS = 8  # further answers of a network that draws at random
_RAISED = (Exception, SystemExit)  # by a network's own code, which may end the process
_NO_STATISTICS = "let it use no statistics of the batch: batch norms need running statistics and evaluation mode"
_EACH_ALONE = (
    "make each row's answer of that row alone: no statistics over the batch, no step from one row to the next, "
    "batch_first=True where layers take sequences"
)
_ONE_ROW = (
    "it answers with one row to several pictures, and to one alone with its own",
    "let its forward answer with one row a picture: write x.shape[0], or -1, for their number, and trace it on two "
    "pictures or more",
)
_KEEP_THE_AXIS = "keep the pictures' axis: squeeze() drops it where there is one picture; use flatten(1)"


class Answering:
    """Runs a network at load, and finds out in which form the engine has to run it."""

    def __init__(
        self,
        spec: ModelSpec,
        network: nn.Module,
        pictures: Tensor,
        checks: Checks,
        others: Callable[[], Tensor] | None = None,
    ) -> None:
        """Prepare.

        Args:
            spec: what its source knows of the network.
            network: with recording hooks.
            pictures: two of them, (2, C, H, W).
            checks: where to say what was found, and to count what it cost.
            others: two more pictures, for a detector that finds nothing in these.
        """
        self.spec, self.network, self.checks, self.others = spec, network, checks, others
        self.past = Past(network)
        self._show(pictures)
        self.outlet = Outlet()
        self.copies = False  # whether it writes to its input
        self.reuses = False  # whether it writes each answer to where the last one was
        self.singly = False  # whether it is run on one picture at a time
        self.keeps = False  # whether it keeps tensors of a forward for later ones
        self.cut: int | None = None  # the call of a softmax or sigmoid that is left out
        self.takes = False  # whether what that call is given is the answer, whatever becomes of it
        self.as_it_is = True  # whether it returns its answer in the form that the engine takes
        self.rounding = 0.0  # of the format that it answers in, relative
        self.row_bytes = 0  # of the tensors alive at the most crowded moment of one picture's forward
        self.closed: str | None = None  # an operator that is given functions, inside of which nothing is met
        self._last: Tensor | None = None
        self.draws_from: str | None = None  # a generator of its own, that no forward sets back
        self.failure: str | None = None  # why it cannot be run with gradients

    def first(self, before: Mapping[str, tuple[float, float]]) -> tuple[Changes, Tensor]:
        """Run changed pictures, and check that the answer to each is its own.

        Args:
            before: the network's `state` before any forward.

        Returns:
            What was seen, and the answers (N, ...) to all rows.

        Raises:
            CatalogError: the network cannot be run, or its answers are not those of a picture.
        """
        changes = self._first()
        if not self._read(changes).numel() and self.others is not None:
            self._show(self.others())  # what a detector is made of shows where it detects something
            changes = self._first()
        _check_made(self.checks, self.network, before)
        changes, raw = self._alone(changes, before)

        def off() -> float:
            with torch.no_grad():
                return self._off(self._once(self.pictures[1:].clone()), raw[-1:]) - 2 * self.rounding

        if problem := self.past.problem(off, ALONE):
            raise self.checks.refused(*problem)
        return changes, raw

    def _show(self, pictures: Tensor) -> None:
        self.pictures, self.rows = pictures, torch.cat([probed(pictures[:1]), pictures[1:]])

    def run(self, x: Tensor) -> Any:
        """Run the network as it is; it may write to what it is given."""
        self.checks.count(len(x))
        return self.network(x.clone())

    def adapted(self) -> nn.Module:
        """Return the network in the form that the engine runs."""
        around = self.cut is not None or self.copies or self.reuses or self.singly or not self.as_it_is
        return self._behind(self.cut, takes=self.takes) if around or not self.outlet.plain else self.network

    def _behind(self, cut: int | None = None, *, takes: bool = False) -> Adapted:
        copies, reuses, singly = self.copies, self.reuses, self.singly
        return Adapted(self.network, self.outlet, cut=cut, takes=takes, copies=copies, reuses=reuses, singly=singly)

    def answers(self, x: Tensor, cut: int | None = None, *, takes: bool = False) -> Tensor:
        """Return answers (N, ...)."""
        self.checks.count(len(x))
        with torch.no_grad():
            found: Tensor = self._behind(cut, takes=takes)(x.clone())
        return found

    def moved(self, shift: tuple[int, int]) -> Tensor:
        """Return the answers to the two pictures, moved down and to the right; what leaves comes in again."""
        return self.answers(self.pictures.roll(shift, (2, 3)))

    def changes(self, *, singly: bool) -> Changes:
        """Run all rows, watched."""
        # How many outputs there are is only known for sure where each has its label.
        known = widths(self.network, len(self.spec.labels)) if self.spec.labels else None
        return watch_changes(self.run, self.rows, singly=singly, widths=known)

    def _first(self) -> Changes:
        """Run all rows for the first time; one at a time, where the network takes no more."""
        if self.singly:
            return self.changes(singly=True)
        try:
            changes = self.changes(singly=False)
        except CatalogError:
            raise
        except _RAISED as error:
            self.checks.count(1)
            if not _runs(self.network, self.pictures[:1].clone()):
                raise self.spec.refusal(self.network, error) from error
            self.one_at_a_time(
                f"it fails on {len(self.rows)} pictures at once ({first_line(error)})",
                "let its forward take any number of pictures; export with dynamic_shapes",
            )
            return self.changes(singly=True)
        if merges(partial(_outlet, self.spec), self.run, self.rows, changes.returned):
            self.one_at_a_time(*_ONE_ROW)
        return self.changes(singly=True) if self.singly else changes

    def one_at_a_time(self, why: str, remedy: str | None = None) -> None:
        """Run the network on one picture at a time from now on."""
        self.singly = True
        self.checks.warn("batch", f"{why}: pictures are run one at a time, which is slow", remedy)

    def _read(self, changes: Changes) -> Tensor:
        """Find the answer in what the network returned for all rows, and return it."""
        if not self.singly:
            self.outlet = _found(self.spec, self.network, changes.returned, len(self.rows))
            raw = self.outlet(changes.returned, len(self.rows))
            self.as_it_is = _same_form(changes.returned, raw)
        else:
            self.outlet = _found(self.spec, self.network, changes.returned[0], 1)
            raw = joined([self.outlet(one, 1) for one in changes.returned])
            self.as_it_is = False
        if "answer" not in {line.name for line in self.checks.lines}:
            kind = str(raw.dtype).removeprefix("torch.")
            told = "boxes with a class and a score each" if self.outlet.boxes else tuple(raw.shape[1:])
            self.checks.passed("answer", f"{self.outlet}: {told} a picture, {kind}")
        self.rounding = torch.finfo(raw.dtype).eps if raw.is_floating_point() else 0.0
        return raw.float().clone()  # the network may write its next answer to the same place

    def watched(self) -> Watched | None:
        """Run a picture with gradients; None where the network does not allow it."""
        self.checks.count(1)
        before = {id(value): value for _, _, value in holding.attributes(self.network, buffers=True)}
        watched: Watched | None = None
        try:
            watched = watch_gradients(self._behind(), self.pictures[:1])
        except _RAISED as error:
            self.failure = f"its forward fails where gradients are recorded ({first_line(error)})"
        if (name := released(self.network, before)) is not None:
            self.failure = f"its forward writes into {name!r}, a tensor that it keeps: gradients would not end there"
            return None
        return watched

    def _alone(self, changes: Changes, before: Mapping[str, tuple[float, float]]) -> tuple[Changes, Tensor]:
        """Check that the answer to a picture is its own: finite, the same again, the same alone and among others."""
        raw = self._read(changes)
        _check_finite(self.checks, raw)
        try:
            given, off, again, drawn, decides = self._seen_alone(raw)
        except _RAISED as error:
            one_size = not self.singly and not _runs(self.network, self.pictures.clone())
            raise self.checks.refused("alone", *_fails_alone(error, len(self.rows), one_size)) from error
        if not torch.equal(given, self.pictures[:1]):
            self.copies = True
            self.checks.warn("input", "it writes to its input: it is given a copy", "use no operation in place on it")
        else:
            self.checks.passed("input", "it does not write to its input")
        self.keeps = usable(self.network) or self.keeps
        _check_repeats(self.checks, again, drawn, self.draws_from, lambda: written(before, self.network))
        together = not self.singly
        if together and off > max(ALONE, 2 * self.rounding):
            told = f"a picture's answer depends on the others in its batch (by {off:.0%} of the largest output)"
            self.one_at_a_time(told, _EACH_ALONE)
        elif together and decides:
            told = f"its forward takes values out of its pictures ({decides}) and may go another way for each"
            self.one_at_a_time(told, "decide by shapes, or for each row of a batch alone, as torch.where does")
        elif together:
            self.checks.passed("alone", "a picture alone gets the same answer as among others")
        if together and self.singly:
            changes = self.changes(singly=True)
            raw = self._read(changes)
        if self._off(raw[:1], raw[-1:]) == 0:
            self.checks.warn(
                "responds",
                "it answers the same to two different pictures: no map can show anything",
                "load trained weights, or give it random ones",
            )
        return changes, raw

    def _seen_alone(self, raw: Tensor) -> tuple[Tensor, float, float, bool, str]:
        """Run pictures alone, whose answers among others are the first and the last one of `raw`.

        Returns what it was given and may have written to; how far these answers are apart, and two to one picture;
        whether it draws at random; and by what operator it takes values out of its pictures, if by any.
        """
        try:
            with torch.inference_mode():
                return self._looked(raw)
        except _RAISED:  # inference mode forbids a network's own gradients
            with torch.no_grad():
                found, self.keeps = self._looked(raw), True
            return found

    def _looked(self, raw: Tensor) -> tuple[Tensor, float, float, bool, str]:
        one = self.pictures[:1]
        with counting(self.network) as live:
            given = one.clone()
            first = self._once(given)
            self.row_bytes = live.peak
        before, own = generators(), own_generators(self.network)
        off = self._off(first, raw[:1])
        if not self.singly:  # what one picture hands to the next shows in the last one alone
            off = max(off, self._off(self._once(self.pictures[1:].clone()), raw[-1:]))
        second, decides = self._deciding(one.clone())
        drawn, again = before != generators(), self._off(first, second)
        self.draws_from = advanced(own, self.network)
        if drawn and again <= REPEATS:  # of few numbers, chance may have drawn the same ones
            again = max(self._off(first, self._once(one.clone())) for _ in range(_DRAWS))
        return given, off, again, drawn, decides

    def _once(self, x: Tensor) -> Tensor:
        self.checks.count(1)
        returned = self.network(x)
        answer = self.outlet(returned, 1)
        self.as_it_is = self.as_it_is and _same_form(returned, answer)
        self.reuses = self.reuses or (self._last is not None and self._last.data_ptr() == answer.data_ptr())
        self.past.note()
        self._last = answer  # as long as it is held, no other has its place but by the network's doing
        return answer.float().clone()

    def _deciding(self, x: Tensor) -> tuple[Tensor, str]:
        """Run one picture; return its answer, and the operator by which values were taken out of it, if any was."""
        deciding = Decisions(x)
        try:
            with deciding:
                answer = self._once(x)
        except _RAISED:  # something in it cannot be watched
            return self._once(x.clone()), ""
        self.closed = next(iter(deciding.closed), None)
        return answer, deciding.found[0] if deciding.found else ""

    def _off(self, a: Tensor, b: Tensor) -> float:
        """Return how far answers are apart; of detections only the surest one's score is held against each other."""
        if self.outlet.boxes:
            whole = task("detection").whole
            a, b = whole(a), whole(b)
        return difference(a, b)


def _check_made(checks: Checks, network: nn.Module, before: Mapping[str, tuple[float, float]]) -> None:
    if made := [name for name in holding.parameters(network) if name not in before]:
        raise checks.refused(
            "weights",
            f"its forward makes {len(made)} parameters (such as {made[0]!r}) for which no weights were loaded",
            "make them in __init__, or run the network once in its factory and load the weights then",
        )


def _check_repeats(
    checks: Checks, again: float, drawn: bool, own: str | None, written_to: Callable[[], list[str]]
) -> None:
    """Check two answers to one picture, so far apart.

    Args:
        checks: where to say it.
        again: how far they are apart.
        drawn: whether the libraries' generators were drawn from.
        own: the address of a generator of the network's own that was.
        written_to: returns the names of what the network has written to.
    """
    if again > REPEATS:
        names = written_to()
        because = f" (its forward changes {names[0]!r})" if names else " (as dropout that never ends)"
        raise checks.refused(
            "repeatable",
            f"the same picture twice gets two answers, {again:.0%} of the largest output apart{because}",
            "let its forward draw nothing at random and keep nothing of one picture for the next",
        )
    if own is not None:
        raise checks.refused(
            "repeatable",
            f"its forward draws at random from {own!r}, a generator that it never sets back: the same picture may get "
            "another answer each time",
            "let it draw nothing in evaluation mode, or seed that generator again in each forward",
        )
    if drawn:
        checks.warn(
            "repeatable",
            f"its forward draws at random, though {2 + _DRAWS} answers to one picture were the same",
            "let it draw nothing in evaluation mode: maps are made of many answers that have to go together",
        )
    else:
        checks.passed("repeatable", "the same picture twice gets the same answer")


def _check_finite(checks: Checks, raw: Tensor) -> None:
    if not torch.isfinite(raw).all():
        share = float((~torch.isfinite(raw)).float().mean())
        raise checks.refused(
            "finite",
            f"{share:.0%} of its outputs for pictures of noise are infinite or not a number",
            "look for a logarithm, a root or a division by zero in it, or for such numbers in its weights",
        )
    checks.passed("finite", "its outputs are finite numbers")


def _runs(network: nn.Module, x: Tensor) -> bool:
    """Whether a network answers to x without an error."""
    try:
        with torch.no_grad():
            network(x)
    except _RAISED:
        return False
    return True


def _found(spec: ModelSpec, network: nn.Module, returned: Any, rows: int) -> Outlet:
    """Find the answer in what a network returned for so many rows."""
    try:
        return _outlet(spec, returned, rows)
    except CatalogError as error:  # it may be that of another input it makes an answer
        raise spec.refusal(network, error) from error


def _outlet(spec: ModelSpec, returned: Any, rows: int) -> Outlet:
    return find(returned, rows, spec.output, spec.name, spec.transform.crop, len(spec.labels))


def _fails_alone(error: BaseException, rows: int, one_size: bool) -> tuple[str, str]:
    """Return what is wrong, and the remedy, where a network answers so many rows and not fewer, or not one alone."""
    if "more than 1 value per channel" in str(error):
        remedy, alone = _NO_STATISTICS, "one alone"
    elif one_size:
        remedy, alone = f"write x.shape[0], or -1, where its forward has the number {rows}", "fewer"
    else:
        remedy, alone = _KEEP_THE_AXIS, "one alone"
    return f"it answers {rows} pictures at once, and fails on {alone} ({first_line(error)})", remedy


def _same_form(returned: object, answer: Tensor) -> bool:
    return isinstance(returned, Tensor) and returned.shape == answer.shape and returned.dtype == torch.float32
