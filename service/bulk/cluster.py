"""Answers that a Ray cluster makes: Parquet files in a folder or a bucket, gone on with by Ray's own checkpoints."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service import __version__
from service.ask import Ask
from service.bulk.listing import ENDINGS, Answers, listed
from service.bulk.local import EACH
from service.bulk.loop import Progress, Stop, Tally
from service.bulk.manifest import another
from service.errors import InvalidParameter
from service.machine.cores import cores
from service.settings import Settings

if TYPE_CHECKING:
    from pyarrow import fs

    from service.bulk.command import Command

QUESTION = "question.json"
"""Beside the maps: what is asked of every picture."""
_OTHERS = 2  # cores that reading, writing and looking for what is done take


def on_ray(
    command: "Command",
    words: Sequence[str],
    lines: bytes,
    output: str,
    address: str,
    actors: int | None,
    settings: Settings,
) -> Tally:
    """Explain pictures on a cluster.

    Args:
        command: what is asked.
        words: pictures, as on the command line: on disks that every machine has, or all in one storage.
        lines: what stands for `-` among them.
        output: a folder, or its address.
        address: of the cluster; `auto`: the one here; `local`: a new one.
        actors: each with a device; None: as many as there is room for.
        settings: of the service.

    Raises:
        InvalidParameter: the pictures or the question are wrong, or the folder holds answers to another one.
        Stop: there is no cluster, or no picture can be answered so.
        OSError: nothing can be read or written.
    """
    try:
        import pyarrow as pa
        import ray

        from service.deploy import ray_data
    except ImportError as error:
        raise Stop(f"--ray needs Ray ({error}): pip install 'heatlens[ray]'") from None
    fields = {"params": command.params, "output": command.output, "precision": command.precision}
    asked: dict[str, Any] = {name: value for name, value in fields.items() if value}
    Ask.explain(command.method, asked)
    if settings.catalog is not None:
        settings = settings.model_copy(update={"catalog": Path(settings.catalog).resolve()})
    models = [*settings.model, *([str(settings.catalog)] if settings.catalog is not None else [])]
    question = command.question(command.targets, " ".join(models), __version__) | {"write": ["parquet"]}
    try:
        files, storage = _files(words, lines, Path(output))
        out = _Out.of(output)
        out.begin(question, force=command.force)
        if not ray.is_initialized():
            ray.init(**_cluster(address))
        before = out.done()
        tally = Tally()
        progress = Progress(len(files), tally, sys.stderr)
        rows = ray_data.explain(
            ray_data.of_files(files, storage),
            command.method,
            **_each(ray.cluster_resources(), len(ray.nodes()), actors),
            in_flight=command.in_flight or EACH,
            settings=settings.model_copy(update={"tune": False}),
            again=True,
            named=command.targets,
            **asked,
        )
        try:
            ray_data.write(rows, out.address)
        except KeyboardInterrupt:
            tally.interrupted = True
        _count([name for name, _ in files], before, out.errors(), tally, progress)
    except (ConnectionError, pa.ArrowException, ray.exceptions.RayError) as error:
        raise Stop(str(error).strip().rpartition("\n")[2]) from None
    progress.close()
    return tally


def _cluster(address: str) -> dict[str, Any]:
    if address == "local":
        return {"address": "local", "num_cpus": cores() + _OTHERS, "include_dashboard": False}
    return {"address": address}


def _each(there: Mapping[str, float], machines: int, actors: int | None) -> dict[str, Any]:
    """Return what actors get of a cluster: a device each, or a machine's cores."""
    if gpus := int(there.get("GPU", 0)):
        return {"devices": actors or gpus, "num_gpus": 1, "num_cpus": 1}
    devices = actors or max(1, machines)
    free = (there.get("CPU", 0) - _OTHERS) / devices
    return {"devices": devices, "num_cpus": math.floor(free) if free >= 1 else 0.5}


def _files(words: Sequence[str], lines: bytes, out: Path) -> "tuple[list[tuple[str, str]], fs.FileSystem | None]":
    """Return pictures, each by name and place, and the storage; None: that of every machine.

    Raises:
        InvalidParameter: they lie in several places, or there are none.
    """
    if not any("://" in word for word in words):
        found = listed(words, lines, Answers(out, []))
        return [(one.name, os.path.abspath(one.path)) for one in found], None
    from pyarrow import fs

    if len({word.partition("://")[0] for word in words}) > 1:
        raise InvalidParameter("pictures of one run lie in one storage; run it once for each")
    files: dict[str, str] = {}
    for word in words:
        storage, place = fs.FileSystem.from_uri(word)
        scheme = word.partition("://")[0]
        if storage.get_file_info(place).type == fs.FileType.File:
            files[f"{scheme}://{place}"] = place
            continue
        there = storage.get_file_info(fs.FileSelector(place, recursive=True))
        for path in sorted(one.path for one in there if one.type == fs.FileType.File):
            if path.lower().endswith(ENDINGS):
                files[f"{scheme}://{path}"] = path
    if not files:
        raise InvalidParameter("there is no picture in what is named")
    return list(files.items()), storage


def _count(names: Sequence[str], before: set[str], errors: Mapping[str, str], tally: Tally, progress: Progress) -> None:
    """Count what has become of pictures, and tell the failures."""
    for name in map(_text, names):
        error = errors.get(name)
        if error is None and tally.interrupted:
            continue
        if error == "":
            tally.skipped += name in before
            tally.done += name not in before
            continue
        detail = json.loads(error)["detail"] if error else "no answer, and it is tried again by the next run"
        tally.failed += 1
        progress.failure(f"{name}: {detail}")


def _text(name: str) -> str:
    """Return a file's name as a column of text has it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class _Out:
    """Where answers are written."""

    address: str
    storage: "fs.FileSystem"
    place: str

    @classmethod
    def of(cls, output: str) -> "_Out":
        from pyarrow import fs

        if "://" in output:
            storage, place = fs.FileSystem.from_uri(output)
            return cls(output.rstrip("/"), storage, place.rstrip("/"))
        place = os.path.abspath(output)
        return cls(place, fs.LocalFileSystem(), place)

    def begin(self, question: Mapping[str, Any], *, force: bool) -> None:
        """Write down what is asked, or compare it with what was.

        Raises:
            InvalidParameter: something else was asked there.
        """
        from pyarrow import fs

        from service.deploy import ray_data

        path, text = f"{self.place}/{QUESTION}", json.dumps(question, indent=1).encode()
        if self.storage.get_file_info(path).type == fs.FileType.File:
            with self.storage.open_input_stream(path) as stream:
                there = json.loads(stream.read())
            if there == json.loads(text) and not force:
                return
            if not force:
                raise another(self.address, there, json.loads(text))
            for folder in (ray_data.DONE, ray_data.MAPS):
                if self.storage.get_file_info(f"{self.place}/{folder}").type == fs.FileType.Directory:
                    self.storage.delete_dir(f"{self.place}/{folder}")
        self.storage.create_dir(self.place, recursive=True)
        with self.storage.open_output_stream(path) as stream:
            stream.write(text)

    def done(self) -> set[str]:
        """Return the names of what is there, for good."""
        from service.deploy import ray_data

        return set(self._columns(ray_data.DONE, ["path"]).get("path", ()))

    def errors(self) -> dict[str, str]:
        """Return of each name that is there the problem; an empty one where there is none."""
        from service.deploy import ray_data

        found = self._columns(ray_data.MAPS, ["path", "error"])
        return dict(zip(found.get("path", ()), found.get("error", ()), strict=True))

    def _columns(self, folder: str, names: list[str]) -> dict[str, list[str]]:
        from pyarrow import dataset, fs

        there = self.storage.get_file_info(
            fs.FileSelector(f"{self.place}/{folder}", recursive=True, allow_not_found=True)
        )
        whole = [one.path for one in there if one.path.endswith(".parquet") and ".pending." not in one.path]
        if not whole:
            return {}
        found: dict[str, list[str]] = (
            dataset.dataset(whole, format="parquet", filesystem=self.storage).to_table(names).to_pydict()
        )
        return found
