"""Which pictures a command line means, and what their answers are called."""

import codecs
import functools
import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.bulk.manifest import NAME
from service.errors import InvalidParameter
from service.images.sent import file_bytes

ENDINGS = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of files that are taken from a folder; a file that is named may end as it likes."""


@dataclass(frozen=True)
class Listed:
    """A picture: its file, and its name in the manifest, on which the names of its answers' files are built.

    The name is the path as it was given, and of a path that leads up or begins at the root its whole one. So no two
    pictures share one.
    """

    path: Path
    name: str
    fault: str | None = None  # why it cannot be looked at, where that is known already

    def read(self) -> bytes:
        """Return the file.

        Raises:
            OSError: it cannot be read, or is none.
        """
        if self.fault is not None:
            raise OSError(self.fault)
        return file_bytes(self.path)


@dataclass(frozen=True)
class Answers:
    """Where answers are written: folders and patterns do not mean what an earlier run has put there.

    folder: it may be missing.
    endings: that are put behind the pictures' names.
    """

    folder: Path
    endings: Sequence[str]


def listed(words: Sequence[str], given: bytes = b"", answers: Answers | None = None) -> list[Listed]:
    """Return the pictures that are meant, each once, in the order in which they are named; folders sorted.

    A folder that cannot be read is listed as a picture that fails.

    Args:
        words: files, folders, patterns as `a/**/*.jpg`, and `-` for `given`.
        given: a file each line, or each of them ended by NUL, as `find -print0` writes them; empty ones are passed
            over.
        answers: where they will be written.

    Raises:
        InvalidParameter: a word means nothing, two pictures would write the same files, or one would be overwritten.
    """
    out = _identity(answers.folder) if answers is not None else None
    out = out or object()  # which nothing else is
    found: dict[str, Listed] = {}
    for word in words:
        for one in map(_listed, _lines(given)) if word == "-" else _meant(word, out):
            other = found.setdefault(one.name, one)
            if other.path != one.path and not _same(other.path, one.path):
                raise InvalidParameter(
                    f"{other.path} and {one.path} would be written to the same file {one.name}; name one of them"
                )
    pictures = list(found.values()) if answers is None else _without_answers(found, answers)
    if not pictures:
        raise InvalidParameter("there is no picture in what is named")
    return pictures


def _listed(path: Path, fault: str | None = None) -> Listed:
    text = os.path.normpath(path)
    if text.startswith(("..", os.sep)) or os.path.splitdrive(text)[0]:
        text = os.path.splitdrive(os.path.abspath(text))[1].lstrip(os.sep)
    return Listed(path, text.replace(os.sep, "/"), fault)


def _lines(given: bytes) -> list[Path]:
    given = given.removeprefix(codecs.BOM_UTF8)
    lines = given.split(b"\0") if b"\0" in given else [line.removesuffix(b"\r") for line in given.split(b"\n")]
    return [Path(os.fsdecode(line)) for line in lines if line.strip()]


def _meant(word: str, out: object) -> Iterator[Listed]:
    path = Path(word)
    if not word.strip():
        raise InvalidParameter("a word for pictures is empty; name a file, a folder, or . for this one")
    if path.is_dir():
        yield from _inside(path, out)
    elif re.match(r"[a-z][a-z0-9+]*://", word) and not path.exists():
        raise InvalidParameter(f"{word}: what lies elsewhere is only read with --ray")
    elif path.exists() or not glob.has_magic(word):
        yield _listed(path)  # if it is not there, it is the one picture that fails
    else:
        plain = itertools.takewhile(lambda part: not glob.has_magic(part), word.split(os.sep))
        base, faults = Path(os.sep.join([*plain, ""])), dict[Path, str]()
        within = functools.lru_cache(4096)(lambda folder: _within(folder, base, out))
        matched = [one for one in sorted(_matched(word, out, faults)) if not os.path.isdir(one)]
        if not matched and not faults:
            raise InvalidParameter(f"{word}: no file is called so")
        yield from (_listed(one) for one in map(Path, matched) if not within(one.parent))
        yield from (_listed(folder, why) for folder, why in faults.items())


def _matched(word: str, out: object, faults: dict[Path, str]) -> set[str]:
    """Return what a pattern means; `**` is any number of folders, into which each link is followed once.

    The standard library would go round where links do, and where two of them do it would never end.

    Args:
        word: the pattern.
        out: identity of the answers' folder.
        faults: takes the folders that cannot be read, and why.
    """
    parts = word.split(os.sep)
    if "**" not in parts:
        return set(glob.glob(word))
    i = parts.index("**")
    base, rest = os.sep.join([*parts[:i], ""]), os.sep.join(parts[i + 1 :]) or "*"
    found: set[str] = set()
    for begin in glob.glob(base) if glob.has_magic(base) else [base]:
        for folder, there in _folders(Path(begin), out):
            if isinstance(there, FileNotFoundError):
                continue
            if isinstance(there, OSError):
                faults[folder] = there.strerror or str(there)
            found |= _matched(os.path.join("" if folder == Path() else glob.escape(str(folder)), rest), out, faults)
    return found


def _within(folder: Path, base: Path, out: object) -> bool:
    """Whether the way from one folder to another leads into the answers'."""
    way = [folder, *folder.parents][: len(folder.parts) - len(base.parts)]
    return out in map(_identity, way)


def _inside(folder: Path, out: object) -> Iterator[Listed]:
    """Give a folder's pictures and those of its folders."""
    for here, there in _folders(folder, out):
        if isinstance(there, OSError):
            yield _listed(here, there.strerror or str(there))
        else:
            yield from (_listed(Path(here, name)) for name in there if name.lower().endswith(ENDINGS))


def _folders(folder: Path, out: object) -> Iterator[tuple[Path, list[str] | OSError]]:
    """Give a folder and those in it, with their files' names: no hidden ones, not the answers'."""
    waiting: list[tuple[Path, frozenset[object]]] = [(folder, frozenset())]
    while waiting:
        here, above = waiting.pop()
        identity = _identity(here)
        if above and (identity == out or identity in above):  # a link may lead back into a folder that it lies in
            continue
        try:
            with os.scandir(here) as entries:
                there = sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            yield here, error
            continue
        folders = {one.name: Path(here, one.name) for one in there if _leads(one)}
        yield here, [one.name for one in there if one.name not in folders]
        waiting += [(one, above | {identity}) for one in reversed(folders.values())]


def _leads(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link that leads nowhere is a file that cannot be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _without_answers(found: dict[str, Listed], answers: Answers) -> list[Listed]:
    """Return the pictures but those that are answers to others of them.

    Raises:
        InvalidParameter: nothing has been answered there, so that a picture would be written over.
    """
    whole = functools.lru_cache(64)(os.path.realpath)
    root = os.path.join(whole(answers.folder), "")
    pictures = []
    for one in found.values():
        place = os.path.join(whole(one.path.parent), one.path.name)
        inside = place[len(root) :].replace(os.sep, "/") if place.startswith(root) else ""
        asked = (inside.removesuffix(ending) for ending in answers.endings if inside.endswith(ending))
        other = next((found[name] for name in asked if name in found), None)
        if other is None:
            pictures.append(one)
        elif not (answers.folder / NAME).exists():
            raise InvalidParameter(
                f"the answer to {other.path} would be written over the picture {one.path}; write to another folder"
            )
    return pictures


def _identity(path: Path) -> object:
    """Return what is the same for a file by whatever name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return os.path.abspath(one) == os.path.abspath(other)
