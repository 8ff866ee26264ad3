"""What one process finds and later ones read again: files that anybody may have written to, and that may be missing."""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import TypeAdapter

T = TypeVar("T")
log = logging.getLogger("heatlens")
_BYTES = 2**22  # of a file


def folder() -> Path | None:
    """Return the user's folder for what may be thrown away; None for a user without a home, where nothing is kept."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "heatlens"
    try:
        return Path.home() / ".cache" / "heatlens"
    except RuntimeError:
        return None


def digest(known: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits that tell what is known apart, for a file's name; the order of its keys counts.

    Raises:
        TypeError: something of it has no JSON.
    """
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]


def read(file: Path, form: TypeAdapter[T]) -> T | None:
    """Return what a file holds; None where it holds nothing of that form.

    What is no file is not waited for, and what is of another form is set aside, for somebody to look at.
    """
    try:
        if not file.is_file() or file.stat().st_size > _BYTES:
            return None
        data = file.read_bytes()
    except OSError:
        return None
    try:
        found = form.validate_python(orjson.loads(data))
        orjson.dumps(form.dump_python(found))  # an answer that tells of it holds no number that is too large for JSON
    except Exception:  # of whatever kind: anybody may have written anything
        set_aside(file)
        return None
    return found


def set_aside(file: Path) -> None:
    """Rename a file that is not what it should be, so that it is written anew."""
    log.warning("%s does not hold what was written there: it is found anew", file)
    with suppress(OSError):
        file.replace(file.with_suffix(".damaged"))


def write(file: Path, kept: Mapping[str, Any]) -> None:
    """Write a file at once or not at all; where nothing can be written, it is found again after the next start."""
    # Several write at once, and in containers each of them has the same number of a process.
    unfinished = file.with_suffix(f".{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(kept, indent=1), "utf-8")
        unfinished.replace(file)
    except OSError as error:
        log.info("nothing can be kept in %s: %s", file.parent, error.strerror)
        with suppress(OSError):
            unfinished.unlink()
