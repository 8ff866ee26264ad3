"""Threads that callers take turns for."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.fair.portions import Portions
from service.fair.turns import Turns

T = TypeVar("T")
_LEAST_S, _LEAD_S = 0.001, 1.0  # that a task counts as; that callers who come may start ahead of fair shares


@dataclass(eq=False)
class _Task:
    caller: Hashable
    call: Callable[[], Any]
    future: "Future[Any] | None"  # None once it runs, or is forgotten

    def run(self) -> None:
        """Call, and answer whoever waits, where somebody still does."""
        # An error's traceback holds the frames of the thread that works, they hold this task, and the future the error.
        call, future = self.drop()
        if future is None or not future.set_running_or_notify_cancel():
            return
        try:
            result = call()
        except BaseException as error:
            future.set_exception(error)
            self = call = future = None  # type: ignore[assignment]  # this frame is one of them
        else:
            future.set_result(result)

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants it any more."""
        return self.future is not None and self.future.cancelled()

    def cancel(self) -> None:
        """Say that nobody wants it, where it does not run yet."""
        if (future := self.future) is not None:
            future.cancel()

    def drop(self) -> "tuple[Callable[[], Any], Future[Any] | None]":
        """Return what is to be called and who is told, and hold neither: a future holds its task while it lives."""
        held = self.call, self.future
        self.call, self.future = _nothing, None
        return held


def _nothing() -> None:
    """Be called in the place of what is not wanted any more."""


class Threads(Executor):
    """A pool of threads whose tasks are taken by turns.

    Of the callers that wait, who has the fewest threads is next, and of these who has had least of their time.
    Tasks may take minutes, and a thread cannot be taken back, so that one caller never has all of them: there is a
    thread for whoever comes next (see `Portions`). What is cancelled while it waits is forgotten at once.
    """

    def __init__(
        self,
        count: int,
        name: str,
        begin: Callable[[], object] = lambda: None,
        *,
        times: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start no thread yet.

        Args:
            count: of threads.
            name: what they are called, with a number.
            begin: called by each of them first.
            times: as many threads as are free, that a caller may have.
            clock: seconds that never go back.
        """
        self._pool = ThreadPoolExecutor(count, name, begin)
        self._clock = clock
        self._changed = threading.Condition()
        self._busy = Portions(count, times)
        self._waiting: Turns[Hashable, deque[_Task]] = Turns(lambda: deque[_Task](), _LEAD_S)
        self._open = True

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Let a thread call a function, for nobody in particular.

        Raises:
            RuntimeError: the pool is shut down.
        """
        return self.submit_for("", partial(fn, *args, **kwargs))

    def submit_for(self, caller: Hashable, call: Callable[[], T]) -> "Future[T]":
        """Let a thread call a function, for a caller.

        Raises:
            RuntimeError: the pool is shut down.
        """
        future: Future[T] = Future()
        with self._changed:
            if not self._open:
                raise RuntimeError("the threads are shut down")
            task = _Task(caller, call, future)
            self._waiting.enter(caller)
            self._waiting[caller].append(task)
            future.add_done_callback(lambda _: self._forget(task))
            self._hand_out()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing new; what waits is still called, or cancelled.

        Args:
            wait: until all threads have ended.
            cancel_futures: of what no thread has begun.
        """
        with self._changed:
            self._open = False
            left = [task for caller in self._waiting for task in self._waiting[caller]] if cancel_futures else []
        for task in left:
            task.cancel()
        with self._changed:
            self._changed.wait_for(lambda: not (wait and self._waiting))
            if not self._waiting:
                self._pool.shutdown(wait=False)
        if wait:
            self._pool.shutdown()

    def _hand_out(self) -> None:
        """Give free threads to those who wait."""
        while (task := self._next()) is not None:
            self._waiting.begin(task.caller)
            self._take_out(task)
            self._busy.take(task.caller)
            self._pool.submit(self._work, task)
        if not self._waiting:
            self._changed.notify_all()
            if not self._open:
                self._pool.shutdown(wait=False)

    def _next(self) -> _Task | None:
        """Return the task whose turn it is; None where there is none, or no thread for it."""
        if not self._busy.fits():
            return None
        allowed = [caller for caller in self._waiting if self._busy.within(caller)]
        if not allowed:
            return None
        return self._waiting[min(allowed, key=lambda one: (self._busy.by[one], self._waiting.place(one)))][0]

    def _work(self, task: _Task) -> None:
        caller, began = task.caller, self._clock()
        task.run()
        del task  # what it holds is not to wait for the lock
        with self._changed:
            self._waiting.charge(caller, max(_LEAST_S, self._clock() - began))
            self._busy.give(caller)
            self._hand_out()

    def _forget(self, task: _Task) -> None:
        """Let go of a task that has ended, also of one that nobody waits for before a thread was free."""
        if task.cancelled:
            task.drop()
            with self._changed:
                self._take_out(task)
                self._hand_out()

    def _take_out(self, task: _Task) -> None:
        tasks = self._waiting[task.caller]
        if task in tasks:
            tasks.remove(task)
            if not tasks:
                self._waiting.leave(task.caller)
