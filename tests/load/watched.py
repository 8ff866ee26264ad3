"""The `heatlens` command with a watchdog of its event loop: `python -m tests.load.watched serve ...`.

A thread asks the loop for a sign of life all the time. How long it waits for it is the loop's lag: as long, nobody gets
anything, health included. Where it waits long, it looks where the loop is. It writes what it found to the file that
LOOP_LAG names, every second. What it overslept itself is told, too: so far, the machine had no time for anybody.

It looks what memory is held for, too, as far as the service counts it itself, and what the allocator has of it.
"""

import asyncio
import ctypes
import gc
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from service.api.middleware import Bodies
from service.cli import main
from service.server.server import Server

EVERY_S, LONG_S = 0.02, 0.1
_RESTING = {"wait", "_worker", "get", "select", "accept", "recv", "poll"}
HELD_S = 0.25  # between two looks at memory


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of <malloc.h>."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def heap() -> dict[str, int]:
    """Return the bytes that glibc's allocator has given out, those it keeps free, and those mapped one by one."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):  # another C library, or one before 2.33
        return {}
    mallinfo2.restype = _Mallinfo
    found = mallinfo2()
    return {"given out": found.uordblks, "kept free": found.fordblks, "mapped": found.hblkhd}


def holdings(server: Server) -> dict[str, int]:
    """Return the bytes that the service itself says it holds, by what for."""
    app, context = server.app.middleware_stack, server.app.state.context
    while app is not None and not isinstance(app, Bodies):
        app = getattr(app, "app", None)
    unsent = 0
    with suppress(RuntimeError):  # changed meanwhile
        unsent = sum(one.unsent for one in server.front.waiting)
    return {
        "bodies": app.held if app is not None else 0,
        "large pictures": context.pipeline.codec.room.held,
        "unsent": unsent,
        "cache": context.device.cache.bytes,
        "boxes": context.device._claims.queue.held,
    }


class Watchdog:
    """Measures how long the loop keeps others waiting."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, file: Path, holdings: Callable[[], dict[str, int]] = dict
    ) -> None:
        self.loop, self.file, self.ident = loop, file, threading.get_ident()
        self.lags: list[float] = []
        self.overslept: list[float] = []
        self.places: Counter[str] = Counter()  # where the loop was while it kept others waiting
        self.holding: Counter[str] = Counter()  # what other threads were about when nobody else could work for long
        self.collected: Counter[str] = Counter()  # milliseconds that the longest collection of each generation took
        gc.callbacks.append(self.collecting)
        self.worst = (0.0, "")
        self.long = threading.Event()  # it has kept others waiting for long, at least once
        self.holdings, self.most = holdings, {"resident": 0}  # bytes when most of them were resident, by what for
        self.process = psutil.Process()

    def run(self) -> None:
        """Watch until the loop is closed."""
        written = weighed = time.monotonic()
        while not self.loop.is_closed():
            self.look()
            if time.monotonic() - weighed > HELD_S:
                weighed = time.monotonic()
                self.weigh()
            if time.monotonic() - written > 1:
                written = time.monotonic()
                self.write()

    def look(self) -> None:
        """Rest, then ask for one sign of life."""
        before = time.monotonic()
        time.sleep(EVERY_S)
        self.overslept.append(time.monotonic() - before - EVERY_S)
        if self.overslept[-1] > LONG_S:  # who has just let go of Python's lock is still near where it was held
            for ident, frame in sys._current_frames().items():
                held = traceback.extract_stack(frame, 3)
                if ident not in (self.ident, threading.get_ident()) and held[-1].name not in _RESTING:
                    self.holding[
                        " < ".join(f"{one.name} ({Path(one.filename).name}:{one.lineno})" for one in held[::-1])
                    ] += 1
        alive, asked, place = threading.Event(), time.monotonic(), ""
        try:
            self.loop.call_soon_threadsafe(alive.set)
        except RuntimeError:  # closed just now
            return
        while not alive.wait(LONG_S):
            frame = sys._current_frames().get(self.ident)
            place = "".join(traceback.format_stack(frame, 6)) if frame is not None else ""
            self.long.set()
            if self.loop.is_closed():
                return
        lag = time.monotonic() - asked
        self.lags.append(lag)
        if place:
            self.places[place.strip().rpartition("\n  File")[2]] += 1
            self.worst = max(self.worst, (lag, place))

    def collecting(self, phase: str, info: dict[str, int]) -> None:
        """Take note of how long the collector of cycles works: nobody else does meanwhile."""
        if phase == "start":
            self._began = time.monotonic()
        else:
            name = f"generation {info['generation']}"
            self.collected[name] = max(self.collected[name], round(1000 * (time.monotonic() - self._began)))

    def weigh(self) -> None:
        """Look what memory is held for, and keep it where there was never more."""
        resident = self.process.memory_info().rss
        if resident > self.most["resident"]:
            self.most = {"resident": resident, **heap(), **self.holdings(), "threads": threading.active_count()}

    def write(self) -> None:
        """Write all that was found to the file, at once."""
        found = {
            "lags": [round(lag, 4) for lag in self.lags],
            "overslept": [round(over, 4) for over in self.overslept],
            "places": self.places.most_common(20),
            "holding": self.holding.most_common(12),
            "collected": self.collected.most_common(3),
            "worst": self.worst,
            "most": self.most,
        }
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(found))
        new.replace(self.file)


class Watched(Server):
    """A server whose loop is watched from its start on."""

    async def startup(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        await super().startup(sockets)
        dog = Watchdog(asyncio.get_running_loop(), Path(os.environ["LOOP_LAG"]), lambda: holdings(self))
        threading.Thread(target=dog.run, name="watchdog", daemon=True).start()


if __name__ == "__main__":
    import service.server.server

    service.server.server.Server = Watched  # type: ignore[misc]
    main()
