"""Methods against the fastest peer that has them: `python -m tests.bench.methods [RACE ...] [--rounds N]`.

Both run in this process on one thread, on the same weights and pictures, rounds taking turns; times are processor time
of the whole process, so that neither another process nor our device thread is left out. Peers so have our allocator's
settings too, which is in their favour. What a race says beside its ratio is how far the maps are apart.

Needs captum and grad-cam, and for `rise` and `lrp` xaitk-saliency and zennit.
"""

import argparse
import dataclasses
import itertools
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.contract import INPUT, Tracing
from service.explainers.base import Explainer, method
from service.explainers.cam.components import first_component
from service.explainers.perturbation.kernel_shap import KernelSHAP
from service.process import ALL_THREADS, prepare_process, use_threads
from tests.bench import peers
from tests.bench.measure import Row, against, alternate, table
from tests.bench.subject import EMBEDDED, Ours, Subject, ours, pictures, scratch

DEVICE = torch.device("cpu")
STEPS, MASKS, SAMPLES, CLIENTS = 50, 256, 200, 8
Race = Callable[[Path, int], Iterator[Row]]


class Timed:
    """A contestant whose time is the processor's."""

    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        self.call, self.seconds = call, 0.0

    def __call__(self, x: Tensor) -> Any:
        started = time.process_time()
        found = self.call(x)
        self.seconds = time.process_time() - started
        return found


def raced(
    name: str,
    subject: Subject,
    rounds: int,
    ours_: Callable[[Tensor], Tensor],
    theirs: tuple[str, Callable[[Tensor], Tensor]],
    aim: str,
    agree: Mapping[str, float],
    facts: Mapping[str, Any] | None = None,
) -> Row:
    """Run one race on fresh photographs."""
    inputs = [subject.input(data) for data in pictures(rounds + 1)]
    contestants = {"ours": Timed(ours_), theirs[0]: Timed(theirs[1])}
    found = alternate(contestants, inputs, DEVICE)
    return against("methods", f"{name}, {subject.name}", found, theirs[0], aim=aim, agree=agree, facts=facts)


def scaled(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a map as pytorch-grad-cam hands it on: its positive part, from 0 to 1, enlarged to the picture."""

    def scaled_map(x: Tensor) -> Tensor:
        found = call(x)
        found = found.view(found.shape[-2:]).clamp_min(0)
        found = (found - found.min()) / (found.max() - found.min() + 1e-7)
        large = nn.functional.interpolate(found[None, None], x.shape[2:], mode="bilinear", align_corners=False)
        return large[0, 0]

    return scaled_map


def target_of(service: Ours, subject: Subject) -> int:
    """Return a class that photographs are often taken for."""
    outputs = subject.plain(DEVICE)(subject.input(pictures(1)[0]))
    return int(outputs[0].argmax())


def ablation_cam(folder: Path, rounds: int) -> Iterator[Row]:
    """A row for each channel: peers run the whole network for each."""
    subject = Subject("resnet18", folder)
    with ours(subject, DEVICE, tune=False, precision="fp32", score_cache_mib=0) as service:
        # Behind layer3 lie 0.41 of the network's 1.81 billion products: with whole rows no more than 4.4x can be won.
        for layer, aim in (("layer4", "8x"), ("layer3", "4x")):
            target = target_of(service, subject)
            call = scaled(service.map_of(method("ablation-cam")(layer=layer), target))
            peer = peers.grad_cam_map("AblationCAM", subject.plain(DEVICE), layer, target)
            named = f"ablation-cam {layer}"
            yield raced(named, subject, rounds, call, ("pytorch-grad-cam", peer), aim, {"spearman": 0.9})


def eigen_cam(folder: Path, rounds: int) -> Iterator[Row]:
    """The first component of a layer's maps: peers take all of them.

    Both run the network once, so that no more can be won than the peer takes over the forward alone, which is printed;
    the method's own arithmetic is raced by itself.
    """
    for name, layer in (("resnet50", "layer4"), ("resnet50", "layer1"), ("resnet18", "layer4"), ("resnet18", "layer1")):
        subject = Subject(name, folder)
        with ours(subject, DEVICE, tune=False) as service:
            target, plain = target_of(service, subject), subject.plain(DEVICE)
            call = scaled(maps_of(service, method("eigen-cam")(layer=layer), ()))
            peer = peers.grad_cam_map("EigenCAM", plain, layer, target)
            # Its sign is that of an arbitrary singular vector: where it is the other one, maps do not agree.
            agree, named = {"spearman": -1.0}, f"eigen-cam {layer}"
            whole = raced(named, subject, rounds, call, ("pytorch-grad-cam", peer), "5x", agree)
            forward = Timed(torch.inference_mode()(plain))
            seconds = []
            for data in pictures(3):
                forward(subject.input(data))
                seconds.append(forward.seconds)
            bound = (whole.theirs or 0) / (1e3 * min(seconds))
            yield dataclasses.replace(whole, name=f"{whole.name} (at most {bound:.1f}x: its forward)")
            maps: list[Tensor] = []
            plain.get_submodule(layer).register_forward_hook(lambda _, __, a, maps=maps: maps.append(a.detach()))
            plain(subject.input(pictures(1)[0]))
            yield raced(
                f"eigen-cam {layer} behind the forward",
                subject,
                rounds,
                lambda _, a=maps[0][0]: first_component(a, centre=True).projected,
                ("pytorch-grad-cam", lambda _, a=maps[0]: peers.grad_cam_projection(a)),
                "5x",
                agree,
            )


PRECISIONS: Mapping[Any, str] = {"fp32": "1.0x", "bf16": "1.5x"}
"""Number formats with the aim of methods that are rows and little else: in float32 the network is all but the same."""


def rise(folder: Path, rounds: int) -> Iterator[Row]:
    """Both make masks, hide the picture behind them and weight them; a row is a mask."""
    subject = Subject(EMBEDDED, folder)
    for precision, aim in PRECISIONS.items():
        with ours(subject, DEVICE, tune=False, precision=precision, score_cache_mib=0) as service:
            target = target_of(service, subject)
            call = service.map_of(method("rise")(masks=MASKS, space="normalised"), target)
            peer = peers.xaitk_rise(subject.plain(DEVICE), target, MASKS, 7)
            # Two draws of so few masks are hardly alike.
            named = f"rise of {MASKS} masks, {precision}"
            yield raced(named, subject, rounds, call, ("xaitk", peer), aim, {"spearman": -1.0})


def lime(folder: Path, rounds: int) -> Iterator[Row]:
    """The same segments, as many samples."""
    subject = Subject(EMBEDDED, folder)
    for precision, aim in PRECISIONS.items():
        with ours(subject, DEVICE, tune=False, precision=precision, score_cache_mib=0) as service:
            target, x = target_of(service, subject), subject.input(pictures(1)[0])
            explainer = method("lime")(samples=SAMPLES, segments="squares", count=49)
            labels = explainer.labels(service.facts, x)
            peer = peers.captum_surrogate("Lime", subject.plain(DEVICE), target, labels, SAMPLES, probability=True)
            call, named = service.map_of(explainer, target), f"lime of {SAMPLES} samples, {precision}"
            yield raced(named, subject, rounds, call, ("captum", peer), aim, {"spearman": -1.0})


def kernel_shap(folder: Path, rounds: int) -> Iterator[Row]:
    """The error over the exact Shapley values of ten segments, at the same number of rows."""
    subject, count, repeats = Subject(EMBEDDED, folder), 10, max(2, rounds)
    with ours(subject, DEVICE, tune=False, precision="fp32", score_cache_mib=0) as service:
        target, x = target_of(service, subject), subject.input(pictures(1)[0])
        cut = {"segments": "squares", "count": count, "score": "logit"}
        exact = KernelSHAP(samples=2**10, **cut)  # all coalitions of ten segments
        labels = exact.labels(service.facts, x)
        truth = service.explain(exact, x, [target])
        assert truth.exact
        expected = truth.maps[0].array
        for rows in (50, 100, 200):

            def error(found: Tensor, expected: Tensor = expected) -> float:
                return float((found - expected).norm() / expected.norm())

            mine = [
                error(service.explain(KernelSHAP(samples=rows, seed=seed, **cut), x, [target]).maps[0].array)
                for seed in range(repeats)
            ]
            peer = peers.captum_surrogate("KernelShap", subject.plain(DEVICE), target, labels, rows, probability=False)
            theirs = [error(peer(x)) for _ in range(repeats)]
            own, other = statistics.mean(mine), statistics.mean(theirs)
            yield Row(
                "methods",
                f"kernel-shap error of {int(labels.max()) + 1} segments, {rows} rows, {subject.name}",
                own,
                "of the norm",
                "captum",
                other,
                other / own,
                aim="2x",
                rounds={"ours": mine, "captum": theirs},
            )


def integrated_gradients(folder: Path, rounds: int) -> Iterator[Row]:
    """The same nodes and the same rows a pass; of four targets the forward is shared."""
    for name in (EMBEDDED, "resnet18"):
        subject = Subject(name, folder)
        with ours(subject, DEVICE, tune=False) as service:
            first, x = target_of(service, subject), subject.input(pictures(1)[0])
            explainer = method("integrated-gradients")(steps=STEPS)
            service.explain(explainer, x, [first])
            rows = batch_rows(service)
            for targets in ([first], [first, 1, 2, 3]):
                call = maps_of(service, explainer, targets)

                peer = peers.captum_integrated_gradients(subject.plain(DEVICE), targets, STEPS, rows)
                yield raced(
                    f"integrated-gradients of {len(targets)} target(s), {STEPS} steps, {rows} rows a pass",
                    subject,
                    rounds,
                    call,
                    ("captum", peer),
                    "1.0x" if len(targets) == 1 else "1.3x",
                    {"relative": 0.1},
                )


def maps_of(service: Ours, explainer: Explainer, targets: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return a contestant: the raw maps of several targets."""
    return lambda x: torch.stack([m.array for m in service.explain(explainer, x, targets).maps])


def batch_rows(service: Ours) -> int:
    """Return how many rows our passes with a gradient at the input have."""
    device, model = service.context.device, service.context.store.get(None)
    (found,) = {
        device.limits.of(key)
        for key in device.limits._weighed
        if key[1] == id(model) and key[4] == Tracing(wrt=(INPUT,)) and not key[3]
    }
    return int(found)


def guided_backprop(folder: Path, rounds: int) -> Iterator[Row]:
    """One forward and one backward each."""
    for name in ("resnet18", "resnet50"):
        subject = Subject(name, folder)
        with ours(subject, DEVICE, tune=False) as service:
            target = target_of(service, subject)
            call = service.map_of(method("guided-backprop")(), target)
            peer = peers.captum_guided_backprop(subject.plain(DEVICE), target)
            yield raced("guided-backprop", subject, rounds, call, ("captum", peer), "1.0x", {"relative": 1e-2})


def lrp(folder: Path, rounds: int) -> Iterator[Row]:
    """Epsilon-plus with batch norms merged."""
    for name in ("resnet18", "resnet50"):
        subject = Subject(name, folder)
        with ours(subject, DEVICE, tune=False) as service:
            target = target_of(service, subject)
            call = service.map_of(method("lrp")(), target)
            peer = peers.zennit_lrp(subject.plain(DEVICE), target)
            yield raced("lrp epsilon-plus", subject, rounds, call, ("zennit", peer), "1.0x", {"relative": 1e-2})


def clients(folder: Path, rounds: int) -> Iterator[Row]:
    """Eight who ask for integrated gradients at once, against a loop over batches of the best size."""
    subject = Subject(EMBEDDED, folder)
    with ours(subject, DEVICE, tune=False) as service:
        target, plain = target_of(service, subject), subject.plain(DEVICE).requires_grad_(False)
        explainer = method("integrated-gradients")(steps=STEPS)

        def together(_: Tensor) -> None:
            given = [subject.input(data) for data in pictures(CLIENTS)]
            asking = [threading.Thread(target=service.explain, args=(explainer, x, [target])) for x in given]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()

        def loop(rows: int, count: int, x: Tensor) -> None:
            for begin in range(0, count, rows):
                part = x.repeat(min(rows, count - begin), 1, 1, 1).requires_grad_()
                torch.autograd.grad(plain(part)[:, target].sum(), part)

        x = subject.input(pictures(1)[0])
        trials = {}
        for rows in (1, 2, 4, 8, 16, 32):
            timed = Timed(lambda x, rows=rows: loop(rows, 32, x))
            timed(x)
            timed(x)
            trials[rows] = timed.seconds
        best = min(trials, key=lambda rows: trials[rows])
        contestants = {"ours": Timed(together), "loop": Timed(lambda x: loop(best, CLIENTS * (STEPS + 2), x))}
        found = alternate(contestants, [x] * (rounds + 1), DEVICE)
        name = f"integrated-gradients of {CLIENTS} clients, {subject.name}"
        yield against("methods", name, found, "loop", aim="0.9x", facts={"best_rows": best, "trials": trials})


RACES: Mapping[str, Race] = {
    "ablation-cam": ablation_cam,
    "eigen-cam": eigen_cam,
    "rise": rise,
    "lime": lime,
    "kernel-shap": kernel_shap,
    "integrated-gradients": integrated_gradients,
    "guided-backprop": guided_backprop,
    "lrp": lrp,
    "clients": clients,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the races asked for; return 1 where maps disagree that must not, or a ratio is below its aim."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.methods", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("races", nargs="*", metavar="RACE", help=f"of {', '.join(RACES)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where weights are kept from run to run")
    given = parser.parse_args(arguments)
    if unknown := {*given.races} - {*RACES}:
        parser.error(f"no such race: {', '.join(sorted(unknown))}")
    if ALL_THREADS > 1:  # the device's thread has as many as the process began with
        os.execve(sys.executable, sys.orig_argv, os.environ | {"OMP_NUM_THREADS": "1"})
    prepare_process()
    use_threads(1)
    rows: list[Row] = []
    with scratch() as folder:
        for row in itertools.chain.from_iterable(
            RACES[name](given.folder or folder, given.rounds) for name in given.races or RACES
        ):
            rows.append(row)
            print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(rows))
    short = [row for row in rows if row.failed or (row.ratio or 0) < float(row.aim.removesuffix("x"))]
    for row in short:
        print(f"SHORT of its aim: {row.name} against {row.against}: {row.failed or row.ratio}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
