"""A comparison as one drawing: of each map the picture under it, its curves and its numbers, and how to read them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from service.answer import Shown
from service.client import wire
from service.comparison.comparing import Comparison, Entry

_SIDE, _GAP, _LINE, _COLUMNS = 224, 12, 15, 4  # pixels; and panels of a line
_CURVES = 90  # pixels high
_LINES = 6  # of text under a panel
_COLOURS = {"blur": (31, 119, 180), "mean": (214, 110, 20)}
_RANDOM = 2  # deviations within which a gain is none
_BLACK, _GREY, _PALE = (0, 0, 0), (110, 110, 110), (240, 240, 240)

_Colour = tuple[int, int, int]


class _Panel(NamedTuple):
    entry: Entry
    shown: Shown | None = None
    numbers: wire.Faithfulness | None = None
    metrics: wire.Metrics | None = None

    @property
    def curves(self) -> wire.Curves | None:
        return self.metrics.curves if self.metrics is not None else None


def sheet(found: Comparison) -> Image.Image:
    """Draw all maps side by side; curves are there where they were asked for."""
    panels = list(_panels(found))
    lines = [panels[i : i + _COLUMNS] for i in range(0, len(panels), _COLUMNS)] or [[]]
    columns = max(1, len(lines[0]))
    width = columns * (_SIDE + _GAP) + _GAP
    head = [line for text in _head(found, panels) for line in _wrapped(text, width - 2 * _GAP)]
    tall = [_SIDE + 4 + (_CURVES + 4) * _plotted(line) + _LINES * _LINE + _GAP for line in lines]
    image = Image.new("RGB", (width, _GAP + (len(head) + 1) * _LINE + sum(tall)), "white")
    draw = ImageDraw.Draw(image)
    for n, text in enumerate(head):
        draw.text((_GAP, 4 + n * _LINE), text, fill=_GREY if n else _BLACK, font=_font())
    y = _GAP + len(head) * _LINE
    for line, height in zip(lines, tall, strict=True):
        for i, panel in enumerate(line):
            _draw(image, draw, (_GAP + i * (_SIDE + _GAP), y), panel, _plotted(line))
        y += height
    return image


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(12)


def _plotted(line: Sequence[_Panel]) -> bool:
    return any(panel.curves is not None for panel in line)


def _panels(found: Comparison) -> Iterator[_Panel]:
    for entry in found.entries:
        if entry.answer is None or not entry.answer.maps:
            yield _Panel(entry)
            continue
        for one in zip(entry.answer.maps, entry.faithfulness, entry.metrics, strict=True):
            yield _Panel(entry, *one)


def _head(found: Comparison, panels: Sequence[_Panel]) -> Iterator[str]:
    """Say what the drawing is of, and how its numbers are read."""
    yield f"{found.whole.model.name}, on this picture"
    if any(panel.numbers is not None and _told(panel.numbers.gain) for panel in panels):
        yield (
            "Gain: how much better than random maps a map orders pixels, in their deviations; grey: chance, as one of "
            f"both is within {_RANDOM} of zero, or missing."
        )
    for one in found.controls:
        if told := _told(one.bell):
            yield f"A bell in the middle gains {told} for {one.target.label}: what gains no more tells nothing new."
    if _plotted(panels):
        yield (
            "Curves, between 0 (all hidden) and 1 (the picture) as most important pixels come (line) or go (dots); "
            "blue: hidden by blur, orange: by the mean colour."
        )


def _draw(image: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], panel: _Panel, plotted: bool) -> None:
    x, y = corner
    if panel.shown is not None and panel.shown.picture:
        with Image.open(io.BytesIO(panel.shown.picture)) as picture:
            part = picture.convert("RGB")
        part.thumbnail((_SIDE, _SIDE))
        image.paste(part, (x, y))
    else:
        draw.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), fill=_PALE)
        draw.text((x + _GAP, y + _SIDE // 2), "no map", fill=_GREY, font=_font())
    below = y + _SIDE + 4
    if plotted:
        if panel.curves is not None:
            _plot(draw, (x, below), panel.curves)
        below += _CURVES + 4
    words = [(line, colour) for text, colour in _words(panel) for line in _wrapped(text, _SIDE)]
    for n, (line, colour) in enumerate(words[:_LINES]):
        cut = n == _LINES - 1 and len(words) > _LINES
        draw.text((x, below + n * _LINE), line + " ..." * cut, fill=colour, font=_font())


def _plot(draw: ImageDraw.ImageDraw, corner: tuple[int, int], curves: wire.Curves) -> None:
    """Draw deletion dotted and insertion as a line, each way to hide in its colour, with lines at 0 and 1."""
    x0, y0 = corner

    def height(value: float) -> float:
        return y0 + (1.25 - max(-0.25, min(1.25, value))) / 1.5 * (_CURVES - 1)

    draw.rectangle((x0, y0, x0 + _SIDE - 1, y0 + _CURVES - 1), outline=(200, 200, 200))
    for value in (0.0, 1.0):
        draw.line((x0, height(value), x0 + _SIDE - 1, height(value)), fill=(225, 225, 225))
    for name, colour in _COLOURS.items():
        curve: wire.Curve | None = getattr(curves, name)
        if curve is None:
            continue
        for values, dotted in ((curve.insertion, False), (curve.deletion, True)):
            points = [
                (x0 + share * (_SIDE - 1), height(value)) for share, value in zip(curve.shares, values, strict=True)
            ]
            if dotted:
                for x, y in points:
                    draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
            else:
                draw.line(points, fill=colour, width=1)


def _words(panel: _Panel) -> Iterator[tuple[str, _Colour]]:
    entry = panel.entry
    label = f": {panel.shown.target.label}" if panel.shown is not None and panel.shown.target is not None else ""
    yield f"{entry.method}{label}", _BLACK
    if entry.problem is not None:
        yield entry.problem.detail, _GREY
        return
    if panel.numbers is not None:
        gain = panel.numbers.gain
        both = (gain.blur, gain.mean)
        chance = any(value is None or abs(value) <= _RANDOM for value in both)
        yield f"gain {_told(gain) or 'none'}", _GREY if chance else _BLACK
    yield f"sanity: {entry.sanity.verdict}", _BLACK
    if entry.cost is not None:
        passes = [_counted(entry.cost.forwards, "forward")]
        passes += [_counted(entry.cost.backwards, "backward")] * bool(entry.cost.backwards)
        yield f"{', '.join(passes)}, {entry.cost.seconds:.2f} s", _BLACK
    if panel.numbers is not None and panel.numbers.gain.reason is not None:
        yield panel.numbers.gain.reason, _GREY


def _told(pair: wire.Pair | wire.Gain) -> str:
    both = ((name, getattr(pair, name)) for name in _COLOURS)
    return ", ".join(f"{value:+.1f} ({name})" for name, value in both if value is not None)


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _wrapped(text: str, width: int) -> list[str]:
    """Break words into lines of at most so many pixels; a word that is longer alone is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font().getlength(longer) <= width:
            lines[-1] = longer
            continue
        while _font().getlength(word) > width:
            word = word[:-1]
        lines = [*lines, word] if lines[-1] else [word]
    return lines
