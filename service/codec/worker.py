"""A process that decodes and draws for another one. It knows no network, and does not import PyTorch.

It does one job at a time, within its own limits of processor time and memory, and ends when the other process does: by
itself, as what it listens to is closed then, whatever ended it.
"""

import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

from service.codec.channel import Channel, Ended, NoRoom, Part
from service.codec.inside import DECODING, DRAWING, Canvas, Limits, decoded, seen, shown_on
from service.errors import ServiceError
from service.images import Picture, Transform
from service.images.room import SMALL
from service.rendering import Heat, OutputOptions
from service.rendering.files import ENCODERS, files

_PATIENCE = 3  # times its processor time that a job may take by the clock, as others may keep the processor busy
_LIBRARIES = 512 * 2**20  # bytes of memory beside what pictures take
_FIRST_TO_GO = "500"  # of -1000 to 1000: where the machine runs out of memory, this rather than the server
Answer = tuple[dict[str, Any], list[Part]]


class _Large(ServiceError):
    """A picture that may only be decoded once there is room for it."""

    def __init__(self, pixels: int) -> None:
        super().__init__("")
        self.pixels = pixels


class Desk:
    """What is worked at: jobs one after the other, and the picture that lies there to be drawn on."""

    def __init__(self, channel: Channel, limits: Limits) -> None:
        self.channel, self.limits = channel, limits
        self._canvas: Any = None  # gives what is drawn on

    def serve(self) -> None:
        """Work until nobody asks any more."""
        with suppress(Ended):
            self.channel.send({"ready": True})
            while True:
                asked = self.channel.receive()
                if asked["job"] == "clear":  # nobody waits for an answer
                    self._canvas = None
                    continue
                with _bounded(self.limits.cpu_s):
                    self._reply(asked, time.process_time())

    def _reply(self, asked: dict[str, Any], started: float) -> None:
        try:
            said, parts = self._done(asked)
        except _Large as found:
            said, parts = {"large": found.pixels}, []
        except ServiceError as error:
            said, parts = (
                {"error": type(error).__name__, "detail": error.detail, "errors": [*map(list, error.errors)]},
                [],
            )
        except MemoryError:
            said, parts = {"memory": True}, []
        except Exception:
            said, parts = {"failed": traceback.format_exc()}, []
        cpu_s = {"cpu_s": time.process_time() - started}
        try:
            self.channel.send(said | cpu_s, parts)
        except NoRoom:
            self.channel.send({"no room": True} | cpu_s)

    def _done(self, asked: dict[str, Any]) -> Answer:
        if asked["job"] == "see":
            return self._see(asked)
        if asked["lay"]:
            self._canvas = self._laid(asked)
        return self._drawn(asked)

    def _see(self, asked: dict[str, Any]) -> Answer:
        self._canvas = None  # whoever drew has gone

        def begin(pixels: int) -> None:
            if pixels * DECODING > SMALL and not asked["large"]:
                raise _Large(pixels)

        transform = _transform(asked["transform"])
        picture, x = seen(decoded(self.channel.part(asked, 0), transform, self.limits, begin), transform)
        said = {"size": picture.size, "box": picture.box, "warnings": picture.warnings, "seen": picture.seen.size}
        return said | {"shape": x.shape}, [picture.seen.tobytes(), x.data.cast("B")]

    def _laid(self, asked: dict[str, Any]) -> Any:
        """Return what gives the picture that is drawn on from now on."""
        found, whole = asked["seen"], asked["whole"]
        picture = None
        if found is not None:
            size = tuple(found["seen"])
            pixels = Image.frombytes("RGB", size, self.channel.part(asked, 1)) if not whole else Image.new("RGB", size)
            picture = Picture(tuple(found["size"]), None, pixels, tuple(found["box"]))
        file = self.channel.part(asked, 1) if whole else None
        return shown_on(Canvas(picture, file, _transform(asked["transform"])), self.limits)

    def _drawn(self, asked: dict[str, Any]) -> Answer:
        patch = tuple(asked["patch"]) if asked["patch"] is not None else None
        heat = Heat(self.channel.floats(asked, 0, asked["shape"]), asked["kind"], asked["interpolation"], patch)
        output = OutputOptions.model_construct(**asked["output"])
        made = files(heat, self._canvas(), output, asked["pictures"], ENCODERS[asked["encode"]])
        return {"there": [one is not None for one in made]}, [one for one in made if one is not None]


def _transform(said: dict[str, Any]) -> Transform:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    return Transform(**fields)


@contextmanager
def _bounded(cpu_s: float) -> Iterator[None]:
    """End the process, whatever its decoders are about, where a job takes too long."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE * cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def settle(limits: Limits) -> None:
    """Set up the process: what ends it, what memory it may take, and that it goes first where there is none left."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # which a terminal or a supervisor sends to all: the server drains
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    for name in ("SIGPROF", "SIGALRM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    most = _LIBRARIES + limits.max_pixels * (DECODING + DRAWING) + 4 * limits.max_bytes
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, "ascii")


def keep_apart() -> None:
    """Have only Python write to the server's standard error.

    What decodes a TIFF writes a line there for each row that it cannot read, of which a small file has millions.
    """
    with suppress(OSError):  # it may be closed
        own = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        sys.stderr = os.fdopen(own, "w", buffering=1, errors="backslashreplace")


def main(arguments: list[str]) -> None:
    """Serve: descriptors of the connection and of the shared memory, and the limits in JSON."""
    connection, memory, said = arguments
    limits = Limits(**json.loads(said))
    keep_apart()
    settle(limits)
    Desk(Channel(socket.socket(fileno=int(connection)), int(memory)), limits).serve()
    sys.stdout.flush()
    os._exit(0)  # nothing is left to be done, and what libraries do at their end only takes time
