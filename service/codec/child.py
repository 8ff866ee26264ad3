"""One process that decodes and draws, and the channel to it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from service.codec.channel import Channel, Ended, NoRoom, Part, shared_memory
from service.codec.inside import Limits

_START_S = 60.0  # for a process to be there
_CLOCK = 4  # times its processor time after which a job is given up, where the process does not end by itself
_END_S = 2.0


def _signals(*names: str) -> frozenset[int]:
    """Return the numbers of those that this system has."""
    return frozenset(int(getattr(signal, name)) for name in names if hasattr(signal, name))


_KILLS, _OF_TIME = _signals("SIGKILL", "SIGTERM", "SIGINT"), _signals("SIGPROF", "SIGALRM")


class Absent(Exception):
    """There is no process to be had, or no memory to share with it: somebody else has to do the work."""


class Lost(Exception):
    """A process has ended in the middle of a job; says why: `time`, `crash` or `killed`, and by which signal."""

    def __init__(self, why: str, how: str) -> None:
        super().__init__(how)
        self.why, self.how = why, how


class Process:
    """One process, and the channel to it."""

    def __init__(self, limits: Limits) -> None:
        """Start it; it says by itself when it is there.

        Raises:
            Absent: the system starts no more processes, or has no memory to share.
        """
        self.ready = False
        self.laid: object = None  # what lies there to be drawn on
        self._patience_s = _CLOCK * limits.cpu_s
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise Absent(str(error)) from None
        with theirs:
            try:
                memory = shared_memory()
            except OSError as error:
                ours.close()
                raise Absent(str(error)) from None
            self.channel = Channel(ours, memory)
            try:
                self._child = subprocess.Popen(
                    _command(theirs.fileno(), memory, limits),
                    pass_fds=(theirs.fileno(), memory),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                )
            except (OSError, ValueError) as error:  # no more processes; a system that hands none of its files on
                self.channel.close()
                raise Absent(str(error)) from None

    @property
    def pid(self) -> int:
        """Its number."""
        return self._child.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended while it rested."""
        return self._child.poll() is not None

    def ask(self, message: Mapping[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
        """Have a job done, and return what is said of it.

        Raises:
            Absent: it did not begin, or there is no memory to share.
            Lost: it ended meanwhile.
        """
        try:
            if not self.ready:
                self.channel.receive(_START_S)
                self.ready = True
            self.channel.send(dict(message), parts)
            return self.channel.receive(self._patience_s)
        except NoRoom as error:
            raise Absent(str(error)) from None
        except (Ended, TimeoutError) as error:
            late = isinstance(error, TimeoutError)
            how = self._how(late=late)
            if not self.ready:
                raise Absent(f"it does not begin: {how}") from None
            raise Lost(self._why(late=late), how) from None

    def _why(self, *, late: bool) -> str:
        status = -(self._child.returncode or 0)
        return "time" if late or status in _OF_TIME else "killed" if status in _KILLS else "crash"

    def _how(self, *, late: bool) -> str:
        """Return how it has ended, in words; let it end where it has not."""
        self.end(at_once=late)
        status = self._child.returncode
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def hang_up(self) -> None:
        """Tell it that nobody will ask any more."""
        with suppress(OSError):
            self.channel.close()

    def end(self, *, at_once: bool = False) -> None:
        """Hang up, and return once it has ended; what does not end by itself is ended."""
        if at_once:
            self._child.kill()
        self.hang_up()
        try:
            self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _environment() -> dict[str, str]:
    """Return what the process may know of the server's variables: no key, as it meets whatever callers send."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("HEATLENS_")}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _command(connection: int, memory: int, limits: Limits) -> list[str]:
    """Return what starts a process that finds the same modules, whatever folder it is started in."""
    begin = "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); from service.codec.worker import main; "
    path = "\n".join(one for one in sys.path if "\n" not in one)
    end = "main(sys.argv[1:])"
    return [sys.executable, "-P", "-c", begin + end, path, str(connection), str(memory), json.dumps(asdict(limits))]
