"""Whether a model answers right now: found out once for all who ask, and never waited for without end."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from service.errors import DeadlineExceeded
from service.process import leave_cores_to_the_device

_KEPT_S = 1.0  # that an answer is good for


class Readiness:
    """Sends a row through a model where somebody asks whether it is ready.

    Whoever asks within a second shares one row: probes need no key, so that they must cost nothing. And whoever asks
    has a time limit that no thread which hangs can take away.
    """

    def __init__(
        self, check: Callable[[str], None], timeout_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take what is done to find out.

        Args:
            check: sends a row through the model of a name; raises where requests would not be answered.
            timeout_s: patience of whoever asks.
            clock: seconds that never go back.
        """
        self._check, self._timeout_s, self._clock = check, timeout_s, clock
        self._pool = ThreadPoolExecutor(1, "heatlens-ready", leave_cores_to_the_device)
        self._asked: dict[str, tuple[float, Future[None]]] = {}

    async def of(self, name: str) -> None:
        """Return where a model, which is served, answers.

        Raises:
            DeadlineExceeded: it does not within the time limit.
            ServiceError: it answers with an error.
        """
        begun, future = self._asked.get(name, (0.0, None))
        if future is None or (future.done() and self._clock() - begun >= _KEPT_S):
            future = self._pool.submit(self._check, name)
            self._asked[name] = self._clock(), future
        shared = asyncio.wrap_future(future)
        done, _ = await asyncio.wait({shared}, timeout=self._timeout_s)
        if not done:
            shared.add_done_callback(lambda late: late.cancelled() or late.exception())  # which nobody waits for
            raise DeadlineExceeded(f"{name!r} did not answer a row within {self._timeout_s:g} s")
        if (error := shared.exception()) is not None:
            raise error.with_traceback(None)

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
