"""A sheet for each network: what it is asked about, and what methods answer."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw

from service import rendering
from service.answer import Answer, Needs
from service.app import build, close
from service.ask import Ask
from service.engine.scheduler.run import Run
from service.pipeline import Pipeline, Seen
from service.rendering import OutputOptions
from service.settings import Settings
from tests.training.shapes.asking import Pair, pairs, question
from tests.training.shapes.networks import CATALOG, NETWORKS

METHODS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "occlusion": ("occlusion", {"window": 16, "stride": 4}),
    "score-cam, raw": ("score-cam", {"weights": "raw"}),
    "grad-cam": ("grad-cam", {}),
    "saliency x input": ("saliency", {"sign": "signed", "times_input": True, "smooth_samples": 16}),
}
"""By caption: a method, and parameters under which its maps depend on the target."""
PAIR: Final = 3  # which of the pictures
_SIDE, _GAP, _CAPTION = 168, 6, 21


def write(folder: Path) -> list[Path]:
    """Write a sheet for each network, on the weights beside its factory, and return the files."""
    context = build(Settings(catalog=CATALOG, device="cpu", tune=False))
    try:
        context.store.start()
        context.store.wait()
        files = []
        for model in NETWORKS:
            file = folder / f"shapes-{model}.jpg"
            sheet(context.pipeline, model, pairs(PAIR + 1)[PAIR]).save(file, quality=88, optimize=True)
            files.append(file)
        return files
    finally:
        close(context)


def sheet(pipeline: Pipeline, model: str, pair: Pair) -> Image.Image:
    """Draw a line for each target: the picture with what is asked about it, and each method's map over it."""
    body = dict(question(model, pair))
    lines: list[list[tuple[str, Image.Image]]] = [[], []]
    for caption, (method, params) in METHODS.items():
        plan = pipeline.plan(Ask.explain(method, body | {"params": params}))
        run = Run()
        seen = pipeline.see(plan, run)
        answer = pipeline.answer(plan, seen, pipeline.explain(plan, seen, run), run, Needs(maps=2))
        assert seen.picture is not None
        for i, line in enumerate(lines):
            if not line:
                line += _asked(pipeline, pair, i, seen, answer)
            alone, over = rendering.best(answer.maps[i].heat, seen.picture, OutputOptions())
            best = over or alone
            assert best is not None
            line.append((caption, best))
    columns = len(lines[0])
    return rendering.contact_sheet(
        [panel for line in lines for panel in line], side=_SIDE, gap=_GAP, caption=_CAPTION, columns=columns
    )


def _asked(pipeline: Pipeline, pair: Pair, i: int, seen: Seen, answer: Answer) -> list[tuple[str, Image.Image]]:
    """Return the picture with a target on it, under the target's name and score, and pictures that the target names."""
    assert seen.picture is not None
    shape, target = pair.scene.shapes[i], answer.maps[i].target
    assert target is not None
    model = pipeline.store.get(answer.model.name)
    drawn = seen.picture.seen.convert("L" if model.facts.channels == "l" else "RGB").convert("RGB")
    if answer.model.task == "embedding":
        others = [Image.fromarray(one.picture) for one in (pair.alone[i], pair.alone[1 - i])]
        return [(f"cosines {target.score:+.2f}", drawn), ("like", others[0]), ("unlike", others[1])]
    if answer.model.task == "detection":
        ImageDraw.Draw(drawn).rectangle(shape.box, outline="white")
    if answer.model.task == "segmentation":
        with torch.inference_mode():
            wins = model.forward(seen.x)[0].argmax(0) == target.index
        shade = Image.fromarray(np.uint8(150 * wins.numpy()))
        drawn.paste(Image.new("RGB", drawn.size, "lime"), mask=shade)
    return [(f"{target.label} {target.score:.2f}", drawn)]
