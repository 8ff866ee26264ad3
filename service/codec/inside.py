"""Decoding and drawing in the thread that asks for it, and what both ways of doing it share."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

from service.fair.wanted import wanted
from service.images import Picture, Room, Transform, decode, normalised, prepare
from service.images.transform import Floats
from service.rendering import Heat, OutputOptions
from service.rendering.files import Draw, Encode, Files, Pictures, files

# Bytes a pixel, at most, while a picture is decoded and scaled, and while a map is drawn on all of it.
DECODING, DRAWING = 12, 24
Check = Callable[[], object]


@dataclass(frozen=True)
class Limits:
    """What a picture may take.

    max_bytes: of its file.
    max_pixels: decoded.
    pictures_bytes: memory for all large ones that are in hand.
    cpu_s: processor time of one job, in a process of its own.
    """

    max_bytes: int
    max_pixels: int
    pictures_bytes: int
    cpu_s: float


@dataclass(frozen=True)
class Canvas:
    """What maps are drawn on.

    seen: the part of a picture that the model sees; None: there is no picture.
    file: the whole picture's, where drawings lie on all of it; None: they lie on the part alone.
    transform: what makes the part of the whole.
    """

    seen: Picture | None
    file: bytes | None
    transform: Transform

    @property
    def bytes(self) -> int:
        """Memory that drawing takes at most, where that is much."""
        if self.seen is None or self.file is None:
            return 0
        return self.seen.size[0] * self.seen.size[1] * DRAWING


class Codec(Protocol):
    """Pictures to inputs, and maps to files."""

    room: Room

    @property
    def pids(self) -> list[int]:
        """The numbers of its processes."""

    def see(self, file: bytes, transform: Transform, check: Check, caller: Hashable = "") -> tuple[Picture, Floats]:
        """Return what a model sees of a picture, without the original, and as an input (1, C, H, W).

        Args:
            file: the picture's.
            transform: the model's.
            check: called before anything long begins; what it raises, it raises for nobody to work on.

        Raises:
            ServiceError: it is no picture, or not one that is accepted.
        """

    def drawing(self, canvas: Canvas, check: Check, caller: Hashable = "") -> AbstractContextManager[Draw]:
        """Give, as long as the block lasts, what draws maps as `rendering.files` does."""

    def close(self) -> None:
        """End what was begun; nothing is asked any more."""


class Inside:
    """Decodes and draws in the thread that asks.

    As many pictures are in hand at a time as there are cores to do it: one at the limit takes 300 MB meanwhile, and
    more threads would only take the device thread's turns.
    """

    def __init__(self, limits: Limits, places: int) -> None:
        self.limits = limits
        self.room = Room(places, limits.pictures_bytes)
        self.pids: list[int] = []  # it has none

    def see(self, file: bytes, transform: Transform, check: Check, caller: Hashable = "") -> tuple[Picture, Floats]:
        """Decode a picture, and keep what the model sees of it: drawing on all of it decodes it again."""
        with ExitStack() as places:

            @cache  # a file may be opened twice, and has one place
            def begin(pixels: int) -> None:
                places.enter_context(self.room.place(pixels * DECODING, check, caller))

            return seen(decoded(file, transform, self.limits, begin), transform)

    @contextmanager
    def drawing(self, canvas: Canvas, check: Check, caller: Hashable = "") -> Iterator[Draw]:
        """Hold a place while maps are drawn."""
        with self.room.place(canvas.bytes, check, caller):
            picture = shown_on(canvas, self.limits)

            def draw(heat: Heat, output: OutputOptions, pictures: Pictures, encode: Encode | None) -> Files:
                with wanted(check):
                    return files(heat, picture(), output, pictures, encode)

            yield draw

    def close(self) -> None:
        """Leave nothing: there is nothing."""


def decoded(
    file: bytes, transform: Transform, limits: Limits, begin: Callable[[int], object] = lambda pixels: None
) -> Picture:
    """Decode a picture, and cut the part of it that a model sees; `begin`: see `decode`."""
    image = decode(
        file,
        max_bytes=limits.max_bytes,
        max_pixels=limits.max_pixels,
        window=transform.window,
        alpha="a" in transform.channels,
        begin=begin,
    )
    return prepare(image, transform)


def seen(picture: Picture, transform: Transform) -> tuple[Picture, Floats]:
    """Return a picture without what only its input is made of, and that input (1, C, H, W)."""
    return replace(picture, original=None, alpha=None), normalised(picture, transform)


def shown_on(canvas: Canvas, limits: Limits) -> Callable[[], Picture | None]:
    """Return what gives the picture that maps are drawn on, which is decoded when it is first asked for."""
    found = canvas.seen

    def picture() -> Picture | None:
        nonlocal found
        if canvas.file is not None and found is canvas.seen:
            found = decoded(canvas.file, canvas.transform, limits)
        return found

    return picture
