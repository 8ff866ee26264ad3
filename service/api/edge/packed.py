"""Bodies that are sent packed: unpacked as they come, so that all bounds count what comes out. Pure ASGI."""

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware import refused
from service.errors import MalformedRequest, UnsupportedMediaType

CODINGS = ("gzip", "deflate")
_PIECE = 64 * 1024  # bytes that are unpacked at a time, between which others have their turn
_ALIASES = {"x-gzip": "gzip", "": "identity"}


class Packed:
    """Unpacks bodies in gzip or deflate, and refuses other codings (RFC 9110, 8.4).

    It stands outside of whatever counts bytes: a small body may hold a large one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        sent = Headers(scope=scope).get("content-encoding", "") if scope["type"] == "http" else ""
        coding = _ALIASES.get(sent.strip().lower(), sent.strip().lower())
        if coding == "identity":
            await self.app(scope, receive, send)
        elif coding in CODINGS:
            hidden = (b"content-encoding", b"content-length")  # which are of the packed body
            headers = [(name, value) for name, value in scope["headers"] if name not in hidden]
            await self.app({**scope, "headers": headers}, _Unpacking(receive, coding).receive, send)
        else:
            remedy = f"send the body as it is, or in {' or '.join(CODINGS)}"
            error = UnsupportedMediaType(f"content encoding {coding[:80]!r} is not accepted; {remedy}")
            await refused(error, {"accept-encoding": ", ".join(CODINGS)}, scope, receive, send)


class _Unpacking:
    """A body's messages, each as some of an unpacked piece."""

    def __init__(self, receive: Receive, coding: str) -> None:
        self._receive, self._stream = receive, Stream(coding)
        self._pieces: Iterator[bytes] = iter(())
        self._ended = self._told = False

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            MalformedRequest: the body is not what its coding says, or ends too early.
        """
        while not self._told:
            if (piece := next(self._pieces, None)) is not None:
                await asyncio.sleep(0)  # a small body may unpack to many pieces, and others wait
                return {"type": "http.request", "body": piece, "more_body": True}
            if self._ended:
                self._told = True
                self._stream.end()
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._ended = not message.get("more_body", False)
            self._pieces = self._stream.feed(message.get("body", b""))
        return await self._receive()


class Stream:
    """Packed bytes in whatever pieces, to unpacked ones of bounded size."""

    def __init__(self, coding: str) -> None:
        """Begin with the first byte of what is packed in one of `CODINGS`."""
        self._coding = coding
        self._head = b""
        self._coder: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what some bytes unpack to, at most 64 KiB at a time, as far as it is asked for.

        Raises:
            MalformedRequest: they are not packed so, or go on behind the end.
        """
        data, full = self._head + data, False
        self._head = b""
        while data or full:
            if self._coder is None:
                self._coder = self._begun(data)
            if self._coder is None:
                self._head = data
                return
            try:
                piece = self._coder.decompress(data, _PIECE)
            except zlib.error as error:
                raise MalformedRequest(f"the body is not valid {self._coding}: {error}") from None
            data, full = self._coder.unconsumed_tail, len(piece) == _PIECE
            if piece:
                yield piece
            if self._coder.eof and (data := self._coder.unused_data):
                if self._coding != "gzip":
                    raise MalformedRequest(f"the body goes on behind its {self._coding}")
                self._coder = None  # files of gzip may follow one another (RFC 1952, 2.2)

    def end(self) -> None:
        """Take it that no more bytes come.

        Raises:
            MalformedRequest: there would have to be more.
        """
        if self._head or (self._coder is not None and not self._coder.eof):
            raise MalformedRequest(f"the body's {self._coding} is cut off before its end")

    def _begun(self, data: bytes) -> Any:
        """Return what unpacks a stream that begins so; None where too little of it is there to tell."""
        if self._coding == "gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if len(data) < 2:
            return None
        # "deflate" means zlib's form (RFC 9110, 8.4.1.2), and some senders leave its two bytes out (RFC 1950, 2.2).
        wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
