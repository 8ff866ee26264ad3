"""Log lines: they can be read back, and nobody but the service writes one."""

import io
import json
import logging
import math
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.server.logs import JsonFormatter, TextFormatter, Writer, configure

HOSTILE = [
    'x\n{"level": "info", "status": 200}',
    "x\r\n12:00:00 info    request status=200",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",  # the same sequence by one character
    "\u2028\u2029\x85",  # which some programs take for the end of a line
    "\u202e\u2066",  # letters that turn what follows around
    'a" b=c status=200',
    "\\n",
    "\ud800",  # half a character, as from a file's name
    "\x00\x7f",
]


def _record(message="request", *, exc_info=None, args=(), **extra):
    record = logging.LogRecord("heatlens.access", logging.INFO, "", 0, message, args, exc_info)
    vars(record).update(extra)
    return record


def _raised(text):
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_of_json_is_one_line_and_is_read_back(text):
    written = JsonFormatter().format(_record("said %s", args=(text,), path=text, exc_info=_raised(text)))
    assert written.isascii()
    assert written.isprintable()
    read = json.loads(written)
    assert (read["message"], read["path"]) == (f"said {text}", text)
    assert text in read["exception"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "é",
        -(2**80),
        0.5,
        math.nan,
        -math.inf,
        None,
        True,
        b"\xff",
        ["a", 1],
        Path("a"),
        datetime(2000, 1, 1),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_known_becomes_json(value):
    def no_json(word):
        raise AssertionError(f"{word} is no JSON")

    written = JsonFormatter().format(_record(known=value))
    assert written.isprintable()
    read = json.loads(written, parse_constant=no_json)
    kept = value is None or isinstance(value, str | int | list) or value == 0.5
    assert read["known"] == (value if kept else str(value))


def test_what_a_line_of_json_says():
    record = _record("%d of %s", args=(3, "them"), status=200)
    read = json.loads(JsonFormatter().format(record))
    assert (read["level"], read["logger"], read["message"], read["status"]) == (
        "info",
        "heatlens.access",
        "3 of them",
        200,
    )
    assert (
        abs(datetime.fromisoformat(read["time"]) - datetime.fromtimestamp(record.created, UTC)).total_seconds() < 0.001
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_of_text_is_one_line(text):
    written = TextFormatter().format(_record("said %s", args=(text,), path=text))
    assert written.isprintable()
    message, value = written.rsplit(" path=", 1)
    assert message.partition(" said ")[2] == text.encode("unicode_escape").decode().replace("\\\\", "\\")
    assert text == (json.loads(value) if value.startswith('"') else value)


@pytest.mark.parametrize("text", HOSTILE)
def test_only_lines_of_ours_begin_at_the_edge(text):
    first, *rest = TextFormatter().format(_record(exc_info=_raised(text))).split("\n")
    assert first.endswith("request")
    assert rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_what_a_line_of_text_says():
    written = TextFormatter().format(
        _record(status=200, seconds=0.123456, path="/predict", error=None, label="two words")
    )
    assert written[8:] == ' info    request status=200 seconds=0.1235 path=/predict label="two words"'


@pytest.mark.parametrize(
    ("form", "terminal", "formatter"),
    [
        ("auto", True, TextFormatter),
        ("auto", False, JsonFormatter),
        ("json", True, JsonFormatter),
        ("text", False, TextFormatter),
    ],
)
def test_the_form_is_chosen(monkeypatch, form, terminal, formatter):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    # So that the handlers that are there for other tests stay.
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.NOTSET)
    monkeypatch.setattr(sys, "stderr", Stream())
    configure("warning", form)
    (handler,) = logging.root.handlers
    assert type(handler.formatter) is formatter
    logging.getLogger("heatlens.a").info("unheard")
    logging.getLogger("uvicorn.error").warning("heard")
    handler.flush()
    assert sys.stderr.getvalue().count("\n") == 1
    assert "heard" in sys.stderr.getvalue()


def test_a_reader_that_stops_stops_nobody_and_lines_dropped_are_counted():
    reads, written = threading.Event(), []

    class Pipe:
        def write(self, text):
            assert reads.wait(60)
            written.append(text)

        def flush(self):
            pass

    writer = Writer(Pipe(), room=3)
    writer.setFormatter(JsonFormatter())
    for number in range(20):
        writer.handle(_record(f"line {number}"))
    reads.set()
    writer.flush()
    messages = [json.loads(line)["message"] for line in "".join(written).splitlines()]
    lines = [message for message in messages if message.startswith("line ")]
    (said,) = [message for message in messages if not message.startswith("line ")]
    assert lines == [f"line {number}" for number in range(len(lines))]
    assert 3 <= len(lines) <= 4
    assert said == f"{20 - len(lines)} lines of log were dropped: nobody read them"


def test_a_stream_that_is_closed_costs_lines_only():
    stream = io.StringIO()
    stream.close()
    writer = Writer(stream)
    writer.handle(_record("unread"))
    writer.flush()


INTERRUPTED = """
import io, logging, signal
from service.server.logs import Writer
stream = io.StringIO()
writer, inner = Writer(stream, room=10**6), []
def interrupted(*_):
    inner.append(None)
    writer.handle(logging.makeLogRecord({"msg": "inner"}))
signal.signal(signal.SIGALRM, interrupted)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
for _ in range(20_000):
    writer.handle(logging.makeLogRecord({"msg": "outer"}))
signal.setitimer(signal.ITIMER_REAL, 0)
writer.flush()
assert inner
assert sorted(stream.getvalue().split()) == ["inner"] * len(inner) + ["outer"] * 20_000
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such timers here")
def test_a_signal_in_the_midst_of_a_line_may_write_one_too():
    """Its handler runs on the thread that it interrupts: a lock that this one holds would never be free."""
    subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=Path(__file__).parents[2], check=True, timeout=60)
