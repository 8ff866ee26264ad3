"""What `strategy: adaptive` of occlusion saves, and how near its maps come to exact ones, on real photographs."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from service.explainers.perturbation.occlusion import Occlusion
from tests import oracles
from tests.bench.measure import Options, Row
from tests.bench.subject import Subject, ours, pictures

TOP = 0.05  # share of the pixels


def overlap(a: Tensor, b: Tensor) -> float:
    """Return the share of the pixels highest in one map that are so in the other one too."""
    highest = [m >= m.flatten().topk(max(1, round(TOP * m.numel()))).values[-1] for m in (a, b)]
    return float((highest[0] & highest[1]).sum() / max(m.sum() for m in highest))


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Explain photographs both ways."""
    subject = Subject(options.model, folder)
    with ours(subject, options.device, precision="fp32", score_cache_mib=0) as service:
        inputs = [subject.input(data).to(options.device) for data in pictures(options.pick(3, 24))]
        for window, stride in options.pick(((8, 2),), ((32, 16), (32, 8), (64, 16))):
            found: dict[str, list[float]] = {"rows": [], "spearman": [], "top": [], "exact s": [], "adaptive s": []}
            for x in inputs:
                maps = []
                for strategy in ("exact", "adaptive"):
                    started = time.perf_counter()
                    explained = service.explain(Occlusion(window=window, stride=stride, strategy=strategy), x)
                    found[f"{strategy} s"].append(time.perf_counter() - started)
                    maps.append(explained.maps[0].array)
                details = explained.details
                found["rows"].append(1 - details["estimated"] / details["positions"])
                found["spearman"].append(oracles.spearman(*maps))
                found["top"].append(overlap(*maps))
            name = f"occlusion {window}/{stride}, {len(inputs)} photographs"
            median, fifth = statistics.median, max(1, len(inputs) // 5)
            yield Row(
                "adaptive",
                f"{name}, share of positions that run",
                median(found["rows"]) * 100,
                "%",
                "exact, time",
                ratio=median(a / b for a, b in zip(found["exact s"], found["adaptive s"], strict=True)),
                rounds=found,
            )
            for key, what in (("spearman", "rank correlation with exact"), ("top", "top 5 % of pixels shared")):
                low = statistics.mean(sorted(found[key])[:fifth])
                yield Row("adaptive", f"{name}, {what} (held against the worst fifth)", median(found[key]), "", "", low)
