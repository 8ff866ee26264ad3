"""Bodies that are sent packed: unpacked as they come, so that all bounds count what comes out. Pure ASGI."""

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware import refused
from service.errors import MalformedRequest, TooLarge, UnsupportedMediaType

CODINGS = ("gzip", "deflate")
_PIECE = 64 * 1024  # bytes that are unpacked at a time, between which others have their turn
# Packed bytes that are looked at at a time: at the end of each of gzip's members, zlib copies all that follows.
_TAKEN = 4 * 1024
# Members of gzip in one body that may be as small as they like; more of them have to hold so many bytes each.
_MEMBERS, _LEAST = 1_000, 64
_ALIASES = {"x-gzip": "gzip", "": "identity"}


class Packed:
    """Unpacks bodies in gzip or deflate, and refuses other codings (RFC 9110, 8.4).

    It stands outside of whatever counts bytes: a small body may hold a large one.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Take how many packed bytes a body may have: what unpacks to nothing is counted by nobody else."""
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        sent = Headers(scope=scope).get("content-encoding", "") if scope["type"] == "http" else ""
        coding = _ALIASES.get(sent.strip().lower(), sent.strip().lower())
        if coding == "identity":
            await self.app(scope, receive, send)
        elif coding in CODINGS:
            hidden = (b"content-encoding", b"content-length")  # which are of the packed body
            headers = [(name, value) for name, value in scope["headers"] if name not in hidden]
            await self.app({**scope, "headers": headers}, _Unpacking(receive, coding, self.max_bytes).receive, send)
        else:
            remedy = f"send the body as it is, or in {' or '.join(CODINGS)}"
            error = UnsupportedMediaType(f"content encoding {coding[:80]!r} is not accepted; {remedy}")
            await refused(error, {"accept-encoding": ", ".join(CODINGS)}, scope, receive, send)


class _Unpacking:
    """A body's messages, each as some of an unpacked piece."""

    def __init__(self, receive: Receive, coding: str, max_bytes: int) -> None:
        self._receive, self._stream = receive, Stream(coding)
        self._left, self._max_bytes = max_bytes, max_bytes
        self._pieces: Iterator[bytes] = iter(())
        self._ended = self._told = False

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            MalformedRequest: the body is not what its coding says, or ends too early.
            TooLarge: it has too many bytes before it is unpacked.
        """
        while not self._told:
            if (piece := next(self._pieces, None)) is not None:
                await asyncio.sleep(0)  # a small body may unpack to many pieces, and others wait
                if not piece:
                    continue
                return {"type": "http.request", "body": piece, "more_body": True}
            if self._ended:
                self._told = True
                self._stream.end()
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._ended = not message.get("more_body", False)
            data = message.get("body", b"")
            self._left -= len(data)
            if self._left < 0:
                raise TooLarge(f"the packed body has more than the {self._max_bytes:,} bytes that are accepted")
            self._pieces = self._stream.feed(data)
        return await self._receive()


class Stream:
    """Packed bytes in whatever pieces, to unpacked ones of bounded size."""

    def __init__(self, coding: str) -> None:
        """Begin with the first byte of what is packed in one of `CODINGS`."""
        self._coding = coding
        self._head = b""
        self._coder: Any = None
        self._members = self._size = 0  # that have ended, and bytes of all of them

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what some bytes unpack to, at most 64 KiB at a time, as far as it is asked for.

        Returns:
            Pieces; an empty one where nothing came of four kilobytes or of a member, for somebody else's turn.

        Raises:
            MalformedRequest: they are not packed so, go on behind the end, or are too many members of too little.
        """
        view = memoryview(self._head + data if self._head else data)
        self._head = b""
        for start in range(0, len(view), _TAKEN):
            yield from self._unpacked(view[start : start + _TAKEN])

    def _unpacked(self, taken: memoryview) -> Iterator[bytes]:
        data: bytes | memoryview = self._head + bytes(taken) if self._head else taken
        self._head, full = b"", False
        while data or full:
            if self._coder is None:
                self._coder = self._begun(data)
            if self._coder is None:
                self._head = bytes(data)
                return
            try:
                piece = self._coder.decompress(data, _PIECE)
            except zlib.error as error:
                raise MalformedRequest(f"the body is not valid {self._coding}: {error}") from None
            data, full = self._coder.unconsumed_tail, len(piece) == _PIECE
            self._size += len(piece)
            if self._coder.eof and (data := self._coder.unused_data):
                self._next()
            yield piece

    def _next(self) -> None:
        """Take it that another member follows: files of gzip may follow one another (RFC 1952, 2.2)."""
        if self._coding != "gzip":
            raise MalformedRequest(f"the body goes on behind its {self._coding}")
        self._coder = None
        self._members += 1
        if self._members > _MEMBERS and self._size < _LEAST * self._members:
            raise MalformedRequest(
                f"the body is {self._members:,} files of gzip of {self._size / self._members:.0f} bytes on average; "
                "pack it as one"
            )

    def end(self) -> None:
        """Take it that no more bytes come.

        Raises:
            MalformedRequest: there would have to be more.
        """
        if self._head or (self._coder is not None and not self._coder.eof):
            raise MalformedRequest(f"the body's {self._coding} is cut off before its end")

    def _begun(self, data: bytes | memoryview) -> Any:
        """Return what unpacks a stream that begins so; None where too little of it is there to tell."""
        if self._coding == "gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if len(data) < 2:
            return None
        # "deflate" means zlib's form (RFC 9110, 8.4.1.2), and some senders leave its two bytes out (RFC 1950, 2.2).
        wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
