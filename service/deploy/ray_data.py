"""Ray Data: the maps of a whole data set, on as many devices as a cluster has.

    write(explain(pictures("s3://bucket/pictures/"), "score-cam", targets=["tabby"]), "s3://bucket/maps/")

Retries, checkpoints and writing are Ray's. One actor holds one device and works on several pictures at a time, so that
their rows share batches. What cannot be read or explained is a row, too: one broken file must not end a million.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import ray.data
from pyarrow import fs
from ray.data.block import BlockMetadata
from ray.data.checkpoint import CheckpointConfig

from service.answer import Needs
from service.api import problems, words
from service.app import build
from service.ask import Ask
from service.engine.scheduler.run import Run
from service.errors import NotApplicable
from service.images.sent import file_bytes
from service.process import leave_cores_to_the_device, prepare_process
from service.rendering import encoders
from service.settings import Settings

log = logging.getLogger("heatlens")
MAPS, DONE = "maps", "done"
"""Within the folder that is written to: Parquet files, and what has been done, in Ray's form."""
_LIGHT_CPUS = 0.25  # of who reads and writes: where actors held all cores, these would never start, without an error
_FILES = 2000  # blocks at least, where there are more pictures than a block has: each becomes a file


def pictures(paths: str | Sequence[str], *, filesystem: "fs.FileSystem | None" = None) -> "ray.data.Dataset":
    """Return a data set of files as they are: columns `path`, `bytes`, and `fault` where a file cannot be read.

    A file that is no picture is a row like any other: what decodes by rules of its own would end all of it.

    Args:
        paths: files, or folders with all that is in them but hidden files; addresses as `s3://bucket/folder` or
            paths, all of one storage.
        filesystem: of the storage, where its address does not say enough.

    Raises:
        OSError: one of them is not there.
    """
    found: list[tuple[str, str]] = []
    for path in [paths] if isinstance(paths, str) else paths:
        scheme, divider, _ = path.partition("://")
        if filesystem is None and divider:
            filesystem, place = fs.FileSystem.from_uri(path)
        else:
            place = path if divider or filesystem is not None else os.path.abspath(path)
        place = place.removeprefix(f"{scheme}://") if divider else place
        shown = f"{scheme}://" if divider else ""
        found += [(shown + one, one) for one in _inside(filesystem or fs.LocalFileSystem(), place)]
    return of_files(found, filesystem)


def _inside(filesystem: "fs.FileSystem", place: str) -> Iterator[str]:
    info = filesystem.get_file_info(place)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(f"{place} is not there")
    if info.type == fs.FileType.File:
        yield place
        return
    begun = len(place.rstrip("/")) + 1
    for one in sorted(filesystem.get_file_info(fs.FileSelector(place, recursive=True)), key=lambda one: one.path):
        hidden = any(part.startswith((".", "_")) for part in one.path[begun:].split("/"))
        if one.type == fs.FileType.File and not hidden:
            yield one.path


def of_files(
    files: Sequence[tuple[str, str]], filesystem: "fs.FileSystem | None" = None, *, rows: int = 16
) -> "ray.data.Dataset":
    """Return a data set of named files; see `pictures`.

    Args:
        files: of each what it is called, which no two share, and where it is.
        filesystem: where they are; None: on every machine.
        rows: of a block, at least: so many are done again when a run is cut off.
    """
    rows = max(rows, -(-len(files) // _FILES))
    paths = ray.data.read_datasource(_Paths(files, rows), num_cpus=_LIGHT_CPUS)
    return paths.map_batches(
        _read,
        batch_size=rows,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=_LIGHT_CPUS,
        fn_kwargs={"filesystem": filesystem},
    )


class _Paths(ray.data.Datasource):  # type: ignore[misc]  # Ray has no types
    """Where files are, without what they hold: what has been done is not read again."""

    def __init__(self, files: Sequence[tuple[str, str]], rows: int) -> None:
        super().__init__()
        self._blocks = [files[i : i + rows] for i in range(0, len(files), rows)]

    def estimate_inmemory_data_size(self) -> int:
        return sum(2 * len(name) for block in self._blocks for name, _ in block)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[Any]:
        return [
            ray.data.ReadTask(
                lambda block=block: [_table(block)],
                BlockMetadata(
                    num_rows=len(block),
                    size_bytes=sum(2 * len(name) for name, _ in block),
                    input_files=None,
                    exec_stats=None,
                ),
                per_task_row_limit=per_task_row_limit,
            )
            for block in self._blocks
        ]


def _table(files: Sequence[tuple[str, str]]) -> "pa.Table":
    # A file's name may be no text, and a column of names has to be.
    names = [os.fsencode(name).decode("utf-8", "backslashreplace") for name, _ in files]
    places = [os.fsencode(place) for _, place in files]
    return pa.table({"path": pa.array(names, pa.string()), "place": pa.array(places, pa.binary())})


def _read(batch: "pa.Table", filesystem: "fs.FileSystem | None") -> "pa.Table":
    found = [_file(place, filesystem) for place in batch["place"].to_pylist()]
    columns = {
        "path": batch["path"],
        "bytes": pa.array([data for data, _ in found], pa.large_binary()),
        "fault": pa.array([fault for _, fault in found], pa.string()),
    }
    return pa.table(columns)


def _file(place: bytes, filesystem: "fs.FileSystem | None") -> tuple[bytes, str]:
    """Return a file's bytes, or why there are none."""
    try:
        if filesystem is not None:
            with filesystem.open_input_stream(os.fsdecode(place)) as stream:
                return stream.read(), ""
        return file_bytes(place), ""
    except OSError as error:
        return b"", error.strerror or str(error) or type(error).__name__


def explain(
    dataset: "ray.data.Dataset",
    method: str,
    *,
    devices: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    in_flight: int = 8,
    settings: Settings | None = None,
    again: bool = False,
    named: Sequence[str] = (),
    **ask: Any,
) -> "ray.data.Dataset":
    """Return a data set with a row for each picture, in any order.

    Columns: `path`; `sha256` of its bytes; `model`, its name and digest; `label` and `probability` (or value, score or
    share) of the strongest prediction; `map`, float32 in C order of `shape`, a JSON list (maps, height, width) or
    (maps, channels, height, width); `png`, the first map's picture; `usage` in JSON; `error`, the problem in JSON,
    empty where there is none. Where there is one, the other columns are empty.

    Args:
        dataset: with the columns `path` and `bytes`, as of `pictures`.
        method: its name.
        devices: actors, each of which holds its models.
        num_cpus: of an actor, which is its number of threads, too. Actors have to leave the cluster two cores.
        num_gpus: of an actor.
        in_flight: pictures that an actor works on at a time.
        settings: of the service; default: those of the environment.
        again: leave out rows of failures that are not the picture's own, so that a later run tries it again.
        named: targets as on the command line, which the model's labels tell apart.
        ask: the other fields of a request: `model`, `targets`, `params`, `output`, `precision`.

    Raises:
        ServiceError: the question is wrong, whatever the picture.
    """
    Ask.explain(method, ask)
    if ray.is_initialized() and devices * num_cpus > (there := ray.cluster_resources().get("CPU", 0)) - 2:
        log.warning(
            "%d actors of %g cores each leave less than two of the cluster's %g: what reads and writes may never start",
            *(devices, num_cpus, there),
        )
    return dataset.map_batches(
        Explain,
        batch_size=2 * in_flight,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=devices),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        fn_constructor_args=(method, ask, in_flight, settings, again, tuple(named)),
    )


def write(dataset: "ray.data.Dataset", folder: str, *, filesystem: "fs.FileSystem | None" = None) -> None:
    """Write rows as Parquet files into `folder`/maps. What is there is not done again, however an earlier run ended.

    Args:
        dataset: of `explain`, of the same question each time.
        folder: a path that every machine has, or an address.
        filesystem: of the storage, where its address does not say enough.
    """
    place = folder.rstrip("/") if "://" in folder else os.path.abspath(folder)
    # Ray looks for what was cut off in all that lies in the folder of files, which these must not.
    done = CheckpointConfig(
        "path", f"{place}/{DONE}", delete_checkpoint_on_success=False, override_filesystem=filesystem
    )
    done.checkpoint_actor_pool_max_size = 1  # each takes a core from the others
    dataset.context.checkpoint_config = done
    dataset.write_parquet(f"{place}/{MAPS}", filesystem=filesystem, ray_remote_args={"num_cpus": _LIGHT_CPUS})


_ROW: dict[str, Any] = {"path": "", "sha256": "", "model": "", "label": "", "probability": float("nan"), "map": b""}
_ROW |= {"shape": "", "png": b"", "usage": "", "error": ""}
"""What a row is of a picture that nothing is known of."""
_TYPES = {str: pa.string(), float: pa.float64(), bytes: pa.large_binary()}
_SCHEMA = pa.schema([(name, _TYPES[type(value)]) for name, value in _ROW.items()])


class Explain:
    """One device: what an actor holds and does."""

    def __init__(
        self,
        method: str,
        ask: dict[str, Any],
        in_flight: int,
        settings: Settings | None = None,
        again: bool = False,
        named: Sequence[str] = (),
    ) -> None:
        """Load the models, and wait for them.

        Raises:
            ServiceError: the model that is asked has failed to load, or no picture can be asked about so.
        """
        prepare_process()
        self._method, self._ask, self._again = method, ask, again
        self._context = build(settings or Settings())
        self._context.store.start()
        self._context.store.wait()
        labels = self._context.store.get(ask.get("model")).facts.labels
        if named:
            self._ask = ask | {"targets": [words.target(text, labels) for text in named]}
        self._context.pipeline.plan(Ask.explain(method, self._ask, b"none yet"))  # a mistake is one for all pictures
        self._pool = ThreadPoolExecutor(in_flight, "heatlens-picture", leave_cores_to_the_device)

    def __call__(self, batch: dict[str, Any]) -> "pa.Table":
        """Return the rows of a batch."""
        faults = batch.get("fault", [""] * len(batch["path"]))
        rows = list(self._pool.map(self._row, batch["path"], batch["bytes"], faults))
        return pa.Table.from_pylist([row for row in rows if row is not None], _SCHEMA)

    def _row(self, path: str, data: bytes, fault: str) -> dict[str, Any] | None:
        try:
            if not fault:
                return _ROW | {"path": path, "sha256": hashlib.sha256(data).hexdigest()} | self._explained(bytes(data))
            problem: dict[str, Any] = {"type": "about:blank", "title": "The file cannot be read", "detail": fault}
        except Exception as error:  # one broken file must not end a million
            problem = problems.fields(problems.known(str(path), error), str(path))
        if self._again and problem.get("status") not in problems.OWN:
            log.warning("%s: %s", path, problem["detail"])
            return None
        sha256 = "" if fault else hashlib.sha256(data).hexdigest()
        return _ROW | {"path": path, "sha256": sha256, "error": orjson.dumps(problem).decode()}

    def _explained(self, data: bytes) -> dict[str, Any]:
        pipeline = self._context.pipeline
        answer = pipeline.work(
            pipeline.plan(Ask.explain(self._method, self._ask, data)), Run(), Needs(None, "best", encoders.png)
        )
        arrays = [one.heat.array for one in answer.maps]
        if len({one.shape for one in arrays}) != 1:
            raise NotApplicable(
                f"{self._method} answers with maps of several sizes, and a row holds one array; ask for one target, "
                "channel or layer"
            )
        best = answer.predictions[0] if answer.predictions else None
        number = (
            None
            if best is None
            else next((n for n in (best.probability, best.value, best.score, best.share) if n is not None), None)
        )
        stacked = np.stack(arrays)
        return {
            "model": f"{answer.model.name} {answer.model.version}",
            "label": "" if best is None else best.label or "",
            "probability": float("nan") if number is None else float(number),
            "map": np.ascontiguousarray(stacked, "<f4").tobytes(),
            "shape": orjson.dumps(stacked.shape).decode(),
            "png": answer.maps[0].picture,
            "usage": answer.usage.model_dump_json(),
        }
