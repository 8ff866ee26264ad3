"""Steps of measuring on the device thread: in its idle time, and no more of them than a budget of processor time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from service.engine.idle import when_idle
from service.engine.scheduler.device import Device
from service.errors import EngineUnavailable

T = TypeVar("T")
BUDGET_S = 30.0  # of processor time that measuring one model takes
PATIENCE_S = 1.0  # that a step waits for an idle device at least
_SHARE = 19  # times as long as the step before it took, that it waits


class Spent(Exception):
    """The budget of measuring is used up."""


class Steps:
    """What measuring one model asks of the device, a step no longer than a batch at a time."""

    def __init__(
        self, device: Device, closing: threading.Event, *, budget_s: float = BUDGET_S, patience_s: float = PATIENCE_S
    ) -> None:
        """Begin with the whole budget; once `closing` is set, no step begins any more."""
        self._device, self._closing, self._patience_s = device, closing, patience_s
        self.left_s = budget_s
        self._last_s = 0.0

    def __call__(self, call: Callable[[], T], /) -> T:
        """Run a step.

        Raises:
            Spent: the budget is used up.
            EngineUnavailable: the server is closing.
        """
        self.check()
        if self.left_s <= 0:
            raise Spent
        return self._run(call)

    def free(self, call: Callable[[], T], /) -> T:
        """Run a step that applies what was found, which the budget does not bound.

        Raises:
            EngineUnavailable: the server is closing.
        """
        left_s = self.left_s
        try:
            self.check()
            return self._run(call)
        finally:
            self.left_s = left_s

    def check(self) -> None:
        """Raise `EngineUnavailable` where the server is closing."""
        if self._closing.is_set():
            raise EngineUnavailable("the server is closing")

    def _run(self, call: Callable[[], T]) -> T:
        """Run a step when nobody else wants the device, or, where that is never, as a request's."""

        def timed() -> T:
            started = time.thread_time()
            try:
                return call()
            finally:
                self._last_s = time.thread_time() - started
                self.left_s -= self._last_s * self._device.threads

        return when_idle(self._device, timed, max(self._patience_s, _SHARE * self._last_s))
