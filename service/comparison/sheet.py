"""A comparison as one drawing: of each map the picture under it, its curves and its numbers."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from service.answer import Shown
from service.client import wire
from service.comparison.comparing import Comparison, Entry

_SIDE, _GAP, _LINE, _COLUMNS = 224, 12, 15, 4  # pixels; and panels of a line
_CURVES = 90  # pixels high
_LINES = 6  # of text under a panel
_COLOURS = {"blur": (31, 119, 180), "mean": (214, 110, 20)}
_RANDOM = 2  # deviations within which a gain is none


def sheet(found: Comparison) -> Image.Image:
    """Draw all maps side by side; curves are there where they were asked for."""
    panels = list(_panels(found))
    curves = any(one is not None and one.curves is not None for _, _, _, one in panels)
    tall = _SIDE + (_CURVES + 4) * curves + _LINES * _LINE + _GAP
    lines = max(1, -(-len(panels) // _COLUMNS))
    columns = max(1, min(_COLUMNS, len(panels)))
    image = Image.new("RGB", (columns * (_SIDE + _GAP) + _GAP, lines * tall + _GAP + 2 * _LINE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    draw.text((_GAP, 4), f"{found.whole.model.name}, on this picture", fill="black", font=font)
    for i, (entry, shown, numbers, metrics) in enumerate(panels):
        x, y = _GAP + i % columns * (_SIDE + _GAP), _GAP + _LINE + i // columns * tall
        if shown is not None:
            with Image.open(io.BytesIO(shown.picture)) as picture:
                part = picture.convert("RGB")
            part.thumbnail((_SIDE, _SIDE))
            image.paste(part, (x, y))
        below = y + _SIDE + 4
        if curves:
            if metrics is not None and metrics.curves is not None:
                _plot(draw, (x, below), metrics.curves)
            below += _CURVES + 4
        for n, (text, colour) in enumerate(_words(entry, shown, numbers)):
            draw.text((x, below + n * _LINE), text, fill=colour, font=font)
    return image


def _panels(
    found: Comparison,
) -> Iterator[tuple[Entry, Shown | None, wire.Faithfulness | None, wire.Metrics | None]]:
    for entry in found.entries:
        if entry.answer is None:
            yield entry, None, None, None
            continue
        yield from ((entry, *one) for one in zip(entry.answer.maps, entry.faithfulness, entry.metrics, strict=True))


def _plot(draw: ImageDraw.ImageDraw, corner: tuple[int, int], curves: wire.Curves) -> None:
    """Draw deletion dotted and insertion as a line, each way to hide in its colour, between 0 and 1 of the score."""
    x0, y0 = corner
    draw.rectangle((x0, y0, x0 + _SIDE - 1, y0 + _CURVES - 1), outline=(200, 200, 200))
    for name, colour in _COLOURS.items():
        curve: wire.Curve | None = getattr(curves, name)
        if curve is None:
            continue
        for values, dotted in ((curve.insertion, False), (curve.deletion, True)):
            points = [
                (x0 + share * (_SIDE - 1), y0 + (1.25 - max(-0.25, min(1.25, value))) / 1.5 * (_CURVES - 1))
                for share, value in zip(curve.shares, values, strict=True)
            ]
            if dotted:
                for x, y in points:
                    draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
            else:
                draw.line(points, fill=colour, width=1)


def _words(
    entry: Entry, shown: Shown | None, numbers: wire.Faithfulness | None
) -> Iterator[tuple[str, tuple[int, int, int]]]:
    black, grey = (0, 0, 0), (110, 110, 110)
    label = f": {shown.target.label}" if shown is not None and shown.target is not None else ""
    yield _cut(f"{entry.method}{label}"), black
    if entry.problem is not None:
        yield from ((line, grey) for line in _wrapped(entry.problem.detail)[: _LINES - 1])
        return
    if numbers is not None:
        gain = numbers.gain
        both = (gain.blur, gain.mean)
        told = ", ".join(
            f"{value:+.1f} ({name})" for name, value in zip(_COLOURS, both, strict=True) if value is not None
        )
        chance = any(value is None or abs(value) <= _RANDOM for value in both)
        yield f"gain {told or 'none'}", grey if chance else black
        if gain.reason is not None:
            yield _cut(gain.reason), grey
    yield f"sanity: {entry.sanity.verdict}", black
    if entry.cost is not None:
        yield f"{entry.cost.forwards} forwards, {entry.cost.seconds:.2f} s", black


def _cut(text: str) -> str:
    return text if len(text) <= 36 else text[:35] + "..."


def _wrapped(text: str) -> Sequence[str]:
    lines = [""]
    for word in text.split():
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < 36 else [*lines, word]
    return lines
