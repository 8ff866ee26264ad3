"""Sums that are kept equal those that are made anew, whatever comes, goes and is done."""

from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduler.estimate.ledger import SMALL_PASSES, Ledger
from service.engine.scheduler.run import Run

REQUESTS = st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(-1, 1), st.integers(1, 200))


def _run(request: tuple[str, int, int, int]) -> Run:
    caller, kind, priority, passes = request
    run = Run(caller=caller, priority=priority, expected=passes)
    run.kind = kind
    return run


def _assert_is(ledger: Ledger, left: dict[Run, int]) -> None:
    """Hold a ledger against what each request has left."""
    assert {*ledger.runs} == {*left}
    assert (len(ledger), ledger.total) == (len(left), sum(left.values()))
    assert ledger.callers == {run.caller for run in left}
    for caller in "abc":
        own = [passes for run, passes in left.items() if run.caller == caller]
        assert ledger.of(caller) == (sum(own), len(own))
    groups = {(group.priority, group.caller, group.kind): group for group in ledger}
    assert groups.keys() == {(run.priority, run.caller, run.kind) for run in left}
    for key, group in groups.items():
        own = {run: passes for run, passes in left.items() if (run.priority, run.caller, run.kind) == key}
        large = {run: passes for run, passes in own.items() if run.admitted_passes > SMALL_PASSES}
        assert (group.total, group.lefts, group.large) == (sum(own.values()), own, large)
        assert group.small == sum(own.values()) - sum(large.values())


@given(st.lists(st.tuples(st.sampled_from(["come", "go", "done", "look"]), REQUESTS, st.integers(0, 30)), max_size=40))
def test_sums_that_are_kept_equal_those_that_are_made(history: list) -> None:
    ledger, left = Ledger(), dict[Run, int]()
    for what, request, number in history:
        runs = list(left)
        if what == "come":
            run = _run(request)
            ledger.add(run)
            left[run] = run.left
        elif what == "look":
            ledger = ledger.up_to_date()
            left = {run: run.left for run in left}
        elif runs and what == "go":
            ledger.remove(gone := runs[number % len(runs)])
            assert gone not in ledger
            del left[gone]
        elif runs:
            runs[number % len(runs)].advance(number)  # nobody sees that before the next look
        _assert_is(ledger, left)
