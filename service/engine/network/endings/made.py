"""What makes a network's answer: a softmax or sigmoid, also where something rounds, cuts or leaves out its results."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from service.engine.network.endings.rounding import Rounded, near, rounded
from service.engine.network.endings.seen import Ending
from service.engine.network.proofs.answering import Answering
from service.engine.network.proofs.checks import difference
from service.engine.network.proofs.watch import Watched
from service.errors import CatalogError
from service.tasks import of_logits
from service.tasks.guess import Meaning, meaning
from service.tasks.numbers.numbers import Numbers

_TRIED = 3  # functions whose results lie near the answer to one picture, that are run for all
_SHOWN = 0.005 + 1e-6  # of a probability: how far what is explained may be from what the network answers
_PERCENT = 100.0
_LEAST = 1e-38
_LOUDER = 1e4  # times the deviation: what is bounded stays where it is
# What has a gradient of zero everywhere.
_FLAT = ("Round", "Floor", "Ceil", "Trunc", "Sign", "Sgn", "Heaviside")


@dataclass(frozen=True)
class Made:
    """What makes an answer."""

    ending: Ending  # as seen with one picture
    result: Tensor | None = None  # (N, K) of all rows, where it is not the answer itself
    given: Tensor | None = None  # the same of what the function was given, where it can be explained instead
    rounded: Rounded | None = None  # what was done to the result
    part: bool = False  # whether some classes' results are left out, or are zero
    times: float = 1.0  # what the results are multiplied by

    @property
    def explained(self) -> bool:
        """Whether what the function was given can be explained for the answer."""
        return self.given is not None and self.rounded is not None and self.rounded.off <= _SHOWN


def made(answering: Answering, raw: Tensor, watched: Watched | None) -> Made | None:
    """Return what makes answers (N, ...) to all rows; None where nothing known does."""
    if watched is None:
        return None
    ending = watched.endings.of(watched.returned)
    if ending is not None or raw.ndim != 2 or answering.outlet.boxes:
        return None if ending is None else Made(ending)
    tried = 0
    for one in watched.endings.kin():
        if (part := _part(one, watched.returned, raw)) is not None:
            return part
        way = next((way for way in _WAYS if _follows(one, watched.returned, *way)), None)
        if way is None or tried == _TRIED:
            continue
        tried += 1
        if (found := _everywhere(answering, one, raw, *way, passes=watched.returned.requires_grad)) is not None:
            return found
    return None


_WAYS = tuple((log, times) for log in (False, True) for times in (1.0, _PERCENT) if not (log and times > 1))


def _shares(numbers: Tensor, ending: Ending) -> Tensor:
    """Return a function's results as probabilities."""
    return numbers.float().exp() if ending.name in ("log_softmax", "logsigmoid") else numbers.float()


def _answered(answer: Tensor, ending: Ending, log: bool, times: float) -> Tensor:
    """Return answers as probabilities, if they are a function's results, or the logarithms of these, times a number."""
    return (answer.float().exp() if log else _shares(answer, ending)) / times


def _follows(ending: Ending, answer: Tensor, log: bool, times: float) -> bool:
    if ending.result.numel() != answer.numel() or (log and ending.name in ("log_softmax", "logsigmoid")):
        return False
    shares, answered = _shares(ending.result, ending), _answered(answer, ending, log, times)
    if answer.numel() == 1:  # which has no order
        return near(shares, answered)
    return rounded(shares, answered) is not None


def _everywhere(
    answering: Answering, ending: Ending, raw: Tensor, log: bool, times: float, *, passes: bool
) -> Made | None:
    """Return what makes the answers to all rows, if it is a function near to the answer to one of them."""
    try:
        given = answering.answers(answering.rows, ending.call, takes=True)
    except (Exception, SystemExit):
        return None
    if given.shape != raw.shape:
        return None
    shares = given.softmax(1) if ending.name in ("softmax", "log_softmax") else given.sigmoid()
    what = rounded(shares, _answered(raw, ending, log, times))
    if what is None or (log and not what.known):  # logarithms to another base lie near, too
        return None
    name = {"softmax": "log_softmax", "sigmoid": "logsigmoid"}[ending.name] if log else ending.name
    logarithm = name in ("log_softmax", "logsigmoid")
    result = shares.clamp(min=_LEAST).log() if logarithm else shares
    # What is handed on as it is may be something else of other pictures: it is explained as it stands, if it can be.
    instead = what.known and (bool(what.how) or not passes)
    return Made(ending._replace(name=name), result, given if instead else None, what, times=times)


def _part(ending: Ending, answer: Tensor, raw: Tensor) -> Made | None:
    """Return a softmax of which an answer has not all classes, or some as zeros."""
    if ending.name != "softmax":
        return None
    found, all_of_it = answer.detach().float().flatten(), ending.result.detach().float().flatten()
    ends = len(all_of_it) - len(found)
    if ends < 0 or len(found) < 2 or len(all_of_it) < 3 or float(found.sum()) > 1 + 1e-4:
        return None
    there = (raw != 0).any(0) if ends == 0 else torch.ones_like(found, dtype=torch.bool)
    if (ends == 0 and bool(there.all())) or int(there.sum()) < 2:
        return None
    for at in range(ends + 1):
        if float((found - all_of_it[at : at + len(found)])[there].abs().max()) <= 1e-6:
            return Made(ending, part=True)
    return None


def meant_by(answering: Answering, raw: Tensor, watched: Watched | None, source: Made | None) -> Meaning:
    """Return what answers (N, ...) to all rows mean, and say so.

    Raises:
        Refused: they cannot be read as what is declared, or as any scores.
    """
    spec, checks = answering.spec, answering.checks

    def bounded() -> bool:
        loud = answering.answers(answering.pictures * _LOUDER)
        return bool((loud >= -1e-4).all() and (loud <= 1 + 1e-4).all())

    made_by: Any = source.ending.name if source else None
    moved, size = answering.moved if answering.outlet.corners else None, spec.transform.crop
    if source is not None and source.result is not None:
        raw = source.result if source.times == 1 else source.result * source.times
    numbers = Numbers(raw, answering.outlet.boxes, made_by, bounded, size, answering.rounding, moved)
    if watched is not None and raw.ndim == 2:
        numbers = replace(
            numbers,
            exclusive=source is not None and source.part,
            times=source.times if source is not None else 1.0,
            becomes=watched.endings.becomes(watched.returned),
            differentiable=watched.returned.requires_grad and flat(watched.returned) is None,
        )
    declared = spec.task.name if spec.task_known else None
    try:
        found = meaning(numbers, declared, spec.scale)
    except CatalogError as error:
        wrong, _, remedy = str(error).partition("; ")
        raise checks.refused("task", wrong, remedy or "set another task") from None
    if raw.ndim == 2 and numbers.decisions() and not numbers.differentiable:
        told = "it answers with 0 and 1 alone, which are decisions and no probabilities: small changes do not show"
        checks.warn("decisions", told, "let it return its scores, as before argmax or a threshold")
    if found.assumed:
        checks.warn("task", f"{found.task.name}; {found.found}; {found.assumed}", found.remedy)
    else:
        told = "as declared" if declared else "by its numbers"
        checks.passed("task", f"{found.task.name}, {told}; {found.found}")
    return found


def logits_of(answering: Answering, raw: Tensor, source: Made | None, found: Meaning) -> tuple[Tensor, Meaning]:
    """Take the logits for the answer (N, ...), where a softmax or sigmoid of them is proved to be the last thing done.

    Of a rounded answer, what was given to the function before is taken, and the meaning is what it was read by.
    """
    if source is None or source.ending.name in ("linear", "ranks") or found.task.scale in (None, "logits"):
        return raw, found
    if source.part:
        return raw, found
    name, call, checks = source.ending.name, source.ending.call, answering.checks
    logits = of_logits(found.task)
    if source.rounded is not None and not source.rounded.how and source.given is None:
        return raw, found
    if source.rounded is not None and not source.explained:
        told = f"what its {name} makes is {source.rounded.how}, up to {source.rounded.off:.2g} off"
        checks.warn("ending", told, f"let it return what its {name} makes, which gradients pass by, too")
        return raw, found
    before = source.given
    if before is None:
        try:
            before = answering.answers(answering.rows, call)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return raw, found
    if not torch.isfinite(before).all():  # of classes that are never chosen: their probability alone is a number
        return raw, found
    expected = found.task.scores(found.task.whole(raw if source.result is None else source.result), "probability")
    if before.shape != raw.shape or difference(logits.scores(logits.whole(before), "probability"), expected) > 1e-4:
        return raw, found
    answering.cut, answering.takes = call, source.rounded is not None
    if name == "softmax" and bool((before >= 0).all()) and bool(((before.sum(1) - 1).abs() < 1e-4).all()):
        told = "its last step is a softmax of what a softmax makes, which brings all classes close to each other"
        checks.warn("ending", told, "leave out the last one")
    elif source.rounded is None or not source.rounded.how:
        checks.passed("ending", f"its last step is a {name}: logits are what stands before it")
    else:
        told = f"what its {name} makes is {source.rounded.how}, up to {source.rounded.off:.2g} off"
        checks.passed("ending", f"{told}: logits are what stands before both, and what they say is told and explained")
    return before, replace(found, task=logits)


def flat(answer: Tensor) -> str | None:
    """Return the name of a function that a forward comes by, whose gradient is zero everywhere; None of none."""
    todo = [answer.grad_fn] if answer.grad_fn is not None else []
    met = set(todo)
    while todo:
        node = todo.pop()
        name = node.name().partition("Backward")[0]
        if name in _FLAT:
            return name.lower()
        follow = {follower for follower, _ in node.next_functions if follower is not None} - met
        met |= follow
        todo += follow
    return None
