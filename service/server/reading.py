"""What a client sends, read as HTTP/1.1 in bounds: of a head, of chunks, and of what it sends before its turn."""

import re

import h11

HEAD = 16 * 1024
"""Most bytes of a head or of trailers, and about as many are fed to h11 at a time.

h11 bounds a head only as long as it is not complete, and takes 15 microseconds for a chunk of one byte."""

_LINES = 1500  # of one head, or of trailers: each takes h11 microseconds, and as much memory as a hundred letters
_END = re.compile(rb"\n\r?\n")  # of a head, as h11 has it
# The head of a body's last chunk, with the end of the one before it.
_LAST = re.compile(rb"(?:\r?\n)?0+[ \t]*(?:;[^\n]*)?\r?\n")
_AHEAD = 16 * 1024  # bytes behind a request that are taken before its answer is there
_CHUNKS, _LEAST = 1_000, 64  # chunks of one body that may be as small as they like; more have to hold so many bytes


class Reading(h11.Connection):
    """The server's side of a connection, that neither chunks of next to nothing nor bytes behind a request get past."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD)
        self.mistake = ""  # what is wrong with what was sent, where more is known than that it is no HTTP
        self._chunks = self._size = 0  # of the body that is read
        self._chunked = self._between = self._trails = False  # what it comes in, and where in it what comes next is

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return what comes next, as h11 has it.

        Whoever is told of a pause stops to read, and does not see any more that the client has gone: so there is none
        before somebody has sent much ahead.

        Raises:
            h11.RemoteProtocolError: what was sent is no HTTP/1.1, a head of too many lines, or a body in too many
                chunks of too little.
        """
        if self.their_state is h11.IDLE:
            self._check_lines("head", self.trailing_data[0])
        elif self._chunked and self._between and self.their_state is h11.SEND_BODY:
            self._check_trailers(self.trailing_data[0])
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            raise error.with_traceback(None) from None  # h11's frames hold the error that holds them
        if isinstance(event, h11.Request):
            self._chunks = self._size = 0
            self._chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
            self._between, self._trails = True, False
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._between = event.chunk_end
            self._size += len(event.data)
            if self._chunks > _CHUNKS and self._size < _LEAST * self._chunks:
                self.mistake = (
                    f"the body comes in chunks of {self._size / self._chunks:.0f} bytes on average; send it in larger "
                    "ones, or with Content-Length"
                )
                raise h11.RemoteProtocolError(self.mistake)
        elif event is h11.PAUSED and len(self.trailing_data[0]) <= _AHEAD:
            return h11.NEED_DATA
        return event

    def _check_trailers(self, come: bytes) -> None:
        """Refuse thousands of lines behind a body's last chunk."""
        start = 0
        if not self._trails:
            if (last := _LAST.match(come)) is None:
                return
            self._trails, start = True, last.end() - 1
        self._check_lines("end of the body", come, start)

    def _check_lines(self, what: str, come: bytes, start: int = 0) -> None:
        """Refuse thousands of lines before they are taken apart."""
        end = _END.search(come, start)
        lines = come.count(b"\n", start) if end is None else come.count(b"\n", start, end.start()) + 1
        if lines > _LINES:
            self.mistake = f"the {what} has more than {_LINES:,} lines; send fewer headers"
            raise h11.RemoteProtocolError(self.mistake)
