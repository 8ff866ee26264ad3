"""Measures models while the device is idle, applies what it finds, and remembers it on disk."""

import logging
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from service import kept
from service.contract import Explanation, Targets
from service.engine.incremental import Incremental, NotIncremental
from service.engine.incremental.costs import OnDevice, here
from service.engine.known import alike, answer_of
from service.engine.network.memory import live_bytes
from service.engine.network.resident import Model
from service.engine.network.runtimes.graphs import buckets
from service.engine.network.variants import EXACT, Variant, candidates
from service.engine.probe import Strongest
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import IDLE, Run
from service.engine.scheduler.work import rows_key
from service.errors import InvalidParameter
from service.explainers.cam.score_cam import ScoreCAM
from service.images import photographs
from service.precision import Precision, quick
from service.settings import BATCH_MS, Settings
from service.tuning.choice import Agreement, Timing, Tuned, batch_rows, preferred
from service.tuning.records import Records
from service.tuning.runtimes import Runtimes
from service.tuning.steps import BUDGET_S, PATIENCE_S, Spent, Steps

log = logging.getLogger("heatlens")
T = TypeVar("T")
CHANNELS = 512  # that Score-CAM maps are compared on, at most: the strongest ones of a layer
FEWEST = 64  # of them, that tell anything


def _once(variant: Variant, x: Tensor) -> float:
    """Return the seconds of one batch."""
    started = time.perf_counter()
    with torch.no_grad():
        variant(x.contiguous()).sum().item()  # waits for the device
    return time.perf_counter() - started


def _repeats(variant: Variant, x: Tensor) -> bool:
    """Whether a recorded forward answers what the forward itself does."""
    if variant.recorded is None:
        return True
    tolerance = EXACT if variant.precision == "fp32" else 1e-2
    with torch.no_grad():
        expected = replace(variant, recorded=None)(x)
        variant(x.flip(3))  # what is recorded is another picture's forward
        found = variant(x)
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


class Tuner:
    """Measures models, applies what it finds, and remembers it on disk."""

    def __init__(self, device: Device, settings: Settings) -> None:
        self.device, self.settings = device, settings
        self.found: dict[str, Tuned] = {}  # by model version
        kind = device.device.type
        self.max_batch_s = (settings.max_batch_ms or BATCH_MS[kind]) / 1e3
        self.precisions = quick(kind)
        cache = settings.cache_dir or kept.folder()
        conditions = {
            "processor": platform.processor(),
            "threads": device.threads,
            "cores": os.cpu_count(),
            "max_batch_s": self.max_batch_s,
            "max_batch_rows": device.limits.max_rows,
            "max_batch_bytes": device.limits.max_bytes,
        }
        self.records = Records(cache, settings.tuned_dir, conditions)
        self.runtimes = Runtimes(
            cache or Path(tempfile.mkdtemp(prefix="heatlens-")), settings.tuned_dir, device.threads
        )
        self.budget_s, self.patience_s = BUDGET_S, PATIENCE_S

    def recall(self, model: Model) -> bool:
        """Apply what an earlier measurement found; return whether there was one.

        To be called before a model is served, on the thread that alone has it.
        """
        for measured, same in self.records.found(model):
            tuned = measured.tuned
            if not alike(measured.answer, answer_of(model)):
                log.info("model %s answers otherwise than when it was measured", model.facts.name)
                continue
            missing = tuned.missing if same else ("all of it with these cores and bounds",)
            # One in a precision that is missing here was measured on a processor that has it.
            if {"fp32", tuned.preferred} <= tuned.variants.keys() and tuned.preferred in self.precisions:
                try:
                    self._apply(model, replace(tuned, remembered=True, guess=not same, missing=missing), here)
                except (InvalidParameter, KeyError):
                    continue  # here the network does not run in one of these ways: it is measured anew
                return True
        return False

    def measure(self, model: Model, closing: threading.Event) -> None:
        """Measure while the device is idle, apply and remember what is found.

        Raises:
            EngineUnavailable: the server is closing.
        """
        if not self.settings.tune:
            return
        steps = Steps(self.device, closing, budget_s=self.budget_s, patience_s=self.patience_s)
        if model.version not in self.found or self.found[model.version].guess:
            self._measure(model, steps, closing)
        elif not closing.is_set():
            self._write_down(model, steps)
        if not closing.is_set():
            self._record(model, steps)

    def _measure(self, model: Model, steps: Steps, closing: threading.Event) -> None:
        """Measure what is worth most first; what the budget does not reach is said to be missing."""

        started = time.monotonic()
        timings: list[Timing] = []
        best: dict[Precision, Timing] = {}
        missing: list[str] = []

        def tuned(**others: Any) -> Tuned:
            return Tuned(
                timings=timings,
                variants={p: t.variant for p, t in best.items()},
                batch_rows={p: batch_rows(timings, t) for p, t in best.items()},
                missing=tuple(missing),
                seconds=time.monotonic() - started,
                **others,
            )

        def time_all(precision: Precision, variants: Iterable[Variant]) -> None:
            for variant in variants:
                found, whole = self._time(model, variant, steps)
                timings.extend(found)
                if not whole:
                    missing.append(f"{variant.name} in {precision}")
            if own := [t for t in timings if t.precision == precision]:  # a device may lack a precision
                best[precision] = max(own, key=lambda t: t.rows_per_s)

        for precision in self.precisions:
            try:
                variants = steps.free(partial(candidates, model.module, model.example(), precision))
            except InvalidParameter as error:  # the network cannot run in it; in others it can be measured
                log.info("model %s in %s: %s", model.facts.name, precision, error)
                continue
            # The likeliest first: where the budget ends, what was not timed is not chosen.
            variants.sort(key=lambda way: (way.recorded is None, not way.folded, not way.channels_last))
            time_all(precision, variants)
            if precision == "fp32" and "fp32" in best:
                self._apply(model, tuned(), steps.free)
                if not self._write_down(model, steps):
                    missing.append("costs of incremental rows")
                copy = next(variant for variant in variants if variant.name == best[precision].variant)
                time_all(precision, self.runtimes.variants(model, copy, closing))
        self._apply(model, tuned(), steps.free)
        rates = {precision: timing.rows_per_s for precision, timing in best.items()}
        agreement = self._agreement(model, rates, missing, steps)
        found = tuned(
            agreement={p: a.maps for p, a in agreement.items()},
            weights_agreement={p: a.scores for p, a in agreement.items()},
            probability_error={p: a.error for p, a in agreement.items()},
            preferred=preferred(rates, agreement),
        )
        self._apply(model, found, steps.free)
        self._remember(model, found, steps)
        log.info(
            "model %s measured in %.0f s: %s, batches of %s rows, %s where a method tolerates it%s",
            model.facts.name,
            found.seconds,
            ", ".join(f"{p} {t.rows_per_s:.0f} rows/s" for p, t in best.items()),
            found.batch_rows,
            found.preferred,
            f"; not measured: {', '.join(missing)}" if missing else "",
        )

    def _time(self, model: Model, variant: Variant, steps: Steps) -> tuple[list[Timing], bool]:
        """Time batches of growing size, each of them one step, until they take too long, gain nothing or do not fit.

        Return the timings, and whether that was all before the budget was used up.
        """
        timings: list[Timing] = []
        rows = fitting = 1
        while rows <= fitting:
            x = model.example()[:1].expand(rows, -1, -1, -1)
            try:
                if rows == 1:
                    if not steps(partial(_repeats, variant, x)):
                        break
                    alive = steps(partial(live_bytes, variant.module, variant.laid_out(x)))
                    fitting = self.device.limits.fitting(alive)
                seconds = min(steps(partial(_once, variant, x)) for _ in range(4))
            except Spent:
                return timings, False
            except (RuntimeError, MemoryError) as error:
                log.info("model %s, %s with %d rows: %s", model.facts.name, variant.name, rows, error)
                break
            if timings and seconds > self.max_batch_s:
                break
            timings.append(Timing(variant.precision, variant.name, rows, rows / seconds))
            if len(timings) > 3 and timings[-1].rows_per_s < 0.9 * max(t.rows_per_s for t in timings):
                break
            rows *= 2
        return timings, True

    def _agreement(
        self, model: Model, rates: Mapping[Precision, float], missing: list[str], steps: Steps
    ) -> dict[Precision, Agreement]:
        """Return how each precision's Score-CAM agrees with that of float32, the least over photographs.

        It is compared on as many channels as the rest of the budget allows.
        """
        if model.facts.default_layer is None:
            return {}
        if "fp32" not in rates:
            missing.append("agreement of precisions")
            return {}
        pictures = photographs(model.spec.transform).to(model.device)
        channel_s = len(pictures) * sum(self.device.threads / rate for rate in rates.values())
        channels = min(CHANNELS, int(steps.left_s / channel_s))
        if channels < FEWEST:
            missing.append("agreement of precisions")
            return {}
        result: dict[Precision, Agreement] = {}
        for x in torch.split(pictures, 1):
            found: dict[Precision, Explanation] = {}
            for precision in rates:
                steps.check()
                probe = Strongest(model, self.device, Run(priority=IDLE), precision, channels=channels)
                found[precision] = ScoreCAM(baseline="none").explain(probe, x, Targets(model.facts))
            for precision, one in found.items():
                agrees = Agreement.of(one, found["fp32"])
                result[precision] = agrees.least(result[precision]) if precision in result else agrees
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
        self.runtimes.forget(model, model.variants["fp32"].name)
        self.found[model.version] = replace(tuned, variants=ways)

    def _write_down(self, model: Model, steps: Steps) -> bool:
        """Let occlusion compute only what changes, where the network allows; return whether the budget was enough.

        Whatever runs the network is a step of the device thread's, and so is the handing over of the result: no other
        thread changes a resident model.
        """

        incremental, whole = None, None
        try:
            if model.device.type != "cpu":
                # There an operator costs its launch, whatever its area, which no plan knows of.
                raise NotIncremental(f"nobody has measured yet whether that pays on {model.device.type}")
            incremental = Incremental.of(model.variants["fp32"].module, model.example()[:1], steps)
        except NotIncremental as reason:
            whole = str(reason)
        except Spent:  # what was estimated stays
            return False

        def hand_over() -> None:
            model.incremental, model.whole, model.max_batch_s = incremental, whole, self.max_batch_s

        steps.free(hand_over)
        return True

    def _record(self, model: Model, steps: Steps) -> None:
        """Let forwards that are recorded be so at all sizes that batches are filled up to, and not in a request."""
        for precision, variant in list(model.variants.items()):
            if variant.recorded is None:
                continue
            most = self.device.limits.of(rows_key(model, model.facts.input_shape, precision))
            for rows in buckets(most):
                x = model.example()[torch.arange(rows) % 2]  # neighbours differ, as those of a request do
                steps.free(partial(model.forward, x, precision))

    def _remember(self, model: Model, tuned: Tuned, steps: Steps) -> None:
        answer = steps.free(partial(answer_of, model))
        timings = [vars(timing) for timing in tuned.timings]
        self.records.write(model, {**vars(tuned), "timings": timings, "answer": answer})
