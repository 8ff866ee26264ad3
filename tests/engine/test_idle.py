"""The server's own steps wait for idle time, and have a little of the device where there is none."""

import threading

import pytest

from service.engine.idle import when_idle
from service.engine.scheduler.run import IDLE, Run
from service.engine.scheduler.work import CallWork

LONG_S = 600.0  # however busy this machine is


def test_a_step_lets_all_requests_that_wait_go_first(device) -> None:
    begun, free, queued, order = threading.Event(), threading.Event(), threading.Event(), []

    class Watched:
        call = staticmethod(device.call)

        @staticmethod
        def put(work, run):
            ticket = device.put(work, run)
            queued.set()
            return ticket

    def busy() -> None:
        begun.set()
        free.wait(60)

    device.put(CallWork(busy), Run())
    assert begun.wait(60)
    own = threading.Thread(target=lambda: when_idle(Watched(), lambda: order.append("step"), LONG_S))
    own.start()
    assert queued.wait(60)
    requests = [device.put(CallWork(lambda i=i: order.append(i)), Run()) for i in range(3)]
    free.set()
    for request in requests:
        request.wait()
    own.join(60)
    assert order == [0, 1, 2, "step"]


@pytest.mark.parametrize("patience_s", [0.0, LONG_S])
def test_a_step_runs_once_and_says_what_it_found(device, patience_s) -> None:
    ran = []
    assert when_idle(device, lambda: ran.append(1) or "found", patience_s) == "found"
    device.call(lambda: None, Run(priority=IDLE))  # all that waited before it has had its turn
    assert ran == [1]
