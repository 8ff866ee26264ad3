"""What a file is, by its first bytes and its members, and why it could not be read."""

import json
import re
import tarfile
import zipfile
from pathlib import Path

import torch

from service.errors import CatalogError

_HEADS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS and not the file itself",
        "fetch the file with `git lfs pull`, or download it",
    ),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes them", "save a state dict from PyTorch"),
    (b"GGUF", "a GGUF file", "save a state dict from PyTorch"),
    (b"\x93NUMPY", "a numpy array", "save a state dict from PyTorch"),
    (b"\x1f\x8b", "a gzip archive", "unpack it, and name the file inside"),
    (b"BZh", "a bzip2 archive", "unpack it, and name the file inside"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it, and name the file inside"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it, and name the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and name the file inside"),
    (b"Rar!", "a RAR archive", "unpack it, and name the file inside"),
    (b"%PDF", "a PDF document", "name the weights' own file"),
)
ASKED = "it has to hold a state dict: tensors only, saved by torch.save(model.state_dict(), ...) or safetensors"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that files of before PyTorch 1.6 begin with
_ALLOW = "save the state dict alone, or set allow_pickle = true for a file that you trust"
_DAMAGED = "damaged or cut off; download or save it again"


def kind(path: Path) -> str:
    """Return what a file is by its first bytes, or its members: `safetensors`, `torch`, `script`, `export`, or a text.

    Raises:
        CatalogError: it is nothing that holds weights; the message says what it is.
    """
    if not path.is_file():
        raise CatalogError(f"weights file {str(path)!r} does not exist; name a .safetensors or .pth file")
    with path.open("rb") as file:
        head = file.read(512)
    found = remedy = ""
    if not head:
        found, remedy = "empty (0 bytes)", "download or save it again"
    for start, what, then in _HEADS:
        if head.startswith(start):
            found, remedy = what, then
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        found, remedy = (
            "an XML or HTML page and not the file itself",
            "download the file that the page offers, or look at what it says",
        )
    elif text.startswith((b"{", b"[")) and not _is_safetensors(head):
        found, remedy = "text (JSON), with no weights in it", "name the weights' own file"
    if zipfile.is_zipfile(path):
        return _archive(path)
    if not found and head[257:262] == b"ustar" and (names := _tar(path)) is not None:
        inside = ", ".join(sorted(names)[:3])
        found, remedy = f"a tar archive of other things ({inside})", "unpack it, and name the file inside"
    if found:
        raise CatalogError(f"weights file {str(path)!r} cannot be read as it is {found}; {remedy}; {ASKED}")
    return "safetensors" if _is_safetensors(head) else "torch"


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors does: the length of a JSON header, and the header."""
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27


def _tar(path: Path) -> list[str] | None:
    """Return the names inside of a tar archive; None where it is PyTorch's own, of before version 0.2, or cut off."""
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
    except tarfile.TarError:
        return None
    return None if {"storages", "tensors", "pickle"} <= set(names) else names


def _archive(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] or name for name in archive.namelist()]
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "script"
    if any(
        name.startswith("models/") or name in ("serialized_exported_program.json", "archive_format") for name in names
    ):
        return "export"
    if "data.pkl" in names:
        return "torch"
    inside = ", ".join(sorted(names)[:3])
    raise CatalogError(
        f"weights file {str(path)!r} cannot be read as it is a zip archive of other things ({inside}); unpack it, and "
        f"name the file inside; {ASKED}"
    )


def why(path: Path, found: str, error: Exception, *, allow_pickle: bool) -> str:
    """Return why a file could not be read, and the remedy, behind a colon; empty where nothing is known.

    Args:
        path: the file.
        found: its kind.
        error: what reading it raised.
        allow_pickle: whether the code of its objects was allowed to run.
    """
    told = _cut(path) if found == "safetensors" else _gone(error) if allow_pickle else _foreign(path)
    told = told or _plainly(path, error)
    return f": {told}" if told else ""


def _cut(path: Path) -> str:
    """Return how many bytes a file of safetensors lacks of those that its header tells of."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length)
    if len(text) < length:
        return f"it is cut off: its header alone has {length:,} bytes, and the file {size:,}; download or save it again"
    try:
        ends = [one["data_offsets"][1] for name, one in json.loads(text).items() if name != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return "its header is damaged; download or save it again"
    whole = 8 + length + max(ends, default=0)
    return f"it is cut off: it has {size:,} of {whole:,} bytes; download or save it again" if size < whole else ""


def _gone(error: Exception) -> str:
    """Return which class a pickled object needs that is not there."""
    place = re.search(r"Can't get attribute '([^']+)' on <module '([^']+)'", str(error))
    if place and place[2].rpartition(".")[2] in ("__main__", "__mp_main__"):
        return (
            f"it needs the class {place[1]!r} of a script that ran by itself, which no module holds; save the state "
            "dict alone, and name what makes the network as the factory"
        )
    if not place and not (isinstance(error, ModuleNotFoundError) and error.name):
        return ""
    what = f"{place[2]}.{place[1]}" if place else f"the module {getattr(error, 'name', '')!r}"
    return (
        f"it needs {what}, which is not there; put the module that it was saved with beside the catalogue, or save the "
        "state dict alone"
    )


def _foreign(path: Path) -> str:
    """Return which objects beside tensors are in the way of an archive; empty where none are known."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # it is no archive of today
        return ""
    if not names:
        return f"it is {_DAMAGED}"
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"it holds objects whose code would have to run ({listed}); {_ALLOW}"


def _plainly(path: Path, error: Exception) -> str:
    """Return what a file is that is no archive of today's PyTorch, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(200)
    if head.startswith(_LEGACY):
        unknown = re.search(r"GLOBAL ([\w.]+)", str(error))
        form = "it is in the form of before PyTorch 1.6"
        held = f" ({unknown[1]})" if unknown else ""
        if unknown or "module" in str(error).lower():
            return f"{form}, and holds objects whose code would have to run{held}; {_ALLOW}"
        return f"{form}, and is {_DAMAGED}"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "it is a pickle of Python's own; load it in Python, and save its tensors by torch.save"
    if head.isascii() and head.decode("ascii").replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable():
        return f"it is text, which begins {head[:40].decode('ascii')!r}; download the file itself"
    return "it is damaged, cut off, or no file of PyTorch"
