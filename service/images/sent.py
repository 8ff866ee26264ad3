"""A picture as it was sent, or as it lies on a disk, to the bytes of its file."""

import base64
import binascii
import os
import stat
from urllib.parse import unquote

from service.errors import InvalidParameter

Sent = bytes | str
"""A picture as it was sent: a file's bytes, or text, which is base64 or a data: URI."""
_SPACE = b" \t\r\n\v\f"
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
        compact = unquote(compact) if "%" in compact else compact
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
