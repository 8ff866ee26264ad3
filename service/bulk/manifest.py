"""What has been done, a line a picture, so that a run that was cut off at any moment goes on where it was.

The first line is the question, with a digest of it. A picture's files are there, whole, before its line is; what was
cut off while a line was being written is cut away when the next run begins.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from service.errors import InvalidParameter

NAME = "manifest.jsonl"
_BEGIN = b'{"question":'
log = logging.getLogger("heatlens")


class Manifest:
    """The manifest of one folder, which one run writes at a time."""

    def __init__(self, folder: Path, question: Mapping[str, Any], *, force: bool = False) -> None:
        """Take up what is there, or begin.

        Args:
            folder: of the answers; it is made if it is not there.
            question: what is asked of every picture, as JSON has it.
            force: begin anew, whatever is there.

        Raises:
            InvalidParameter: something else was asked there, another run is at it, or the manifest is none.
            OSError: the folder cannot be written to.
        """
        self.folder, self.question = folder, json.loads(json.dumps(question))
        self.done: set[str] = set()  # names of pictures
        self.failed: dict[str, str] = {}  # by name, of those of earlier runs and this one, with the reason
        folder.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = (folder / NAME).open("a+b")
        try:
            _lock(self._file, folder)
            self._take_up(force=force)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the next run have it."""
        self._file.close()

    def add(self, name: str, line: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Write a picture's files, and then its line.

        Args:
            name: of the picture.
            line: what is known of it; with a `problem` where it has failed for good.
            files: their bytes, by what is put behind the picture's name.

        Raises:
            OSError: there is no room, or the like; then there is no line.
        """
        for ending, data in files.items():
            _write(self.folder / f"{name}{ending}", data)
        written = {"path": name, "files": [f"{name}{ending}" for ending in files]} | dict(line)
        self._write(written)
        self._note(written)

    def _take_up(self, *, force: bool) -> None:
        self._file.seek(0)
        whole = 0  # bytes of whole lines
        for i, line in enumerate(iter(self._file.readline, b"")):
            if not i:
                self._check_kind(line)
            if force:
                break
            if not line.endswith(b"\n"):
                break  # cut off while it was being written
            self._take(i, line)
            whole += len(line)
        self._file.seek(whole)
        self._file.truncate()
        if not whole:
            self._write({"question": self.question, "sha256": self._digest})

    def _check_kind(self, line: bytes) -> None:
        """Refuse a file that is no manifest of ours, whatever is asked: it is somebody's."""
        if not (line.startswith(_BEGIN) or _BEGIN.startswith(line)):
            raise InvalidParameter(
                f"{self.folder / NAME}, line 1, is no line of a manifest, and the file is left as it is; write to "
                "another folder"
            )

    def _take(self, i: int, line: bytes) -> None:
        try:
            found = json.loads(line)
            if i:
                self._note(found)
            else:
                self._check(found["question"], found["sha256"], self._digest)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidParameter(
                f"{self.folder / NAME}, line {i + 1}, is no line of a manifest ({error}); write to another folder, "
                "or begin anew with --force"
            ) from None

    @property
    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self.question, sort_keys=True).encode()).hexdigest()

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            text = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:  # a name that is no text, as files may have; JSON writes such bytes as \udc..
            text = json.dumps(line, separators=(",", ":")).encode()
        self._file.write(text + b"\n")
        self._file.flush()

    def _note(self, line: Mapping[str, Any]) -> None:
        self.done.add(line["path"])
        if (problem := line.get("problem")) is not None:
            self.failed[line["path"]] = problem["detail"]

    def _check(self, other: Mapping[str, Any], theirs: str, digest: str) -> None:
        if theirs == digest:
            return
        raise another(str(self.folder), other, self.question)


def another(folder: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> InvalidParameter:
    """Return the error that names what is different about the question that a folder holds the answers to."""
    differing = [
        f"{name}: {json.dumps(there.get(name))} there, {json.dumps(here.get(name))} here"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
    ]
    return InvalidParameter(
        f"{folder} holds answers to another question ({'; '.join(differing)}); write to another folder, or begin anew "
        "with --force"
    )


def _write(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        with suppress(OSError):  # its room is needed
            part.unlink()
        raise


def _lock(file: BinaryIO, folder: Path) -> None:
    """Keep other runs out, until the file is closed or the process has ended in whatever way."""
    try:
        import fcntl
    except ImportError:  # where there is nothing of the kind
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidParameter(f"another run is writing to {folder}; wait for it, or write elsewhere") from None
    except OSError as error:  # some network file systems lock nothing
        log.warning("%s cannot be locked (%s): let no other run write there", folder, error.strerror)
