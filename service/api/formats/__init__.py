"""What an answer can be sent as: a table of media types, for HTTP and for files.

A new format is a new row: its names, what has to be drawn for it, and who encodes it.
"""

from __future__ import annotations

import base64
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from service.answer import Answer, Needs, Shown
from service.contract import Prediction
from service.errors import InvalidParameter
from service.rendering import Floats, OutputOptions, encoders

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a ZIP knows: equal answers are equal bytes
_ACCEPT = 2048  # characters of the header that are read
_AT_ONCE = 2**16  # values
_WRITING, _FILING = 40, 4  # bytes a raw value, and a byte of a file, while they are written
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Format:
    """A row of the table.

    media_type: its name over HTTP.
    extensions: its names as a file, the usual one first; none: it is no file.
    about: what it shows of an answer.
    needs: what is drawn and encoded for it.
    encode: makes the bytes of an answer that has that.
    streams: events before the answer, which is then the last one of them.
    browsers: whether an `Accept` that names `text/html` may choose it. A browser names what it could show, and does
        not ask for it.
    """

    media_type: str
    extensions: tuple[str, ...]
    about: str
    needs: Needs
    encode: Callable[[Any], bytes]  # of an `Answer`, or a comparison
    streams: bool = False
    browsers: bool = True

    @property
    def single(self) -> bool:
        """Whether it shows one map alone."""
        return self.needs.maps == 1

    def of(self, map: int) -> Format:
        """Return the format that shows another map than the first one; they count from 0."""
        return replace(self, needs=replace(self.needs, first=map))


def dumps(body: Any) -> bytes:
    """Serialise to JSON; NumPy arrays become lists."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def document(answer: Answer) -> dict[str, Any]:
    """Return an answer as `wire.ExplainResponse` or `wire.PredictResponse` has it."""
    predictions = [_prediction(found) for found in answer.predictions]
    image = answer.image.model_dump() if answer.image is not None else None
    head, usage = {"id": answer.id}, answer.usage.model_dump()
    if answer.method is None:
        return head | {"model": answer.model.model_dump(), "predictions": predictions, "image": image, "usage": usage}
    return head | {
        "method": answer.method,
        "model": answer.model.model_dump(),
        "params": answer.params,
        "predictions": predictions,
        "maps": maps(answer.maps, answer.output),
        "image": image,
        "details": answer.details,
        "sanity": answer.sanity.model_dump() if answer.sanity is not None else None,
        "usage": usage,
    }


def maps(found: Iterable[Shown], output: OutputOptions) -> list[dict[str, Any]]:
    """Return maps as `wire.MapWire` has them."""
    return [_map(one, output) for one in found]


def _map(shown: Shown, output: OutputOptions) -> dict[str, Any]:
    found, heat = shown.map, shown.heat
    numbers = {"faithfulness": shown.faithfulness.model_dump()} if shown.faithfulness is not None else {}
    return numbers | {
        "name": found.name,
        "kind": found.kind,
        "interpolation": found.interpolation,
        "target": shown.target.model_dump() if shown.target is not None else None,
        "layer": found.layer,
        "channel": found.channel,
        "channels": found.channels,
        "heatmap": _base64(shown.heatmap),
        "overlay": _base64(shown.overlay),
        "array": array(heat.array, output.array) if output.array != "none" else None,
        "min": heat.low,
        "max": heat.high,
        "flat": heat.flat,
        "all_negative": heat.all_negative,
        "patch": found.patch,
        "completeness": vars(found.completeness) if found.completeness is not None else None,
    }


def array(values: Floats, encoding: str) -> dict[str, Any]:
    """Return raw values as `wire.ArrayWire` has them; JSON arrays stay arrays until all of it is serialised.

    Large ones are serialised in parts: nobody else's Python runs meanwhile.
    """
    little = np.ascontiguousarray(values, dtype="<f4")
    data: Any = little if encoding == "json" else _base64(little.tobytes())
    if encoding == "json" and little.size > _AT_ONCE:
        data = [orjson.Fragment(dumps(part)) for part in little]
    return {"dtype": "float32", "shape": list(values.shape), "encoding": encoding, "data": data}


def _base64(data: bytes | None) -> str | None:
    return base64.b64encode(data).decode("ascii") if data is not None else None


def _prediction(found: Prediction) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if value is not None}


def _json(answer: Answer) -> bytes:
    return dumps(document(answer))


def _picture(answer: Answer) -> bytes:
    return answer.maps[0].picture


def _npy(answer: Answer) -> bytes:
    return encoders.npy(answer.maps[0].heat.array)


def _zip(answer: Answer) -> bytes:
    files = [("manifest.json", _json(bare(answer)))]
    for name, one in zip(_names(answer.maps), answer.maps, strict=True):
        files += [(f"{name}.npy", encoders.npy(one.heat.array)), (f"{name}.png", one.picture)]
    return archived(files)


def bare(answer: Answer) -> Answer:
    """Return an answer without pictures and arrays, which stand beside it."""
    return replace(
        answer,
        output=answer.output.model_copy(update={"array": "none"}),
        maps=tuple(replace(one, heatmap=None, overlay=None) for one in answer.maps),
    )


def archived(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a ZIP of files, by name and content: the same ones are the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: pictures are compressed, and heat hardly can be
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return buffer.getvalue()


def _names(found: Sequence[Shown]) -> list[str]:
    """Return names for files: numbered as the maps are, from 1 on, and of letters that every system takes."""
    digits = len(str(len(found)))
    names = []
    for i, one in enumerate(found, 1):
        label = one.target.label if one.target is not None else ""
        words = _UNSAFE.sub("-", f"{one.map.name}-{label}").strip("-")[:80]
        names.append(f"{i:0{digits}}-{words}".strip("-"))
    return names


JSON = Format(
    "application/json",
    (".json",),
    "All of it: predictions, maps, pictures and arrays as `output` says, and what it took.",
    Needs(None, "asked", encoders.png, "asked"),
    _json,
)
PNG = Format(
    "image/png", (".png",), "The first map: over the picture, else alone.", Needs(1, "best", encoders.png), _picture
)
NPY = Format("application/x-npy", (".npy",), "The first map's raw array.", Needs(1, arrays="all"), _npy)
WEBP = Format(
    "image/webp", (".webp",), "As the PNG, smaller.", Needs(1, "best", encoders.webp), _picture, browsers=False
)
JPEG = Format(
    "image/jpeg",
    (".jpg", ".jpeg"),
    "As the PNG, smaller and on white.",
    Needs(1, "best", encoders.jpeg),
    _picture,
    browsers=False,
)
ZIP = Format(
    "application/zip",
    (".zip",),
    "`manifest.json`, which is the answer without pictures and arrays, and in the order of its maps one `.npy` and one "
    "`.png` each.",
    Needs(None, "best", encoders.png, "all"),
    _zip,
    browsers=False,
)
EVENTS = Format(
    "text/event-stream",
    (),
    "Events `progress` (passes_done, passes_total, seconds_left), `partial` (the same, image, and maps of what is done "
    "so far with their `error_bound`, of methods whose rows tell one by one, as score-cam), then `result` (an "
    "ExplainResponse) or `error` (a Problem).",
    JSON.needs,
    _json,
    streams=True,
)
TABLE = (JSON, PNG, NPY, EVENTS, WEBP, JPEG, ZIP)
_ANY = {"*/*": JSON, "application/*": JSON, "image/*": PNG}


def written(answer: Answer, needs: Needs) -> int:
    """Return the bytes that it takes to write an answer: as text, in parts and in one piece."""
    values = sum(one.heat.array.size for one in answer.maps) if needs.takes_arrays(answer.output) else 0
    files = sum(len(file) for one in answer.maps for file in (one.heatmap, one.overlay) if file is not None)
    return values * _WRITING + files * _FILING


def accepted(accept: str, table: Sequence[Format] = TABLE) -> Format:
    """Return the format of a table that an `Accept` prefers; its first one where it names none that there is."""
    asked = [_weighed(item) for item in accept[:_ACCEPT].split(",")]
    browser = any(kind == "text/html" for kind, _ in asked)
    known = {row.media_type: row for row in table}
    any_of = {kind: known[row.media_type] for kind, row in _ANY.items()}
    offered = any_of | {kind: row for kind, row in known.items() if row.browsers or not browser}
    best, best_weight = table[0], 0.0
    for kind, weight in asked:
        if kind in offered and weight > best_weight:
            best, best_weight = offered[kind], weight
    return best


def _weighed(item: str) -> tuple[str, float]:
    kind, _, parameters = item.strip().partition(";")
    weight = 1.0
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
    return kind.strip().lower(), weight


def of_file(path: str) -> Format:
    """Return the format that a file's name asks for.

    Raises:
        InvalidParameter: there is none of that extension.
    """
    known = {extension: row for row in TABLE for extension in row.extensions}
    row = known.get(Path(path).suffix.lower())
    if row is None:
        *some, last = known
        raise InvalidParameter(f"{path}: write to a {', '.join(some)} or {last} file")
    return row
