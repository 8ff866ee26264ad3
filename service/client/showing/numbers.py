"""Numbers about maps as notebooks show them: every one that an answer holds, and why one is missing."""

from collections.abc import Iterator, Sequence
from html import escape

from pydantic import BaseModel

from .. import wire


def alike(found: wire.Agreement, methods: Sequence[str]) -> str:
    """Return how alike the maps of one target are, as a table; methods are an answer's, in its order."""
    names = [escape(methods[i]) for i in found.methods]
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{written(value)}</td>' for value in row)}</tr>"
        for name, row in zip(names, found.spearman, strict=True)
    )
    title = f"How alike maps of {escape(found.target.label)} order pixels (Spearman)"
    return f"<table><caption>{title}</caption><tr><td></td>{head}</tr>{rows}</table>"


def table(one: wire.MapWire) -> str:
    """Return the numbers about a map as a table; nothing where none were asked for."""
    about = [found for found in (one.faithfulness, getattr(one, "metrics", None)) if found is not None]
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for found in about for name, value in told(found)
    )
    return f"<table>{rows}</table>" if rows else ""


def told(found: BaseModel, place: str = "") -> Iterator[tuple[str, str]]:
    """Give the numbers that a value of the wire holds, however deep, and why one is missing, each with its name."""
    for key, value in found:
        name = f"{place} {key.replace('_', ' ')}".strip()
        if isinstance(value, BaseModel):
            yield from told(value, name)
        elif isinstance(value, dict):
            yield from ((f"{one}, none", str(why)) for one, why in value.items())
        elif isinstance(value, str):
            yield name, value
        elif isinstance(value, int | float):
            yield name, written(value)


def written(value: float | None) -> str:
    """Return a number as people read it."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else f"{value:,}"
