"""Server-sent events, read as they come (WHATWG HTML, 9.2.6)."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """One event: its kind, its data, and the id that was last given."""

    name: str
    data: str
    id: str = ""


@dataclass
class Reader:
    """Takes a stream's bytes in whatever pieces, and gives the events that are whole."""

    _rest: bytes = b""
    _name: str = ""
    _data: list[str] = field(default_factory=list)
    _id: str = ""
    _begun: bool = False

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that a piece completes."""
        if not piece:
            return []
        data = self._rest + piece
        if not self._begun:
            if len(data) < 3 and b"\xef\xbb\xbf".startswith(data):
                self._rest = data  # it may be the beginning of a byte order mark
                return []
            data, self._begun = data.removeprefix(b"\xef\xbb\xbf"), True
        # What ends in a carriage return may go on with the line feed that belongs to it.
        held = data.endswith(b"\r")
        lines = data[: len(data) - held].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + (b"\r" if held else b"")
        return [event for line in lines if (event := self._line(line.decode("utf-8", "replace"))) is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            event = Event(self._name or "message", "\n".join(self._data), self._id) if self._data else None
            self._name, self._data = "", []
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None  # anything else is a comment, or of a later standard
