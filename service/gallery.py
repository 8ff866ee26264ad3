"""All methods side by side on one picture."""

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from service import rendering
from service.api import body
from service.api.context import Context
from service.api.explain import request_schema
from service.engine.scheduler.run import Run
from service.explainers.base import Explainer, registry
from service.pipeline import applicability

SIDE, GAP, CAPTION, COLUMNS = 224, 8, 24, 5  # pixels of a panel; panels of a line


def gallery(
    context: Context,
    picture: bytes,
    other: bytes | None,
    params: Mapping[str, Mapping[str, Any]],
    started: Callable[[str], None],
) -> Image.Image:
    """Draw what each method makes of a picture.

    Args:
        context: a service whose models are loaded.
        picture: the picture's file, for the default model.
        other: one for the methods that apply to another served model only, such as `ram` to a regression; None
            leaves these out.
        params: parameters by method; what is not there runs with its defaults.
        started: called with the name of each method as it begins.

    Raises:
        ServiceError: a picture or parameter is wrong.
    """
    panels: list[tuple[str, Image.Image]] = []
    names = [context.store.default, *(name for name in context.store.entries if name != context.store.default)]
    for method, cls in registry().items():
        fitting = [name for name in names if applicability(context.store.get(name).facts)[method] is None]
        if not fitting or (fitting[0] != context.store.default and other is None):
            continue
        started(method)
        shown = picture if fitting[0] == context.store.default else other
        asked = body.validate(request_schema(cls), body.Body({"params": dict(params.get(method, {}))}, None))
        assert isinstance(asked.params, Explainer)
        plan = context.pipeline.plan(asked.params, model=fitting[0])
        answer = context.pipeline.explain(
            plan, image=shown if cls.needs_image else None, output=rendering.OutputOptions(), run=Run()
        )
        if not panels and answer.picture is not None:
            panels.append(("the picture", answer.picture.seen))
        panels.append((method, _panel([answer.draw(i) for i in range(min(4, len(answer.heats)))], answer)))
    return rendering.contact_sheet(panels, side=SIDE, gap=GAP, caption=CAPTION, columns=COLUMNS)


def _panel(drawn: list[Image.Image], answer: Any) -> Image.Image:
    """Return a method's first drawing, or several in a square where each shows another channel or filter."""
    if len(drawn) < 2 or answer.heats[0].kind not in ("picture", "rgb"):
        return drawn[0]
    columns = 1 if drawn[0].width >= 2 * drawn[0].height else 2
    side = SIDE // columns
    sheet = Image.new("RGB", (SIDE, SIDE), "white")
    for i, one in enumerate(drawn):
        part = rendering.fit(one, side - 2)
        sheet.paste(part, (i % columns * side, i // columns * (SIDE // 2)))
    return sheet
