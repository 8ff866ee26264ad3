"""All methods side by side on one picture."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from service import rendering
from service.answer import Needs
from service.ask import Ask
from service.engine.scheduler.run import Run
from service.explainers.base import registry
from service.pipeline import Pipeline, applicability
from service.rendering import Drawing, Heat, OutputOptions

SIDE, GAP, CAPTION, COLUMNS = 224, 8, 24, 5  # pixels of a panel; panels of a line
_NUMBERS = Needs(maps=4)


def gallery(
    pipeline: Pipeline,
    picture: bytes,
    other: bytes | None,
    params: Mapping[str, Mapping[str, Any]],
    started: Callable[[str], None],
    only: Sequence[str] = (),
) -> Drawing:
    """Draw what each method makes of a picture.

    Args:
        pipeline: of a service whose models are loaded.
        picture: the picture's file, for the default model.
        other: one for the methods that apply to another served model only, such as `ram` to a regression; None
            leaves these out.
        params: parameters by method; what is not there runs with its defaults.
        started: called with the name of each method as it begins.
        only: methods, in the order in which they are drawn; none: all, family by family.

    Raises:
        ServiceError: a picture or parameter is wrong.
    """
    panels: list[tuple[str, Drawing]] = []
    whole: Drawing | None = None  # the picture as the default model sees it
    store = pipeline.store
    names = [store.default, *(name for name in store.entries if name != store.default)]
    for method in only or sorted(registry(), key=lambda name: registry()[name].family):
        cls = registry()[method]
        fitting = [name for name in names if applicability(store.get(name).facts)[method] is None]
        if not fitting or (fitting[0] != store.default and other is None):
            continue
        started(method)
        shown = picture if fitting[0] == store.default else other
        fields = {"model": fitting[0], "params": dict(params.get(method, {}))}
        plan = pipeline.plan(Ask.explain(method, fields, shown if cls.needs_image else None))
        run = Run()
        seen = pipeline.see(plan, run)
        answer = pipeline.answer(plan, seen, pipeline.explain(plan, seen, run), run, _NUMBERS)
        if fitting[0] == store.default and seen.picture is not None:
            whole = whole or seen.picture.seen
        heats = [one.heat for one in answer.maps]
        drawn = [next(d for d in rendering.best(heat, seen.picture, OutputOptions()) if d) for heat in heats]
        panels.append((method, _panel(drawn, heats[0])))
    if whole is not None:
        panels.insert(0, ("the picture", whole))
    return rendering.contact_sheet(panels, side=SIDE, gap=GAP, caption=CAPTION, columns=COLUMNS)


def _panel(drawn: list[Drawing], heat: Heat) -> Drawing:
    """Return a method's first drawing, or several in a square where each shows another channel or filter."""
    if len(drawn) < 2 or heat.kind not in ("picture", "rgb"):
        return drawn[0]
    columns = 1 if drawn[0].width >= 2 * drawn[0].height else 2
    side = SIDE // columns
    sheet = Image.new("RGB", (SIDE, SIDE), "white")
    for i, one in enumerate(drawn):
        part = rendering.fit(one, side - 2)
        sheet.paste(part, (i % columns * side, i // columns * (SIDE // 2)))
    return sheet
