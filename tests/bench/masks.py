"""Whether Score-CAM's masks with a small support would gain from rows that compute only what a box can reach.

A masked picture is black outside its mask's support. Where that is a small box, the row could be computed from the
black picture's maps as occlusion's are. Boxes differ in size, and only boxes of one size share a batch. Raced are all
rows of a photograph's Score-CAM: plain ones in float32, the same with small boxes worked off so, and plain ones in the
precision that `auto` takes.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.contract import Tracing
from service.engine.scheduler.work import rows_key
from service.explainers.cam.masking.masks import enlarged, min_max
from service.precision import Precision
from tests import oracles
from tests.bench.measure import Options, Row, alternate
from tests.bench.subject import Subject, ours, pictures

_GRID = 32  # pixels that a box's sides are rounded up to: the coarser, the fuller the batches, and the larger the boxes
_PAYS = 1.15  # expected gain of a box over a plain row, from which on it is worked off as one
_FEWEST = 4  # boxes of one size

Boxes = dict[tuple[int, int], list[tuple[int, int, int]]]  # (mask, y, x) by size


def boxes(masks: Tensor) -> Boxes:
    """Return the box around each mask (M, H, W), its sides rounded up, by size."""
    height, width = masks.shape[1:]
    found: Boxes = defaultdict(list)
    for number, on in enumerate(masks > 0):
        ys, xs = on.any(1).nonzero().flatten().tolist(), on.any(0).nonzero().flatten().tolist()
        if ys:
            h = min(height, -(-(ys[-1] + 1 - ys[0]) // _GRID) * _GRID)
            w = min(width, -(-(xs[-1] + 1 - xs[0]) // _GRID) * _GRID)
            found[h, w].append((number, min(ys[0], height - h), min(xs[0], width - w)))
    return found


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Race the rows of several photographs."""
    subject = Subject(options.model, folder)
    with ours(subject, options.device, score_cache_mib=0) as service:
        model, device = service.context.store.get(None), service.context.device
        assert model.incremental is not None, model.whole
        layer = model.facts.default_layer
        inputs = [subject.input(data).to(options.device) for data in pictures(options.pick(2, 1 + options.rounds))]
        shares: list[float] = []
        errors: list[float] = []

        def plain(x: Tensor, masks: Tensor, precision: Precision) -> Tensor:
            rows = device.limits.of(rows_key(model, tuple(x.shape[1:]), precision))
            return torch.cat([model.forward(x * part[:, None], precision) for part in masks.split(rows)])

        def regional(x: Tensor, masks: Tensor) -> Tensor:
            incremental, black, small = model.incremental, torch.zeros_like(x), set()
            outputs: dict[int, Tensor] = {}
            for (h, w), members in boxes(masks).items():
                plan = incremental.plan((h, w))
                if plan.gain < _PAYS or len(members) < _FEWEST:
                    continue
                clean, corners = incremental.clean(black, plan), torch.tensor([at for _, *at in members])
                for batch in incremental.batches(plan, corners):
                    chosen = [members[i] for i in batch.tolist()]
                    patches = [(x[0] * masks[i])[:, top : top + h, left : left + w] for i, top, left in chosen]
                    of = torch.zeros(len(chosen), dtype=torch.int64)
                    found = incremental.outputs(plan, [clean], of, corners[batch], torch.stack(patches))
                    outputs |= zip((i for i, *_ in chosen), found, strict=True)
                small |= {i for i, *_ in members}
            whole = [i for i in range(len(masks)) if i not in small]
            outputs |= zip(whole, plain(x, masks[whole], "fp32"), strict=True)
            shares.append(len(small) / len(masks))
            return torch.stack([outputs[i] for i in range(len(masks))])

        def contestant(rows: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any], Tensor]:
            return lambda given: device.call(torch.inference_mode()(lambda: rows(*given)))

        given = []
        for x in inputs:
            trace = device.call(lambda x=x: model.trace(x, Tracing((layer,))))
            scaled = min_max(trace.activations[layer][0]).flatten(1).unique(dim=0)
            scaled = scaled.view(-1, *trace.activations[layer].shape[2:])
            given.append((x, enlarged(scaled, (x.shape[2], x.shape[3]))))
        rounds = alternate(
            {
                "plain fp32": contestant(lambda x, masks: plain(x, masks, "fp32")),
                "boxes fp32": contestant(regional),
                "auto": contestant(lambda x, masks: plain(x, masks, model.preferred)),
            },
            given,
            options.device,
        )
        for a, b in zip(rounds.results["boxes fp32"], rounds.results["plain fp32"], strict=True):
            errors.append(oracles.relative_error(a, b))
        facts = {"share worked off as boxes": shares[1:], "relative error": errors}
        for name, text in (("boxes fp32", "small boxes by their reach, fp32"), ("auto", f"plain, {model.preferred}")):
            yield Row(
                "small-masks",
                f"score-cam of {subject.name}: {text}; {statistics.median(shares[1:]):.0%} of masks have such a box",
                rounds.median(name) * 1e3,
                "ms",
                "plain fp32",
                rounds.median("plain fp32") * 1e3,
                rounds.ratio(name, "plain fp32"),
                failed="outputs differ" if name.startswith("boxes") and max(errors) > 1e-5 else None,
                rounds={key: [s * 1e3 for s in times] for key, times in rounds.seconds.items()},
                facts=facts,
            )
