"""Pictures in flight: as many as share batches, fed in order, written as they end, and told of."""

import errno
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from service.bulk.listing import Listed
from service.bulk.manifest import Manifest


@dataclass(frozen=True)
class Done:
    """What became of one picture.

    line: for the manifest; None: nothing final, and the next run tries it again.
    files: their bytes, by ending.
    problem: why there is no answer.
    """

    line: Mapping[str, Any] | None
    files: Mapping[str, bytes] = field(default_factory=dict)
    problem: str | None = None


@dataclass
class Tally:
    """How a run has ended."""

    done: int = 0
    failed: int = 0  # in this run, or for good in an earlier one
    skipped: int = 0  # done by an earlier one
    interrupted: bool = False


_OF_NAMES = {errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR}
"""Why a file cannot be written because of what it is called: others can."""


class Stop(Exception):
    """What is asked is wrong for every picture; the message says how."""


def run(
    pictures: Sequence[Listed],
    manifest: Manifest,
    start: Callable[[Listed], "Future[Done]"],
    in_flight: int,
    *,
    fail_fast: bool = False,
    said: TextIO | None = None,
) -> Tally:
    """Work off all pictures that the manifest does not have.

    An interrupt lets those that are in flight end, and begins no others; a second one ends at once.

    Args:
        pictures: in order.
        manifest: of what is done; every picture that ends is added.
        start: begins with one picture.
        in_flight: how many at a time.
        fail_fast: begin no others after the first failure.
        said: where progress and failures are told; default: standard error.

    Raises:
        Stop: no picture can be answered so.
        OSError: nothing can be written any more.
    """
    waiting = [one for one in pictures if one.name not in manifest.done]
    before = [one for one in pictures if one.name in manifest.failed]
    tally = Tally(failed=len(before), skipped=len(pictures) - len(waiting) - len(before))
    progress = Progress(len(pictures), tally, said or sys.stderr)
    for one in before:
        progress.failure(f"{one.path}: {manifest.failed[one.name]}")
    running: dict[Future[Done], Listed] = {}
    coming = iter(waiting)
    with _interrupts(progress.interrupted) as interrupted:
        try:
            while True:
                held = interrupted.is_set() or (fail_fast and tally.failed > len(before))
                while not held and len(running) < in_flight and (picture := next(coming, None)) is not None:
                    running[start(picture)] = picture
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    _ended(running.pop(future), future.result(), manifest, tally, progress)
        finally:
            for future in running:
                future.cancel()
    tally.interrupted = interrupted.is_set()
    progress.close()
    return tally


def _ended(picture: Listed, found: Done, manifest: Manifest, tally: Tally, progress: "Progress") -> None:
    if found.line is not None:
        try:
            manifest.add(picture.name, found.line, found.files)
        except OSError as error:
            if error.errno not in _OF_NAMES:
                raise
            found = Done(None, problem=f"its answer cannot be written: {error.strerror}")
    if found.problem is None:
        tally.done += 1
    else:
        tally.failed += 1
        progress.failure(f"{picture.path}: {found.problem}")
    progress.show()


@contextmanager
def _interrupts(told: Callable[[], None]) -> Iterator[threading.Event]:
    """Turn the first interrupt into an event: a line or a file that is being written is written to its end."""
    happened = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # which alone may listen to them
        yield happened
        return

    def handle(number: int, frame: Any) -> None:
        if happened.is_set():
            raise KeyboardInterrupt
        happened.set()
        told()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield happened
    finally:
        signal.signal(signal.SIGINT, before)


class Progress:
    """A line that says how far a run is, on a terminal; failures are told anywhere."""

    def __init__(self, total: int, tally: Tally, said: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.tally, self.said, self.clock = total, tally, said, clock
        self.begun = clock()
        self.before = tally.failed
        self.shown = 0

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return (self.tally.done + self.tally.failed - self.before) / max(self.clock() - self.begun, 1e-9)

    @property
    def text(self) -> str:
        """What there is to say: pictures done of all, how fast, and how long it will take."""
        tally = self.tally
        now = tally.done + tally.failed + tally.skipped
        text = f"{now}/{self.total} pictures"
        if rate := self.rate:
            left = int((self.total - now) / rate)
            text += f", {_few(rate)}/s, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        return text + (f", {tally.failed} failed" if tally.failed else "")

    def show(self) -> None:
        """Write the line over the last one."""
        if self.said.isatty():
            text = self.text
            self.said.write("\r" + text.ljust(self.shown))
            self.said.flush()
            self.shown = len(text)

    def failure(self, text: str) -> None:
        """Tell a failure on a line of its own."""
        if self.shown:
            self.said.write("\r" + " " * self.shown + "\r")
            self.shown = 0
        self.said.write(_plain(text) + "\n")

    def interrupted(self) -> None:
        """Say what an interrupt has done."""
        self.failure("interrupted: what is in flight is ended; once more ends at once")

    def close(self) -> None:
        """Say how it has ended."""
        tally = self.tally
        if self.shown:
            self.said.write("\n")
        parts = [f"{tally.done} done", f"{tally.failed} failed", f"{tally.skipped} there already"]
        self.said.write(f"{self.total} pictures: {', '.join(parts)}; {_few(self.rate)}/s\n")
        self.said.flush()


def _few(number: float) -> str:
    """Return a number with two digits, or all that stand before its point."""
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"


def _plain(text: str) -> str:
    """Return a text that is one line, and changes nothing on a terminal: files may be called anything."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
