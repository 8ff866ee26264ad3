"""Who answers: pictures in flight, each read, asked about, and its failure understood."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

from service.api import problems
from service.bulk.listing import Listed
from service.bulk.loop import Done, Stop

log = logging.getLogger("heatlens")


class Worker(ABC):
    """Works on pictures in threads of its own."""

    errors: ClassVar[tuple[type[Exception], ...]]
    """What `answered` raises of a picture that has no answer; anything else is a defect."""

    def __init__(self, threads: int, start: Callable[[], None] | None = None) -> None:
        """Begin with nothing yet.

        Args:
            threads: pictures at a time.
            start: called first in each thread.
        """
        self._pool = ThreadPoolExecutor(threads, "heatlens-bulk", start)

    def start(self, picture: Listed) -> "Future[Done]":
        """Begin with one picture; the future may raise `Stop`."""
        return self._pool.submit(self._work, picture)

    def close(self) -> None:
        """Begin with no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _work(self, picture: Listed) -> Done:
        try:
            data = picture.read()
        except OSError as error:
            return Done(None, problem=error.strerror or str(error))
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            return self.answered(data, sha256)
        except self.errors as error:
            return self.refused(error.with_traceback(None), sha256)
        except Stop:
            raise
        except Exception as error:  # one picture must not end a million
            log.exception("defect at %s", picture.path)
            return Done(None, problem=f"a defect of the service: {type(error).__name__}: {error}")

    @abstractmethod
    def answered(self, data: bytes, sha256: str) -> Done:
        """Return a picture's files, and its line.

        Raises:
            Stop: no picture can be answered so.
        """

    @abstractmethod
    def refused(self, error: Any, sha256: str) -> Done:
        """Return what becomes of a picture without an answer.

        Raises:
            Stop: no picture can be answered so.
        """


def line(answer: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """Return what the manifest keeps of an answer."""
    return {"sha256": sha256, **{name: answer[name] for name in ("predictions", "image", "usage")}}


def failed(problem: Mapping[str, Any], sha256: str) -> Done:
    """Return what becomes of a picture that has no answer: final where the fault is its own, else to be tried again.

    Args:
        problem: its type, title, status and detail.
        sha256: of the picture.
    """
    own = problem["status"] in problems.OWN
    return Done({"sha256": sha256, "problem": dict(problem)} if own else None, problem=problem["detail"])
