"""A picture as it was sent, or as it lies on a disk, to the bytes of its file."""

import base64
import binascii
import os
import stat

from service.errors import InvalidParameter

Sent = bytes | str
"""A picture as it was sent: a file's bytes, or text, which is base64 or a data: URI."""
_SPACE = b" \t\r\n\v\f"
_ESCAPED = ((b"%2B", b"+"), (b"%2F", b"/"), (b"%3D", b"="), (b"%0D", b""), (b"%0A", b""))  # all in need of it
_STANDARD = bytes.maketrans(b"-_", b"+/")
_PIECE = 2**18  # letters that are read at a time: nobody else's Python runs meanwhile


def file_bytes(path: str | bytes | os.PathLike[str]) -> bytes:
    """Return a file.

    Raises:
        OSError: it cannot be read, or is none: a pipe would never end.
    """
    if not stat.S_ISREG(kind := os.stat(path).st_mode) and not stat.S_ISDIR(kind):
        raise OSError("it is no regular file")
    with open(path, "rb") as file:
        return file.read()


def picture_bytes(sent: Sent, pointer: str = "/image") -> bytes:
    """Return a picture's file. Takes a while where it is long: not for an event loop.

    Base64 may be of either alphabet, with or without padding, and broken into lines.

    Raises:
        InvalidParameter: text that is neither base64 nor a data: URI.
    """
    if isinstance(sent, bytes):
        return sent
    try:
        compact = b"".join(
            sent[i : i + _PIECE].encode("ascii").translate(_STANDARD, _SPACE) for i in range(0, len(sent), _PIECE)
        )
    except UnicodeEncodeError:
        raise _wrong("only ASCII", pointer) from None
    start = compact[:8].lower()
    if start.startswith(b"data:"):
        header, comma, compact = compact.partition(b",")
        if not comma or not header.lower().endswith(b";base64"):
            raise InvalidParameter.at(pointer, "the data: URI has to be base64: data:image/png;base64,...")
        compact = _unescaped(compact, pointer) if b"%" in compact else compact
    elif start.startswith((b"http://", b"https://")):
        raise InvalidParameter.at(pointer, "addresses are not fetched; send the picture itself in base64")
    return _decoded(compact.rstrip(b"="), pointer)  # padding says nothing that the length does not


def _decoded(compact: bytes, pointer: str) -> bytes:
    if b"=" in compact:
        raise _wrong("there is padding before its end", pointer)
    if len(compact) % 4 == 1:
        raise _wrong(f"it cannot have {len(compact):,} letters", pointer)
    compact += b"=" * (-len(compact) % 4)
    try:
        pieces = (compact[i : i + _PIECE] for i in range(0, len(compact), _PIECE))
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except binascii.Error as error:
        raise _wrong(str(error), pointer) from None


def _wrong(why: str, pointer: str) -> InvalidParameter:
    return InvalidParameter.at(
        pointer, f"not valid base64 ({why}); send the file's bytes in base64, or as multipart/form-data"
    )


def _unescaped(text: bytes, pointer: str) -> bytes:
    """Return base64 as it was before a URI was made of it.

    Each letter is replaced at once: to read all escapes makes a text of each, which take sixty times as much memory.

    Raises:
        InvalidParameter: it has escapes that base64 needs none of.
    """
    pieces, at = [], 0
    while at < len(text):
        end = at + _PIECE
        end += 2 if text[end - 1 : end] == b"%" else 1 if text[end - 2 : end - 1] == b"%" else 0  # escapes stay whole
        piece = text[at:end]
        for escape, letter in _ESCAPED:
            piece = piece.replace(escape, letter).replace(escape.lower(), letter)
        if b"%" in piece:
            raise InvalidParameter.at(pointer, "the data: URI has percent signs that stand for no letter of base64")
        pieces.append(piece)
        at = end
    return b"".join(pieces)
