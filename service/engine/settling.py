"""How a network runs before anything of it was measured: by arithmetic and proofs, so that a fresh server is fast.

What is measured later only improves it.
"""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from service.contract import Rows, Tracing
from service.engine.idle import when_idle
from service.engine.incremental import Incremental, NotIncremental
from service.engine.incremental.costs import Costs
from service.engine.network.resident import Model
from service.engine.network.variants import unmeasured
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import RowsWork, rows_key

T = TypeVar("T")
# Seconds that a step waits for an idle device: many times as long as the one before it took, within bounds.
_SHARE, _LEAST_S, _PATIENCE_S = 19, 0.25, 1.0


def settle(model: Model, *, known: bool = False) -> None:
    """Choose how a model runs, before it is served; the calling thread is the only one that has it.

    On a processor that is a copy in the order of memory that kernels take, with batch norms folded into convolutions,
    where it answers what the network answers. What pays on an accelerator only measuring tells.

    Args:
        model: to be served.
        known: whether the way to run whole rows was measured earlier, and is chosen.
    """
    if model.device.type != "cpu" or model.examined.keeps:
        return
    if not known and (copy := unmeasured(model.module, model.example()[:1])) is not None:
        model.variants["fp32"] = copy
        model.trace_with(copy)
    model.proved.clear()


def prove_boxes(model: Model, device: Device) -> None:
    """Let rows of boxes be computed as far as a box reaches, where that is proved; by arithmetic, what is best.

    Whatever runs the network is a step of the device thread's, no longer than a batch: the model is served by now.
    Steps give way to requests, until one of them waits for the proof.
    """
    last_s = 0.0

    def on_device(step: Callable[[], T], /) -> T:
        def timed() -> T:
            nonlocal last_s
            started = time.monotonic()
            try:
                return step()
            finally:
                last_s = time.monotonic() - started

        if model.wanted.is_set():
            return device.call(timed)
        return when_idle(device, timed, min(_PATIENCE_S, max(_LEAST_S, _SHARE * last_s)))

    incremental, whole = None, None
    try:
        incremental = Incremental.of(
            model.variants["fp32"].module, model.example()[:1], on_device, costs=Costs.estimated
        )
    except NotIncremental as reason:
        whole = str(reason)

    def hand_over() -> None:
        model.incremental, model.whole = incremental, whole

    on_device(hand_over)


def warm(model: Model, device: Device, *, compiled: bool) -> None:
    """Run one batch of each kind that requests bring: the libraries behind plan and allocate on first use.

    Args:
        model: that nobody else has yet.
        device: where it is to run.
        compiled: whether parts of it are compiled when they first run: here and now, and not while others wait for
            the device.
    """
    x, shape = model.example(), model.facts.input_shape
    counts = dict.fromkeys((1, device.limits.of(rows_key(model, shape, "fp32"))))
    layer = model.facts.default_layer

    def rows(i: int, j: int) -> torch.Tensor:
        return x[torch.arange(i, j) % 2]  # neighbours differ, as those of a request do

    def traced() -> None:
        if layer is not None:
            wrt = (layer,) if model.facts.layers[layer].gradient else ()
            model.trace(x[:1], Tracing((layer,), wrt), lambda seen: seen.outputs[:, :1])

    if compiled:
        for count in {2, 3, *counts}:
            model.forward(rows(0, count))
        traced()
    for count in counts:
        work = RowsWork(model, shape, Rows(count, rows), readout=model.facts.task.whole)
        device.submit(work, Run())
    device.call(traced)
