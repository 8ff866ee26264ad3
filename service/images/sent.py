"""A picture as it was sent, or as it lies on a disk, to the bytes of its file."""

import base64
import binascii
import os
import stat

from service.errors import InvalidParameter

Sent = bytes | str
"""A picture as it was sent: a file's bytes, or text, which is base64 or a data: URI."""
_SPACE = b" \t\r\n\v\f"
_ESCAPED = (("%2B", "+"), ("%2F", "/"), ("%3D", "="), ("%0D", ""), ("%0A", ""))  # all that is in need of it
_STANDARD = str.maketrans("-_", "+/")


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
        # Not by words: of a picture in millions of them each would be a text, and nobody else runs meanwhile.
        compact = sent.encode("ascii").translate(None, _SPACE).decode("ascii")
    except UnicodeEncodeError:
        raise InvalidParameter.at(
            pointer, "not valid base64 (only ASCII); send the file's bytes in base64, or as multipart/form-data"
        ) from None
    start = compact[:8].lower()
    if start.startswith("data:"):
        header, comma, compact = compact.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise InvalidParameter.at(pointer, "the data: URI has to be base64: data:image/png;base64,...")
        compact = _unescaped(compact, pointer) if "%" in compact else compact
    elif start.startswith(("http://", "https://")):
        raise InvalidParameter.at(pointer, "addresses are not fetched; send the picture itself in base64")
    if "-" in compact or "_" in compact:  # the alphabet for addresses
        compact = compact.translate(_STANDARD)
    compact = compact.rstrip("=")  # padding says nothing that the length does not
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter.at(
            pointer, f"not valid base64 ({error}); send the file's bytes in base64, or as multipart/form-data"
        ) from None


def _unescaped(text: str, pointer: str) -> str:
    """Return base64 as it was before a URI was made of it.

    Each letter is replaced at once: to read all escapes makes a text of each, which take sixty times as much memory.

    Raises:
        InvalidParameter: it has escapes that base64 needs none of.
    """
    for escape, letter in _ESCAPED:
        text = text.replace(escape, letter).replace(escape.lower(), letter)
    if "%" in text:
        raise InvalidParameter.at(pointer, "the data: URI has percent signs that stand for no letter of base64")
    return text
