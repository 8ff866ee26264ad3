"""Answers as a program wants them: arrays, pictures that notebooks show, and whatever else the wire's types hold."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from functools import cached_property
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from . import wire
from .errors import ServerFailed
from .showing.numbers import alike, table, told

T = TypeVar("T", bound=BaseModel)
Floats = npt.NDArray[np.float32]


class Png(bytes):
    """A PNG file's bytes, which notebooks show."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file."""
        Path(path).write_bytes(self)

    def _repr_png_(self) -> bytes:
        return bytes(self)

    def __repr__(self) -> str:
        return f"<PNG of {len(self):,} bytes>"


def _decoded(value: Any) -> Any:
    return Png(base64.b64decode(value)) if isinstance(value, str) else value


def _encoded(value: bytes | None) -> str | None:
    return base64.b64encode(value).decode("ascii") if value is not None else None


_Drawing = Annotated[Png | None, BeforeValidator(_decoded), PlainSerializer(_encoded)]


class Map(wire.MapWire):
    """One map: `values`, how it is drawn, and what it is of."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    # On the wire these are base64, and nobody who has an answer in hands wants that.
    heatmap: _Drawing = None  # type: ignore[assignment]
    overlay: _Drawing = None  # type: ignore[assignment]

    @cached_property
    def values(self) -> Floats:
        """The raw values, unnormalised: (h, w); (k, h, w) of a grid; (3, h, w) of an rgb or signed picture."""
        if self.array is None:
            raise AttributeError("the answer has no array")
        if isinstance(self.array.data, str):
            data = base64.b64decode(self.array.data)
            return np.frombuffer(data, "<f4").astype(np.float32).reshape(self.array.shape)
        return np.asarray(self.array.data, np.float32).reshape(self.array.shape)

    @property
    def picture(self) -> Png | None:
        """The best drawing that there is: over the picture, else alone."""
        return self.overlay if self.overlay is not None else self.heatmap

    @property
    def title(self) -> str:
        """What it is of, in a few words."""
        return f"{self.target.label} ({self.target.score:.3g})" if self.target is not None else self.name

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write its picture as a PNG, or its values where the path ends in `.npy`.

        Raises:
            ValueError: no picture was asked for.
        """
        if os.fspath(path).endswith(".npy"):
            np.save(path, self.values, allow_pickle=False)
        elif self.picture is None:
            raise ValueError("no picture was asked for; ask with overlay=True or heatmap=True")
        else:
            self.picture.save(path)

    def _repr_png_(self) -> bytes | None:
        return self.picture

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<Map {self.title!r}, {' x '.join(map(str, self.array.shape)) if self.array else 'no array'}>"


class Predictions(wire.PredictResponse):
    """What the network sees: `predictions`, best first."""

    def _repr_html_(self) -> str:
        return _bars(self.predictions)

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<Predictions of {self.model.name}: {', '.join(map(_said, self.predictions[:3]))}>"


class Explanation(wire.ExplainResponse):
    """The answer to an explanation: `maps`, `predictions`, `params` as they were used, `usage`, `details`."""

    maps: list[Map]  # type: ignore[assignment]  # lists of a narrower kind, which nobody adds to

    def _repr_html_(self) -> str:
        return f"<div>{escape(self.method)} of {escape(self.model.name)}{_figures(self.maps)}</div>"

    def plot(self) -> Any:
        """Draw all maps side by side with matplotlib, and return its figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        pyplot = import_module("matplotlib.pyplot")
        figure, axes = pyplot.subplots(
            1, max(1, len(self.maps)), squeeze=False, figsize=(3 * max(1, len(self.maps)), 3.4)
        )
        for axis, one in zip(axes[0], self.maps, strict=False):
            values = one.values if one.values.ndim == 2 else np.abs(one.values).max(0)
            colours: dict[str, Any] = {"cmap": "inferno"}
            if one.kind == "rgb":  # a picture, and no heat
                values, colours = one.values.transpose(1, 2, 0).clip(0, 1), {}
            elif one.kind == "signed" or values.min() < 0:  # white is zero
                bound = float(np.abs(values).max()) or 1.0
                colours = {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
            axis.imshow(values, **colours)
            axis.set_title(one.title, fontsize=9)
        for axis in axes[0]:
            axis.axis("off")
        return figure

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<Explanation by {self.method} of {self.model.name}: {len(self.maps)} maps>"


class ComparedMap(Map):
    """One map of a comparison, and the numbers about it."""

    metrics: wire.Metrics | None = None


class Compared(wire.Compared):
    """One method of a comparison: its maps, or its problem."""

    maps: list[ComparedMap]  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        found = [self.problem.detail] if self.problem is not None else []
        found.append(f"sanity check: {self.sanity.verdict}")
        found += [self.sanity.reason] if self.sanity.reason is not None else []
        found += [f"{name} {value}" for name, value in told(self.cost)] if self.cost is not None else []
        return f"<div>{escape(self.method)}: {escape('; '.join(found))}{_figures(self.maps)}</div>"


class Comparison(wire.CompareResponse):
    """The answer to a comparison: `methods` with their maps and numbers, `controls`, `agreement`."""

    methods: list[Compared]  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        tables = "".join(alike(one, [method.method for method in self.methods]) for one in self.agreement)
        return f"<div>{escape(self.scope)}</div>" + "".join(one._repr_html_() for one in self.methods) + tables

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(one.method for one in self.methods)} by {self.model.name}>"


class Progress(wire.Progress):
    """How far an explanation is, and sometimes `maps` of what is done so far, with the `image` that they are of."""

    maps: list[Map] = Field(default_factory=list)
    image: wire.Geometry | None = None
    error_bound: float | None = None


def _figures(maps: Iterable[Map]) -> str:
    """Return maps side by side, each with what it is of."""
    found = "".join(
        f'<figure style="margin:0"><img style="max-width:100%;min-width:160px" alt="{escape(one.title)}" '
        f'src="data:image/png;base64,{_encoded(one.picture)}"><figcaption>{escape(one.title)}{table(one)}</figcaption>'
        "</figure>"
        for one in maps
        if one.picture is not None
    )
    # Numbers are there where nothing was drawn, too.
    bare = "".join(
        f"<div>{escape(one.title)}{numbers}</div>" for one in maps if one.picture is None and (numbers := table(one))
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{found}{bare}</div>'


def _said(found: wire.Prediction) -> str:
    name = found.label or (str(found.index) if found.index is not None else "embedding")
    number = next((n for n in _numbers(found) if n is not None), None)
    return name if number is None else f"{name} {number:.3g}"


def _numbers(found: wire.Prediction) -> tuple[float | None, ...]:
    return found.probability, found.value, found.share, found.score, found.norm


def _bars(found: list[wire.Prediction]) -> str:
    rows = ""
    for one in found:
        share = next((n for n in (one.probability, one.share, one.score) if n is not None), None)
        bar = f'<meter value="{share:.4f}"></meter>' if share is not None else ""
        rows += f"<tr><td>{escape(_said(one))}</td><td>{bar}</td></tr>"
    return f"<table>{rows}</table>"


def parsed(cls: type[T], content: bytes | str) -> T:
    """Read an answer.

    Raises:
        ServerFailed: it is not what this client knows.
    """
    try:
        return cls.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "/".join(map(str, first["loc"]))
        raise ServerFailed(
            f"the answer is not what this client reads ({place}: {first['msg']}); is it heatlens that answers at this "
            "address, and of this client's version?",
            title="Not an answer of heatlens",
        ) from None
