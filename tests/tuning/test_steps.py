"""A step of measuring at a time: in idle time, in the end as a request's, and within a budget."""

import threading

import pytest

from service.engine.scheduler.run import IDLE, Run
from service.engine.scheduler.work import CallWork
from service.errors import EngineUnavailable
from service.tuning.steps import Spent, Steps

LONG_S = 600.0  # however busy this machine is


def _steps(device, **others):
    return Steps(device, threading.Event(), **{"patience_s": LONG_S, "budget_s": LONG_S} | others)


def test_a_step_runs_on_the_device_thread_once(device):
    ran = []
    steps = _steps(device)
    for step in (steps, steps.free):
        assert step(lambda: ran.append(threading.current_thread().name) or len(ran)) == len(ran)
    assert len(ran) == 2
    assert all(name.startswith("heatlens-cpu") for name in ran)


def test_under_load_a_step_goes_as_a_request_does(device):
    """Where the device is never idle, it has waited for many times as long as the step before it took."""
    begun, free, asked, seen, calls = (threading.Event(), threading.Event(), threading.Event(), [], [])

    def busy():
        begun.set()
        free.wait(60)

    class Watched:
        threads = 1

        def put(self, work, run):
            seen.append(run.priority)
            return device.put(work, run)

        def call(self, call, run):
            ticket = self.put(CallWork(call), run)
            asked.set()
            return ticket.wait()

    blocker = device.put(CallWork(busy), Run(priority=1))
    assert begun.wait(60)
    steps = _steps(Watched(), patience_s=0.0)
    asker = threading.Thread(target=lambda: calls.append(steps(lambda: "done")))
    asker.start()
    assert asked.wait(60)
    free.set()
    asker.join(60)
    assert (seen, calls) == ([IDLE, 0], ["done"])
    assert blocker.wait() is None


@pytest.mark.parametrize("patience_s", [LONG_S, 0.0])
def test_a_step_that_fails_says_so_once(device, patience_s):
    steps, ran = _steps(device, patience_s=patience_s), []

    def failing():
        ran.append(1)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        steps(failing)
    device.call(lambda: None, Run(priority=IDLE))  # all that waited before it has had its turn
    assert len(ran) == 1


def test_the_budget_is_what_steps_take_on_all_cores_and_applying_is_free(device):
    steps = _steps(device, budget_s=1e-9)
    assert steps.free(lambda: sum(range(1000))) == 499500
    assert steps.left_s == 1e-9
    assert steps(lambda: sum(range(100_000)))  # the last one is finished
    assert steps.left_s < 0
    with pytest.raises(Spent):
        steps(lambda: None)
    assert steps.free(lambda: 1) == 1


def test_when_the_server_closes_no_step_begins(device):
    closing = threading.Event()
    steps = Steps(device, closing)
    closing.set()
    for ask in (steps.check, lambda: steps(lambda: None), lambda: steps.free(lambda: None)):
        with pytest.raises(EngineUnavailable, match="closing"):
            ask()
