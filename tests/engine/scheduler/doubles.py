"""Networks, clocks and works that the scheduler's tests are played with."""

import threading
from contextlib import contextmanager

import torch

from service.contract import Rows
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import CallWork, RowsWork

SHAPE = (1, 1, 1)


class Clock:
    """Seconds that go on only when they are told to."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


class Recorder:
    """A network that adds up its input, and notes each batch."""

    def __init__(self, clock=None, batch_s=0.0):
        self.batches = []
        self.poison = None
        self.clock, self.batch_s = clock, batch_s

    def forward(self, rows, precision):
        self.batches.append(rows[:, 0, 0, 0].tolist())
        if self.clock is not None:
            self.clock.now += self.batch_s
        if self.poison is not None and self.poison in self.batches[-1]:
            raise RuntimeError("poisoned row")
        return rows.sum((1, 2, 3), keepdim=True)[:, :, 0, 0]


def rows_of(value):
    return lambda i, j: torch.full((j - i, *SHAPE), float(value))


def work_of(network, value, count, build=None, **options):
    return RowsWork(network, SHAPE, Rows(count, build or rows_of(value)), **options)


@contextmanager
def held(device):
    """Keep the device thread busy, so that what is put meanwhile all waits at once."""
    busy, go = threading.Event(), threading.Event()

    def hold():
        busy.set()
        assert go.wait(20)

    holding = device.put(CallWork(hold), Run(priority=1000))
    assert busy.wait(20)
    try:
        yield
    finally:
        go.set()
    holding.wait()


def together(device, asked):
    """Put works, with their runs, while the thread is held; return each one's result or error."""
    with held(device):
        tickets = [device.put(work, run) for work, run in asked]
    return [outcome(ticket) for ticket in tickets]


def outcome(ticket):
    """Wait for a result or an error, and return it."""
    try:
        return ticket.wait()
    except Exception as error:
        return error
