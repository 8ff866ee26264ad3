"""Race rows with one changed square against plain rows: `python -m tests.bench.incremental --help`.

Both sides compute the outputs of one occlusion map: the clean picture and one row for each position of the square.
Plain rows run in the fastest of the engine's variants and batch sizes, measured first. Rounds alternate: some batches
of plain rows, of which the fastest counts, and our whole map, the clean picture included, of which each batch's fastest
round counts. The bound is what perfect single rows would save of the multiplications. Where asked for, Captum takes its
turn in each round, in a process of its own and with 32 windows a forward, and whole maps are compared.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from service.engine.incremental import Incremental, NotIncremental
from service.engine.incremental.planning import arithmetic
from service.engine.network.variants import Variant, candidates
from service.explainers.perturbation.occlusion import starts
from service.models.embedded.efficientnet_lite0 import efficientnet_lite0
from service.process import keep_freed_memory
from tests import oracles
from tests.bench import peers
from tests.bench.subject import EMBEDDED

NETWORKS = ("vgg16", "resnet18", EMBEDDED, "densenet121", "googlenet", "mobilenet_v2")
WINDOWS = (16, 32, 64)
AIMS = {("vgg16", 16): 5.5, ("vgg16", 32): 4.5, ("vgg16", 64): 3.0}
AIMS |= {("resnet18", 16): 2.2, ("resnet18", 32): 2.0, ("resnet18", 64): 1.6}
TARGET = 0  # the output that Captum explains
SHARE_AIM = 0.6  # of the arithmetic bound's gain


@dataclass(frozen=True)
class Result:
    """One network and window; times in seconds."""

    network: str
    window: int
    rows: int
    plain: list[float]  # a row, by round
    ours: list[float]  # a row, by round
    ours_best: float  # a row, each batch's best round
    variant: str
    batch: int
    bound: float  # plain multiplications over the least possible ones
    planned: float  # the same over those of the plan
    switch: str
    chunk: int
    error: float  # of outputs, relative to the largest
    clean_bytes: int
    row_bytes: int
    build_s: float
    captum: list[float]  # a map, by round; empty: it was not asked for
    captum_error: float  # of maps, relative to the largest output

    @property
    def ratio(self) -> float:
        """Best batches against best batches: what others do on the machine only adds time."""
        return min(self.plain) / self.ours_best

    @property
    def median(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(p / o for p, o in zip(self.plain, self.ours, strict=True))

    @property
    def over_captum(self) -> float:
        """The median of Captum's time for a map over ours, by round."""
        return statistics.median(c / (o * self.rows) for c, o in zip(self.captum, self.ours, strict=True))

    @property
    def reached(self) -> float:
        """Share of the arithmetic bound's gain."""
        return (self.ratio - 1) / (self.bound - 1)


def network(name: str) -> nn.Module:
    """Return a network whose outputs depend on the picture."""
    if name == EMBEDDED:
        return efficientnet_lite0()
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return oracles.lively(torchvision.models.get_model(name, weights=None, **options).eval())


def picture(size: int) -> Tensor:
    """Return a seeded picture (1, 3, size, size) with structure at several scales."""
    generator = torch.Generator().manual_seed(1)
    coarse = [torch.randn(1, 3, cells, cells, generator=generator) for cells in (4, 16, 64)]
    return sum((nn.functional.interpolate(c, (size, size), mode="bilinear") for c in coarse), torch.zeros(1))


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def fastest(variants: Sequence[Variant], x: Tensor, rows: int) -> tuple[Variant, int]:
    """Return the variant and batch size that send plain rows through in the least time."""
    found = {}
    for variant in variants:
        for batch in (1, 4, 8, 16):
            stack = x.repeat(batch, 1, 1, 1)
            times = [seconds(lambda v=variant, s=stack: v(s)) / batch for _ in range(max(2, rows // batch))]
            found[variant.name, batch] = min(times)
    name, batch = min(found, key=lambda key: found[key])
    return next(v for v in variants if v.name == name), batch


def _map(drops: Tensor, corners: Tensor, window: int, size: int) -> Tensor:
    """Return a map (size, size): each pixel's mean drop over the squares that cover it."""
    total, count = torch.zeros(size, size), torch.zeros(size, size)
    for drop, (y, z) in zip(drops, corners.tolist(), strict=True):
        total[y : y + window, z : z + window] += drop
        count[y : y + window, z : z + window] += 1
    return total / count.clamp(min=1)


def race(
    name: str, windows: Sequence[int], rounds: int, size: int, stride: int, check: int, captum: Sequence[int] = ()
) -> list[Result]:
    """Measure one network; `check` rows of each map are compared, 0 for all; Captum runs for the windows named."""
    module, x = network(name), picture(size)
    variants = candidates(module, x, "fp32")
    variant, batch = fastest(variants, x, 8)
    started = time.perf_counter()
    ours = Incremental.of(variants[-1].module, x)
    build_s = time.perf_counter() - started
    results = []
    for window in windows:
        grid = starts(size, window, stride)
        corners = torch.tensor([[y, z] for y in grid for z in grid if max(y, z) + window <= size])
        plan = ours.plan((window, window), stride)
        patches = torch.zeros(len(corners), 3, window, window)

        batches = ours.batches(plan, corners)
        clean = ours.clean(x, plan)

        def rows(i: Tensor, plan=plan, corners=corners, patches=patches, clean=clean) -> Tensor:
            return ours.outputs(plan, [clean], torch.zeros(len(i), dtype=torch.int64), corners[i], patches[i])

        def plain(chosen: Tensor, window=window) -> Tensor:
            rows = x.repeat(len(chosen), 1, 1, 1)
            for row, (y, z) in zip(rows, chosen.tolist(), strict=True):
                row[:, y : y + window, z : z + window] = 0
            return variant(rows)

        found = torch.cat([rows(i) for i in batches])[torch.cat(batches).argsort()]
        some = torch.linspace(0, len(corners) - 1, check or len(corners)).long().unique()
        expected = torch.cat([plain(corners[i]) for i in some.split(batch)])
        error = float((found[some] - expected).abs().max() / expected.abs().max())
        plain_s, ours_s, captum_s, captum_error = [], [], [], 0.0
        peer = peers.Apart(peers.captum_occlusion, module, TARGET, window, stride) if window in captum else None
        if peer is not None:
            peer(x)  # starts it, and warms it up
        best = [math.inf] * (len(batches) + 1)
        sample = corners[: batch * max(1, 16 // batch)].split(batch)
        for _ in range(rounds):
            plain_s.append(min(seconds(lambda c=c: plain(c)) / batch for c in sample))
            times = [seconds(lambda i=i: rows(i)) for i in batches] + [seconds(lambda plan=plan: ours.clean(x, plan))]
            best = [min(a, b) for a, b in zip(best, times, strict=True)]
            ours_s.append(sum(times) / (len(corners) + 1))
            if peer is not None:
                theirs = peer(x)
                captum_s.append(peer.seconds)
                drops = clean.outputs[0, TARGET] - found[:, TARGET]
                ours_map = _map(drops, corners, window, size)
                captum_error = max(captum_error, float((theirs - ours_map).abs().max() / expected.abs().max()))
        recording, at = ours.recording, corners.numpy()
        least = arithmetic(recording, replace(plan, switch=recording.furthest), at, 1)
        results.append(
            Result(
                name,
                window,
                len(corners) + 1,
                plain_s,
                ours_s,
                sum(best) / (len(corners) + 1),
                variant.name,
                batch,
                1 / least,
                1 / arithmetic(recording, plan, at, plan.rows),
                f"{plan.switch}/{len(recording.nodes)}",
                plan.rows,
                error,
                ours.clean(x, plan).nbytes,
                plan.row_bytes,
                build_s,
                captum_s,
                captum_error,
            )
        )
    return results


HEAD = (
    "network              window  plain ms  ours ms  ratio  (median)  aim   bound  of plan  of gain  error    "
    "clean MB  row MB  chunk  switch     plain rows' best"
)


def line(result: Result) -> str:
    """Return a line of the table."""
    aim = AIMS.get((result.network, result.window))
    return (
        f"{result.network:20} {result.window:6}  {min(result.plain) * 1e3:8.2f}  {result.ours_best * 1e3:7.2f}  "
        f"{result.ratio:5.2f}  ({result.median:5.2f})   {aim or f'{SHARE_AIM:.0%}':4}  {result.bound:5.2f}  "
        f"{result.planned:7.2f}  {result.reached:7.0%}  {result.error:.1e}  {result.clean_bytes / 2**20:8.1f}  "
        f"{result.row_bytes / 2**20:6.2f}  {result.chunk:5}  {result.switch:9}  {result.variant}, {result.batch}"
    )


def captum_line(result: Result) -> str:
    """Return what Captum's race came to."""
    ours, theirs = (statistics.median(times) for times in (result.ours, result.captum))
    return (
        f"  against Captum's Occlusion, 32 windows a forward: {ours * result.rows:.2f} s and {theirs:.2f} s a map, "
        f"{result.over_captum:.2f}x, maps within {result.captum_error:.1e}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 where outputs differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.incremental", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="torchvision's names, or the embedded one's")
    parser.add_argument("--windows", nargs="+", type=int, default=WINDOWS, metavar="SIDE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="of the picture (default: %(default)s)")
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--check", type=int, default=0, metavar="ROWS", help="rows to compare (default: all)")
    parser.add_argument("--captum", nargs="+", type=int, default=(), metavar="SIDE", help="windows it races for")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements here")
    given = parser.parse_args(arguments)
    if any((given.size - window) % given.stride for window in given.captum):
        parser.error("--captum: windows and stride have to fill the picture, or Captum's grid is another one")
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # of Captum's process
    keep_freed_memory()  # as the server does
    torch.set_num_threads(given.threads)
    results: list[Result] = []
    print(HEAD, flush=True)
    with torch.inference_mode():
        for name in given.networks:
            try:
                for result in race(
                    name, given.windows, given.rounds, given.size, given.stride, given.check, given.captum
                ):
                    results.append(result)
                    print(line(result), flush=True)
                    if result.captum:
                        print(captum_line(result), flush=True)
            except NotIncremental as reason:
                print(f"{name:20} plain rows only: {reason}", flush=True)
    if given.json:
        rows = [asdict(r) | {"ratio": r.ratio, "median": r.median, "reached": r.reached} for r in results]
        given.json.write_text(json.dumps(rows, indent=1))
    return int(any(max(r.error, r.captum_error) > 1e-5 for r in results))


if __name__ == "__main__":
    raise SystemExit(main())
