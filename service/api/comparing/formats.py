"""What a comparison can be sent as: a table like that of an explanation's formats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from service.answer import Needs
from service.api import formats, problems
from service.api.formats import EVENTS, JSON, PNG, ZIP, Format
from service.comparison.comparing import Comparison, Entry
from service.comparison.sheet import sheet
from service.rendering import encoders

PATH = "/compare"


def document(found: Comparison) -> dict[str, Any]:
    """Return a comparison as `wire.CompareResponse` has it."""
    whole = formats.document(found.whole)
    return {
        "id": whole["id"],
        "model": whole["model"],
        "scope": "on this picture",
        "predictions": whole["predictions"],
        "methods": [_entry(one) for one in found.entries],
        "controls": [one.model_dump() for one in found.controls],
        "agreement": [one.model_dump() for one in found.agreement],
        "image": whole["image"],
        "usage": whole["usage"],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    answer = entry.answer
    maps: list[dict[str, Any]] = []
    if answer is not None:
        maps = [
            one
            | {"faithfulness": numbers.model_dump(), "metrics": metrics.model_dump() if metrics is not None else None}
            for one, numbers, metrics in zip(
                formats.maps(answer.maps, answer.output), entry.faithfulness, entry.metrics, strict=True
            )
        ]
    return {
        "method": entry.method,
        "params": answer.params if answer is not None else {},
        "maps": maps,
        "details": answer.details if answer is not None else {},
        "sanity": entry.sanity.model_dump(),
        "cost": entry.cost.model_dump() if entry.cost is not None else None,
        "problem": problems.fields(entry.problem, PATH) if entry.problem is not None else None,
    }


def _json(found: Comparison) -> bytes:
    return formats.dumps(document(found))


def _png(found: Comparison) -> bytes:
    return encoders.png(sheet(found))


def _zip(found: Comparison) -> bytes:
    entries = [_bare(one) for one in found.entries]
    files = [("manifest.json", _json(replace(found, entries=tuple(entries)))), ("sheet.png", _png(found))]
    for i, entry in enumerate(found.entries, 1):
        for n, one in enumerate(entry.answer.maps if entry.answer is not None else (), 1):
            name = f"{i:02d}-{entry.method.replace('+', 'p')}-{n:02d}"
            files += [(f"{name}.npy", encoders.npy(one.heat.array)), (f"{name}.png", one.picture)]
    return formats.archived(files)


def _bare(entry: Entry) -> Entry:
    return entry if entry.answer is None else replace(entry, answer=formats.bare(entry.answer))


def _row(like: Format, about: str, needs: Needs, encode: Any) -> Format:
    return replace(like, about=about, needs=needs, encode=encode)


_DRAWN = Needs(None, "best", encoders.png)
TABLE = (
    _row(JSON, "All of it: maps with their numbers, controls, agreement.", JSON.needs, _json),
    _row(PNG, "One sheet: maps, curves where they are asked for, numbers.", _DRAWN, _png),
    _row(
        EVENTS,
        "Events `progress` (passes_done, passes_total, seconds_left), then `result` (a CompareResponse) or `error` (a "
        "Problem).",
        JSON.needs,
        _json,
    ),
    _row(
        ZIP,
        "`manifest.json`, which is the answer without pictures and arrays, `sheet.png`, and of each map a `.npy` and a "
        "`.png`.",
        _DRAWN,
        _zip,
    ),
)
