"""Measures models while the device is idle, applies what it finds, and remembers it on disk."""

import hashlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from service import __version__
from service.contract import Objective, Rows, Targets, Total, Trace, Tracing
from service.engine.incremental import Incremental, NotIncremental
from service.engine.incremental.costs import OnDevice, here
from service.engine.network.memory import live_bytes
from service.engine.network.resident import Model
from service.engine.network.runtimes.kinds import KINDS
from service.engine.network.variants import EXACT, Variant, candidates
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import rows_key
from service.errors import EngineUnavailable, InvalidParameter
from service.explainers.cam.score_cam import ScoreCAM
from service.images import photographs
from service.precision import Precision, quick
from service.settings import BATCH_MS, Settings
from service.tuning.choice import Timing, Tuned, batch_rows, preferred, rank_correlation
from service.tuning.runtimes import Runtimes

log = logging.getLogger("heatlens")
T = TypeVar("T")
IDLE = -100  # below every request's priority: one small step at a time, whenever nobody else waits
CHANNELS = 512  # that Score-CAM maps are compared on: the strongest ones of a layer
ALIKE = 1e-3  # largest difference of two answers to the probe picture, relative to the largest output


class _Strongest(ModelProbe):
    """A probe that shows a layer's strongest feature maps only: enough to compare precisions by."""

    def trace(
        self, rows: Rows, tracing: Tracing, objective: Objective | None = None, *, total: Total | None = None
    ) -> Trace:
        found = super().trace(rows, tracing, objective, total=total)
        return replace(
            found,
            activations={
                name: a[:, a[0].amax((1, 2)).argsort(descending=True)[:CHANNELS]]
                for name, a in found.activations.items()
            },
        )


def _once(variant: Variant, x: Tensor) -> float:
    """Return the seconds of one batch."""
    started = time.perf_counter()
    with torch.inference_mode():
        variant(x.contiguous()).sum().item()  # waits for the device
    return time.perf_counter() - started


def _repeats(variant: Variant, x: Tensor) -> bool:
    """Whether a recorded forward answers what the forward itself does."""
    if variant.recorded is None:
        return True
    tolerance = EXACT if variant.precision == "fp32" else 1e-2
    with torch.inference_mode():
        expected = replace(variant, recorded=None)(x)
        variant(x.flip(3))  # what is recorded is another picture's forward
        found = variant(x)
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def _answer(model: Model) -> list[float]:
    """Return what a model answers to the probe picture, or a thousand numbers of that: how it is known again."""
    with torch.inference_mode(not model.examined.keeps), torch.no_grad():
        flat = model.module(model.example()[:1]).flatten().cpu()
    found: list[float] = flat[:: max(1, len(flat) // 1000)].tolist()
    return found


def _alike(before: Sequence[float], now: Sequence[float]) -> bool:
    """Whether two answers are the same but for what another machine's arithmetic makes of them."""
    largest = max(map(abs, now), default=0.0)
    return len(before) == len(now) and all(abs(a - b) <= ALIKE * largest for a, b in zip(before, now, strict=True))


class Tuner:
    """Measures models, applies what it finds, and remembers it on disk."""

    def __init__(self, device: Device, settings: Settings) -> None:
        self.device, self.settings = device, settings
        self.found: dict[str, Tuned] = {}  # by model version
        kind = device.device.type
        self.max_batch_s = (settings.max_batch_ms or BATCH_MS[kind]) / 1e3
        self.precisions = quick(kind)
        self.runtimes = Runtimes(self._cache, device.threads)

    def recall(self, model: Model) -> bool:
        """Apply what an earlier measurement found; return whether there was one.

        To be called before a model is served, on the thread that alone has it.
        """
        try:
            kept = json.loads(self._file(model).read_text("utf-8"))
            if not _alike(kept.pop("answer"), _answer(model)):
                log.info("model %s answers otherwise than when it was measured", model.facts.name)
                return False
            tuned = Tuned(**{**kept, "timings": [Timing(**t) for t in kept["timings"]], "remembered": True})
            if not {"fp32", tuned.preferred} <= tuned.variants.keys():
                return False
            if tuned.preferred not in self.precisions:
                return False  # measured on a processor that has it
            self._apply(model, tuned, here)
        except (OSError, ValueError, TypeError, KeyError):
            return False  # none, or of another form: it is measured anew
        return True

    def measure(self, model: Model, closing: threading.Event) -> None:
        """Measure while the device is idle, apply and remember what is found.

        Raises:
            EngineUnavailable: the server is closing.
        """
        if not self.settings.tune:
            return
        if model.version not in self.found:
            self._measure(model, closing)
        if not closing.is_set():
            self._write_down(model, closing)

    def _measure(self, model: Model, closing: threading.Event) -> None:
        def idly(step: Callable[[], T], /) -> T:
            return self.device.call(step, Run(priority=IDLE))

        started = time.monotonic()
        timings: list[Timing] = []
        best: dict[Precision, Timing] = {}
        for precision in self.precisions:
            try:
                variants = self._call(partial(candidates, model.module, model.example(), precision), closing)
            except InvalidParameter as error:  # the network cannot run in it; in others it can be measured
                log.info("model %s in %s: %s", model.facts.name, precision, error)
                continue
            found = [timing for variant in variants for timing in self._time(model, variant, closing)]
            if found:  # a device may lack a precision
                if precision == "fp32":
                    fastest = max(found, key=lambda t: t.rows_per_s).variant
                    copy = next(variant for variant in variants if variant.name == fastest)
                    for other in self.runtimes.variants(model, copy, closing):
                        found += self._time(model, other, closing)
                timings += found
                best[precision] = max(found, key=lambda t: t.rows_per_s)
        tuned = Tuned(
            timings=timings,
            variants={p: t.variant for p, t in best.items()},
            batch_rows={p: batch_rows(timings, t) for p, t in best.items()},
        )
        self._apply(model, tuned, idly)
        agreement = self._agreement(model, list(best), closing)
        rates = {precision: timing.rows_per_s for precision, timing in best.items()}
        tuned = replace(
            tuned,
            agreement=agreement,
            preferred=preferred(rates, agreement),
            seconds=time.monotonic() - started,
        )
        self._apply(model, tuned, idly)
        self._remember(model, tuned)
        log.info(
            "model %s measured in %.0f s: %s, batches of %s rows, %s where a method tolerates it",
            model.facts.name,
            tuned.seconds,
            ", ".join(f"{p} {t.rows_per_s:.0f} rows/s" for p, t in best.items()),
            tuned.batch_rows,
            tuned.preferred,
        )

    def _call(self, call: Callable[[], T], closing: threading.Event) -> T:
        if closing.is_set():
            raise EngineUnavailable("the server is closing")
        return self.device.call(call, Run(priority=IDLE))

    def _time(self, model: Model, variant: Variant, closing: threading.Event) -> list[Timing]:
        """Time batches of growing size, each of them one step, until they take too long, gain nothing or do not fit."""
        timings: list[Timing] = []
        rows = fitting = 1
        while rows <= fitting:
            x = model.example()[:1].expand(rows, -1, -1, -1)
            try:
                if rows == 1:
                    if not self._call(partial(_repeats, variant, x), closing):
                        break
                    alive = self._call(partial(live_bytes, variant.module, variant.laid_out(x)), closing)
                    fitting = self.device.limits.fitting(alive)
                seconds = min(self._call(partial(_once, variant, x), closing) for _ in range(4))
            except (RuntimeError, MemoryError) as error:
                log.info("model %s, %s with %d rows: %s", model.facts.name, variant.name, rows, error)
                break
            if timings and seconds > self.max_batch_s:
                break
            timings.append(Timing(variant.precision, variant.name, rows, rows / seconds))
            if len(timings) > 3 and timings[-1].rows_per_s < 0.9 * max(t.rows_per_s for t in timings):
                break
            rows *= 2
        return timings

    def _agreement(
        self, model: Model, precisions: Sequence[Precision], closing: threading.Event
    ) -> dict[Precision, float]:
        """Return each precision's lowest agreement of Score-CAM maps with those of float32."""
        if model.facts.default_layer is None:
            return {}
        result: dict[Precision, float] = {}
        for x in torch.split(photographs(model.spec.transform).to(model.device), 1):
            maps: dict[Precision, Tensor] = {}
            for precision in precisions:
                if closing.is_set():
                    raise EngineUnavailable("the server is closing")
                probe = _Strongest(model, self.device, Run(priority=IDLE), precision)
                maps[precision] = ScoreCAM().explain(probe, x, Targets(model.facts)).maps[0].array.cpu()
            for precision, found in maps.items():
                agrees = rank_correlation(found, maps["fp32"]) if torch.isfinite(found).all() else 0.0
                result[precision] = min(result.get(precision, 1.0), agrees)
        return result

    def _apply(self, model: Model, tuned: Tuned, step: OnDevice) -> None:
        """Switch the model over: one short step for each way of running it."""

        def switch(precision: Precision, name: str) -> None:
            ways = {v.name: v for v in candidates(model.module, model.example(), precision)}
            model.variants[precision] = ways[name]
            if precision == "fp32" and name != tuned.variants[precision]:
                model.variants[precision] = self.runtimes.variant(model, ways[name], tuned.variants[precision])

        def settle() -> None:
            model.quicker = tuned.quicker if model.variants["fp32"].runtime is not None else 1.0
            for precision, rows in tuned.batch_rows.items():
                self.device.limits.set(rows_key(model, model.facts.input_shape, precision), rows)
            model.preferred = tuned.preferred
            model.trace_with(model.variants["fp32"])

        for precision in tuned.variants:
            step(partial(switch, precision, tuned.copies[precision]))
        step(settle)
        ways = {precision: model.variants[precision].name for precision in tuned.variants}
        self.found[model.version] = replace(tuned, variants=ways)

    def _write_down(self, model: Model, closing: threading.Event) -> None:
        """Let occlusion compute only what changes, where the network allows.

        Whatever runs the network is a step of the device thread's, and so is the handing over of the result: no other
        thread changes a resident model.
        """

        def on_device(step: Callable[[], T], /) -> T:
            return self._call(step, closing)

        incremental, whole = None, None
        try:
            incremental = Incremental.of(model.variants["fp32"].module, model.example()[:1], on_device)
        except NotIncremental as reason:
            whole = str(reason)

        def hand_over() -> None:
            model.incremental, model.whole, model.max_batch_s = incremental, whole, self.max_batch_s

        on_device(hand_over)

    def _file(self, model: Model) -> Path:
        """Return where a model's measurement is kept: by all that its result depends on."""
        device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else platform.processor()
        known = {
            "model": model.version,
            "input": model.facts.input_size,
            "heatlens": __version__,
            "torch": torch.__version__,
            "device": device,
            "libraries": {kind.name: kind.release for kind in KINDS if kind.installed()},
            "threads": self.device.threads,
            "cores": os.cpu_count(),
            "max_batch_s": self.max_batch_s,
            "max_batch_rows": self.device.limits.max_rows,
            "max_batch_bytes": self.device.limits.max_bytes,
        }
        name = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
        return self._cache / f"measured-{name}.json"

    @property
    def _cache(self) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heatlens"
        return self.settings.cache_dir or cache

    def _remember(self, model: Model, tuned: Tuned) -> None:
        answer = self.device.call(partial(_answer, model), Run(priority=IDLE))
        kept = {**vars(tuned), "timings": [vars(timing) for timing in tuned.timings], "answer": answer}
        file = self._file(model)
        unfinished = file.with_suffix(f".{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(kept, indent=1), "utf-8")
            unfinished.replace(file)
        except OSError as error:  # a read-only file system: it is measured again after the next start
            log.info("measurements cannot be kept in %s: %s", file.parent, error.strerror)
