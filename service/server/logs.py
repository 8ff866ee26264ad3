"""Log lines: JSON for machines, or text for people.

Whatever a client sent is escaped, so that it can neither forge a line nor command the terminal that shows it.
"""

import json
import logging
import math
import queue
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from service import spans

_FLUSH_S = 1.0
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _KNOWN}


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII; times are UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # JSON has no number for what is not finite.
        finite = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        return json.dumps(finite, default=str, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """A line to read: time, level, message, and what else is known as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        extra = " ".join(f"{name}={_plain(value)}" for name, value in _extra(record).items() if value is not None)
        message = _printable(record.getMessage())
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {message} {extra}".rstrip()
        if not record.exc_info:
            return line
        # Set in, because the words of an exception may hold a line that looks like one of ours.
        traceback = self.formatException(record.exc_info).split("\n")
        return "\n    ".join([line, *map(_printable, traceback)])


def _printable(text: str) -> str:
    """Return a text with all that moves a cursor or hides escaped, line breaks included."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if text.isprintable() and not set(' "') & set(text) else json.dumps(text)


class Writer(logging.Handler):
    """Writes lines by a thread of its own, so that nobody waits for whoever reads them.

    A reader that has stopped (a full pipe, a suspended terminal) would else stop the server. Lines that there is no
    room for are dropped, and counted in the next one that is written.
    """

    def __init__(self, stream: TextIO, room: int = 10_000) -> None:
        """Begin to write to a stream.

        Args:
            stream: where to.
            room: lines that may wait.
        """
        super().__init__()
        self._stream = stream
        # Of the library's queues, the one that a signal's handler may put to in the midst of another put.
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._room, self._dropped = room, 0
        threading.Thread(target=self._write, name="heatlens-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over, or drop it."""
        if self._lines.qsize() >= self._room:
            self._dropped += 1
            return
        try:
            self._lines.put(self.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all lines are written, but not for a reader that has stopped."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(_FLUSH_S)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            dropped, self._dropped = self._dropped, 0
            if dropped:
                said = f"{dropped} lines of log were dropped: nobody read them"
                record = logging.LogRecord("heatlens", logging.WARNING, "", 0, said, (), None)
                line = f"{line}\n{self.format(record)}"
            with suppress(OSError, ValueError):  # the stream is closed, or its disk full
                self._stream.write(line + "\n")
                self._stream.flush()


class _Traced(logging.Filter):
    """Lets all lines pass, with `trace_id` and `span_id` of the span that they are written in."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them to a line, by the thread that writes it."""
        vars(record).update(spans.ids())
        return True


def configure(level: str, form: Literal["auto", "json", "text"]) -> None:
    """Write all logs to standard error; `auto` writes text to a terminal and JSON to anything else."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = Writer(sys.stderr)
    handler.addFilter(_Traced())
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
