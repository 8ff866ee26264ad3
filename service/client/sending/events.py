"""Server-sent events, read as they come (WHATWG HTML, 9.2.6)."""

from dataclasses import dataclass, field

_MARK = b"\xef\xbb\xbf"  # of byte order, that a stream may begin with


@dataclass(frozen=True)
class Event:
    """One event: its kind, its data, and the id that was last given."""

    name: str
    data: str
    id: str = ""


@dataclass
class Reader:
    """Takes a stream's bytes in whatever pieces, and gives the events that are whole."""

    _rest: list[bytes] = field(default_factory=list)  # of a line whose end has not come, in the pieces that it came in
    _name: str = ""
    _data: list[str] = field(default_factory=list)
    _id: str = ""
    _begun: bool = False

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that a piece completes; what is no whole line yet is not looked at again."""
        if not piece:
            return []
        if not self._begun:
            piece, self._rest = b"".join((*self._rest, piece)), []
            if len(piece) < 3 and _MARK.startswith(piece):
                self._rest = [piece]
                return []
            piece, self._begun = piece.removeprefix(_MARK), True
        if self._rest and self._rest[-1] == b"\r":  # which may go on with the line feed that belongs to it
            piece = self._rest.pop() + piece
        held = piece.endswith(b"\r")
        *lines, begun = piece[: len(piece) - held].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest.clear()
        self._rest += [begun, b"\r"] if held else [begun]
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
