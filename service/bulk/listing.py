"""Which pictures a command line means, and what their answers are called."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import InvalidParameter

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


def listed(words: Sequence[str], lines: Iterable[str] = ()) -> list[Listed]:
    """Return the pictures that are meant, each once, in the order in which they are named; folders sorted.

    Args:
        words: files, folders, patterns as `a/**/*.jpg`, and `-` for `lines`.
        lines: a file each; empty ones are passed over.

    Raises:
        InvalidParameter: a word means nothing, or two pictures would write the same files.
    """
    found: dict[str, Path] = {}
    for word in words:
        paths = (Path(line.strip()) for line in lines if line.strip()) if word == "-" else _meant(word)
        for path in paths:
            name = _name(path)
            if (other := found.setdefault(name, path)) != path and not _same(other, path):
                raise InvalidParameter(f"{other} and {path} would be written to the same file {name}; name one of them")
    if not found:
        raise InvalidParameter("there is no picture in what is named")
    return [Listed(path, name) for name, path in found.items()]


def _meant(word: str) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        yield from _inside(path)
    elif path.exists() or not glob.has_magic(word):
        yield path  # if it is not there, it is the one picture that fails
    else:
        matched = sorted(glob.glob(word, recursive=True))
        if not matched:
            raise InvalidParameter(f"{word}: no file is called so")
        for one in map(Path, matched):
            if one.is_file():
                yield one


def _inside(folder: Path) -> Iterator[Path]:
    """Give a folder's pictures and those of its folders, hidden ones left out."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(ENDINGS):
                yield Path(here, name)


def _name(path: Path) -> str:
    text = os.path.normpath(path)
    if text.startswith(("..", os.sep)) or os.path.splitdrive(text)[0]:
        text = os.path.splitdrive(os.path.abspath(text))[1].lstrip(os.sep)
    return text.replace(os.sep, "/")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return os.path.abspath(one) == os.path.abspath(other)
