"""Ray Data: the maps of a whole data set, on as many devices as a cluster has.

    pictures("s3://bucket/pictures/") -> explain(..., "score-cam", targets=["tabby"]) -> write_parquet("s3://bucket/maps/")

Reading, retries, checkpoints and writing are Ray's. One actor holds one device and works on several pictures at a time,
so that their rows share batches.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson
import ray.data

from service.answer import Needs
from service.api import problems
from service.app import build
from service.ask import Ask
from service.engine.scheduler.run import Run
from service.errors import NotApplicable
from service.process import leave_cores_to_the_device, prepare_process
from service.rendering import encoders
from service.settings import Settings

_READING_CPUS = 0.25  # of a reader: where actors held all cores, readers would never start, without an error


def pictures(paths: str | Sequence[str], **options: Any) -> "ray.data.Dataset":
    """Return a data set of files as they are: columns `path` and `bytes`.

    A file that is no picture is a row like any other: what decodes by rules of its own would end all of it.

    Args:
        paths: files or folders, here or in any storage that Ray reads.
        options: as `ray.data.read_binary_files` has them.
    """
    return ray.data.read_binary_files(
        list(paths) if not isinstance(paths, str) else paths,
        include_paths=True,
        **{"ray_remote_args": {"num_cpus": _READING_CPUS}} | options,
    )


def explain(
    dataset: "ray.data.Dataset",
    method: str,
    *,
    devices: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    in_flight: int = 8,
    settings: Settings | None = None,
    **ask: Any,
) -> "ray.data.Dataset":
    """Return a data set with a row for each picture, in any order.

    Columns: `path`; `sha256` of its bytes; `label` and `probability` (or value, score or share) of the strongest
    prediction; `map`, float32 in C order of `shape`, a JSON list (maps, height, width) or (maps, channels, height,
    width); `png`, the first map's picture; `usage` in JSON; `error`, the problem in JSON, empty where there is none.
    Where there is one, the other columns are empty.

    Args:
        dataset: with the columns `path` and `bytes`, as of `pictures`.
        method: its name.
        devices: actors, each of which holds its models.
        num_cpus: of an actor, which is its number of threads, too.
        num_gpus: of an actor.
        in_flight: pictures that an actor works on at a time.
        settings: of the service; default: those of the environment.
        ask: the other fields of a request: `model`, `targets`, `params`, `output`, `precision`.

    Raises:
        ServiceError: the question is wrong, whatever the picture.
    """
    Ask.explain(method, ask)
    return dataset.map_batches(
        Explain,
        batch_size=2 * in_flight,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=devices),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        fn_constructor_args=(method, ask, in_flight, settings),
    )


class Explain:
    """One device: what an actor holds and does."""

    def __init__(self, method: str, ask: dict[str, Any], in_flight: int, settings: Settings | None = None) -> None:
        """Load the models, and wait for them.

        Raises:
            ServiceError: the model that is asked has failed to load.
        """
        prepare_process()
        self._method, self._ask = method, ask
        self._context = build(settings or Settings())
        self._context.store.start()
        self._context.store.wait()
        self._context.store.get(ask.get("model"))
        self._pool = ThreadPoolExecutor(in_flight, "heatlens-picture", leave_cores_to_the_device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Return the rows of a batch, column by column."""
        rows = list(self._pool.map(self._row, batch["path"], batch["bytes"]))
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _row(self, path: str, data: bytes) -> dict[str, Any]:
        row: dict[str, Any] = {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "label": "", "map": b""}
        row |= {"probability": float("nan"), "shape": "", "png": b"", "usage": "", "error": ""}
        try:
            return row | self._explained(bytes(data))
        except Exception as error:  # one broken file must not end a million
            return row | {"error": problems.document(problems.known(str(path), error), str(path)).decode()}

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
            "label": "" if best is None else best.label or "",
            "probability": float("nan") if number is None else float(number),
            "map": np.ascontiguousarray(stacked, "<f4").tobytes(),
            "shape": orjson.dumps(stacked.shape).decode(),
            "png": answer.maps[0].picture,
            "usage": answer.usage.model_dump_json(),
        }
