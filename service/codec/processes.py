"""Decoding and drawing in processes of their own, so that the server's own process keeps Python's lock for the rest."""

import logging
import queue
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from PIL import Image

from service import errors
from service.codec.channel import Ended, NoRoom, Part
from service.codec.child import Absent, Lost, Process
from service.codec.inside import DECODING, Canvas, Check, Inside, Limits
from service.errors import CodecUnavailable, InvalidParameter, ServiceError, UnprocessableImage
from service.images import Picture, Room, Transform
from service.images.transform import Floats
from service.rendering import Heat, OutputOptions
from service.rendering.files import Draw, Encode, Files, Pictures, name_of

log = logging.getLogger("heatlens")
Ask = tuple[dict[str, Any], Sequence[Part]]
_REST_S = 5.0  # after one could not be started, until the next is tried


class Seat:
    """What is lent to one job at a time: a process, started anew where it has ended."""

    def __init__(self, start: Callable[[], Process], ended: Callable[[Lost], None]) -> None:
        self._start, self._ended = start, ended
        self.process: Process | None = None

    def ask(self, message: Callable[[Process], Ask], check: Check) -> tuple[dict[str, Any], Process]:
        """Have a job done, and once again in a new process where the first one has ended in it.

        Args:
            message: makes it, for a process.
            check: called before it is tried again.

        Raises:
            Absent: no process is to be had.
            Lost: it has ended in the second one, too, or has used up its time.
        """
        for last in (False, True):
            process = self._there()
            try:
                return process.ask(*message(process)), process
            except Absent:
                if not process.ready:
                    self.process = None
                raise
            except Lost as lost:
                self.process = None
                self._ended(lost)
                if last or lost.why == "time":  # which it would use up again
                    raise
            check()
        raise AssertionError  # never reached

    def _there(self) -> Process:
        if self.process is not None and self.process.gone:
            self.process.end()
            self.process = None
        if self.process is None:
            self.process = self._start()
        return self.process


class Processes:
    """Decodes and draws in processes; equal bytes to those of `Inside`, which does it where no process is to be had."""

    def __init__(
        self,
        limits: Limits,
        count: int,
        places: int,
        *,
        observe: Callable[[str, float], None] = lambda job, cpu_s: None,
        ended: Callable[[str], None] = lambda why: None,
    ) -> None:
        """Start so many.

        Args:
            limits: of pictures.
            count: of processes.
            places: for work in this process, where there is no other.
            observe: told of each job, `see` or `draw`, and of the processor time that it took.
            ended: told why a process has ended in the middle of a job: `time`, `crash` or `killed`; `absent`: that
                none was to be had for one.
        """
        self.limits, self._observe, self._told = limits, observe, ended
        self.room = Room(count, limits.pictures_bytes)
        self.inside = Inside(limits, places)
        self._absent_until, self._closed = 0.0, False
        self._seats = [Seat(self._started, self._lost) for _ in range(count)]
        # Whoever has worked last works first: few requests at a time keep few processes warm.
        self._free: queue.LifoQueue[Seat] = queue.LifoQueue()
        for seat in self._seats:
            with suppress(Absent):
                seat.process = self._started()
            self._free.put(seat)

    @property
    def pids(self) -> list[int]:
        """The numbers of those that are there."""
        return [process.pid for seat in self._seats if (process := seat.process) is not None and not process.gone]

    def see(self, file: bytes, transform: Transform, check: Check, caller: Hashable = "") -> tuple[Picture, Floats]:
        """See `Codec`. Only a large picture waits for room, once another process has found that it is one."""
        try:
            found = self._seen(file, transform, check, large=False)
            if isinstance(found, int):
                with self.room.place(found * DECODING, check, caller):
                    found = self._seen(file, transform, check, large=True)
            if isinstance(found, int):
                raise AssertionError(found)
            return found
        except Absent as why:
            self._tell(why)
            return self.inside.see(file, transform, check, caller)
        except Lost as lost:
            raise _true(lost, self.limits, "decode") from None

    def _seen(self, file: bytes, transform: Transform, check: Check, *, large: bool) -> tuple[Picture, Floats] | int:
        message = {"job": "see", "transform": transform.as_json(), "large": large}
        with self._seat(check) as seat:
            said, process = seat.ask(lambda process: (message, [file]), check)
            process.laid = None
            self._account("see", said)
            if "large" in said:
                return int(said["large"])
            (x0, y0, x1, y1), size = said["box"], tuple(said["seen"])
            seen = Image.frombytes("RGB", size, process.channel.part(said, 0))
            x = process.channel.floats(said, 1, said["shape"])
            process.channel.trim(said)
        return Picture(tuple(said["size"]), None, seen, (x0, y0, x1, y1), warnings=tuple(said["warnings"])), x

    @contextmanager
    def drawing(self, canvas: Canvas, check: Check, caller: Hashable = "") -> Iterator[Draw]:
        """See `Codec`. One process draws all of them, as it has to be sent the picture once."""
        with self.room.large(canvas.bytes, check, caller), self._seat(check) as seat:
            easel = _Easel(self, seat, canvas, check)
            try:
                yield easel.draw
            finally:
                easel.clear()

    def close(self) -> None:
        """Let all of them end, and return once they have."""
        self._closed = True
        found = [seat.process for seat in self._seats if seat.process is not None]
        for process in found:
            process.hang_up()
        for process in found:
            process.end()

    @contextmanager
    def _seat(self, check: Check) -> Iterator[Seat]:
        seat = self._free.get()
        try:
            check()
            yield seat
        finally:
            self._free.put(seat)

    def _account(self, job: str, said: dict[str, Any]) -> None:
        """Count a job, and raise what is wrong with it."""
        self._observe(job, float(said["cpu_s"]))
        if "error" in said:
            kind: type[ServiceError] = getattr(errors, said["error"])
            raise kind(said["detail"], errors=[errors.FieldError(*one) for one in said["errors"]])
        if "memory" in said:
            raise _costly(job, "memory than a codec process may have")
        if "no room" in said:
            raise Absent("there is no room in the memory that is shared with codec processes")
        if "failed" in said:
            raise RuntimeError(f"in a codec process:\n{said['failed']}")

    def _started(self) -> Process:
        if self._closed or time.monotonic() < self._absent_until:
            raise Absent("none could be started a moment ago")
        return Process(self.limits)

    def _lost(self, lost: Lost) -> None:
        log.warning("a codec process has ended in the middle of a job: %s", lost.how)
        self._told(lost.why)

    def _tell(self, why: Absent) -> None:
        now = time.monotonic()
        if now >= self._absent_until:
            self._absent_until = now + _REST_S
            log.warning("no codec process: pictures are decoded and drawn in the server's own (%s)", why)
        self._told("absent")


class _Easel:
    """What draws the maps of one answer."""

    def __init__(self, owner: Processes, seat: Seat, canvas: Canvas, check: Check) -> None:
        self._owner, self._seat, self._canvas, self._check = owner, seat, canvas, check
        self._laid = object()  # by which a process is known to have the picture
        self._process: Process | None = None

    def draw(self, heat: Heat, output: OutputOptions, pictures: Pictures, encode: Encode | None) -> Files:
        """Draw a map, as `rendering.files` does."""
        if pictures == "none" or encode is None:
            return None, None
        name = name_of(encode)
        try:
            if name is None:
                raise Absent(f"no other process knows {encode}")
            asked = {
                "job": "draw",
                "shape": heat.array.shape,
                "kind": heat.kind,
                "interpolation": heat.interpolation,
                "patch": heat.patch,
                "output": output.model_dump(),
                "pictures": pictures,
                "encode": name,
            }
            said, process = self._seat.ask(lambda process: self._message(process, asked, heat), self._check)
            self._process, process.laid = process, self._laid
            self._owner._account("draw", said)
            numbers = iter(range(len(said["parts"])))
            alone, over = (process.channel.part(said, next(numbers)) if there else None for there in said["there"])
            process.channel.trim(said)
            return alone, over
        except Absent as why:
            if name is not None:
                self._owner._tell(why)
            with self._owner.inside.drawing(self._canvas, self._check) as draw:
                return draw(heat, output, pictures, encode)
        except Lost as lost:
            raise _true(lost, self._owner.limits, "draw") from None

    def _message(self, process: Process, asked: dict[str, Any], heat: Heat) -> Ask:
        parts: list[Part] = [heat.array.data.cast("B")]
        lay = process.laid is not self._laid
        if not lay:
            return asked | {"lay": False}, parts
        seen, whole = self._canvas.seen, self._canvas.file is not None
        said = None if seen is None else {"seen": seen.seen.size, "size": seen.size, "box": seen.box}
        if self._canvas.file is not None:
            parts.append(self._canvas.file)
        elif seen is not None:
            parts.append(seen.seen.tobytes())
        transform = self._canvas.transform.as_json()
        return asked | {"lay": True, "seen": said, "whole": whole, "transform": transform}, parts

    def clear(self) -> None:
        """Let the process forget a large picture."""
        if self._process is not None and self._canvas.file is not None and self._process is self._seat.process:
            self._process.laid = None
            with suppress(Ended, NoRoom):
                self._process.channel.send({"job": "clear"})


def _true(lost: Lost, limits: Limits, verb: str) -> ServiceError:
    """Return what to say to whom a process was lost for."""
    if lost.why == "time":
        return _costly("see" if verb == "decode" else verb, f"than {limits.cpu_s:g} s of processor time")
    if lost.why == "crash" and verb == "decode":
        return UnprocessableImage(f"the decoder crashes on the picture, twice ({lost.how}); save it again")
    return CodecUnavailable(
        f"the process that was to {verb} the picture has ended twice ({lost.how}), perhaps as memory ran out; send it "
        "again, or a smaller picture"
    )


def _costly(job: str, than: str) -> ServiceError:
    """Return what to say of a job that takes more than it may."""
    if job == "draw":
        return InvalidParameter.at("/output", f"to draw the answer takes more {than}; ask for `size: input`")
    return UnprocessableImage(f"to decode the picture takes more {than}; save it again, or scale it down")
