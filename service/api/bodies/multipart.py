"""A multipart/form-data body that is there already, taken apart (RFC 7578; RFC 2046, section 5.1.1)."""

import re
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from service.errors import MalformedRequest, UnsupportedMediaType, quoted

_PARTS = 20
_HEAD_BYTES = 8192  # of one part
_PARAMETERS = 512  # semicolons of one part's name and file, of each of which all before it is read again
_BOUNDARY_BYTES = 256
_DELIMITER_BYTES = _BOUNDARY_BYTES + 6 + 256  # at most: with dashes, spaces and ends of lines
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """One part of a form.

    Every part is read as a file, whatever its head says: many clients leave the file's name out, or write it in a way
    of its own (`filename*`). `kind` is its content type in small letters, without parameters; empty: it has none.
    """

    name: str
    data: bytes
    named: bool = False  # whether there is a file's name
    kind: str = ""


def taken_apart(data: bytes, content_type: str) -> list[Part]:
    """Return the parts of a body, in time that is linear in its length.

    Args:
        data: the body.
        content_type: the header, with the boundary.

    Raises:
        UnsupportedMediaType: it names a charset: what is read is UTF-8, and no client chooses the server's decoder.
        MalformedRequest: it is no form, or one of too many parts.
    """
    _, options = parse_options_header(content_type)
    charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"multipart of charset {quoted(charset)} is not read; send UTF-8, and no charset")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _BOUNDARY_BYTES:
        raise _malformed("it has no valid boundary")
    return [_part(raw) for raw in _between(data, boundary)]


def _between(data: bytes, boundary: bytes) -> list[bytes]:
    """Return what stands between the delimiters; what is before the first and after the last one is not read."""
    end_of_line = rb"(?:(--)|[ \t]{0,256}\r\n)"
    first = re.compile(b"--" + re.escape(boundary) + end_of_line).match(data)
    # With a fixed beginning the search runs as fast as one for a text.
    delimiter = re.compile(b"\r\n--" + re.escape(boundary) + end_of_line)
    found = first or _next(delimiter, data, 0)
    if found is None:
        raise _malformed("it is cut off before its last boundary" if data[:2] == b"--" else "its boundary is not in it")
    parts: list[bytes] = []
    while not found[1]:
        start = found.end()
        # The line's end that a part without a head begins with may be that of the delimiter itself.
        found = _next(delimiter, data, start - 2)
        if found is None:
            raise _malformed("it is cut off before its last boundary")
        if len(parts) == _PARTS:
            raise _malformed(f"it has more than {_PARTS} parts")
        parts.append(data[start : found.start()])
    return parts


def _next(delimiter: re.Pattern[bytes], data: bytes, start: int) -> re.Match[bytes] | None:
    """Search a body in pieces: a search holds Python's lock to its end, and what nearly matches makes it slow."""
    while start < len(data):
        if (found := delimiter.search(data, start, start + _PIECE_BYTES + _DELIMITER_BYTES)) is not None:
            return found
        start += _PIECE_BYTES
    return None


def _part(raw: bytes) -> Part:
    if raw.startswith(b"\r\n"):
        raise _malformed("a part has no name")
    end = raw.find(b"\r\n\r\n", 0, _HEAD_BYTES)
    if end < 0:
        raise _malformed(f"a part's head does not end within {_HEAD_BYTES:,} bytes")
    headers = dict(_header(line) for line in raw[:end].split(b"\r\n"))
    disposition = headers.get(b"content-disposition", b"")
    if disposition.count(b";") > _PARAMETERS:
        raise _malformed(f"a part's Content-Disposition has more than {_PARAMETERS} semicolons; send a shorter name")
    _, options = parse_options_header(disposition)
    if b"name" not in options:
        raise _malformed("a part has no name: Content-Disposition: form-data; name=...")
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    name = options[b"name"].decode("utf-8", "replace")
    return Part(name, raw[end + 4 :], bool(options.get(b"filename")), kind)


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()


def _malformed(reason: str) -> MalformedRequest:
    return MalformedRequest(f"the body is not valid multipart/form-data: {reason}")
