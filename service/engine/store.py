"""The models that are served: loaded in the background, warmed, and kept on the device.

A network is built, examined and proved on a loader's thread, where no request waits for it; the device thread gets it
when it is as it will be served, for one batch of each kind.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import nn

from service.contract import Check, Rows, Tracing
from service.engine.network.forms.adapted import compiles
from service.engine.network.proofs.checks import Refused
from service.engine.network.resident import Model
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import RowsWork, rows_key
from service.engine.settling import prove_boxes, settle
from service.errors import CatalogError, ModelUnavailable, ServiceError, UnknownModel, did_you_mean, quoted
from service.models.spec import ModelSpec
from service.precision import DTYPES
from service.process import leave_cores_to_the_device

Status = Literal["loading", "ready", "failed"]
log = logging.getLogger("heatlens")
_FAILED_S = 3600  # after which to ask again for a model that has failed: it does not load before a restart
_LOADERS = 3  # models that are loaded at once: one that takes long does not hold up the rest


_RAISED = (Exception, SystemExit)  # by people's own code: some of it ends the process, which would end a thread alone


@dataclass
class Entry:
    """One model's place in the store."""

    spec: ModelSpec
    status: Status = "loading"
    model: Model | None = None
    error: str | None = None
    checks: tuple[Check, ...] | None = None  # what had been looked at when the loading failed
    load_s: float | None = None
    since: float = 0.0  # when its loading began


class Tuning(Protocol):
    """Finds out how a model runs best here."""

    found: dict[str, Any]  # what was measured, by model version

    def recall(self, model: Model) -> bool:
        """Apply what an earlier measurement found; return whether there was one."""
        ...

    def measure(self, model: Model, closing: threading.Event) -> None:
        """Measure while the device is idle, and apply what is found."""
        ...


class Verifying(Protocol):
    """Finds out which methods depend on what a model has learnt."""

    tests: bool  # whether it does that here, or tells what was found earlier

    def verdict(self, version: str, method: str) -> Any:
        """Return what is known of a method on a model."""
        ...

    def recall(self, model: Model) -> None:
        """Take over what an earlier process found of a model."""
        ...

    def verify(self, spec: ModelSpec, model: Model, closing: threading.Event) -> Any:
        """Test all methods while the device is idle."""
        ...


class Store:
    """Models by name, one of them the default."""

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        default: str,
        device: Device,
        tuner: Tuning | None = None,
        *,
        patience_s: float = 10.0,
        verifier: Verifying | None = None,
    ) -> None:
        """Prepare to load.

        Args:
            specs: by name.
            default: the name of the one that is loaded first: it is what most callers wait for.
            device: where they are to run.
            tuner: what measures them.
            patience_s: that one is loaded alone for: one that compiles for minutes does not hold up the others.
            verifier: what tests methods on them.
        """
        self.verifier = verifier
        self.default = default
        self.tuner = tuner
        self.device = device
        self.entries = {name: Entry(specs[name]) for name in sorted(specs, key=lambda name: name != default)}
        self._waiting = deque(self.entries.values())
        # Networks are built one at a time: where weights are drawn, they are of a seed that all threads share.
        self._building = threading.Lock()
        self._patience_s = patience_s
        self._turns = threading.Condition()
        self._alone: float | None = None  # when the turn began that others wait for
        self._settled = threading.Event()
        self._proved = threading.Event()
        self._closing = threading.Event()
        self._loading = min(_LOADERS, len(specs))
        self._loaders = [
            threading.Thread(target=self._load_all, name=f"heatlens-loader-{i}", daemon=True)
            for i in range(self._loading)
        ]

    def start(self) -> None:
        """Begin to load, in the background."""
        for loader in self._loaders:
            loader.start()

    def close(self) -> None:
        """Stop loading and measuring further models."""
        self._closing.set()
        with self._turns:
            self._turns.notify_all()

    def join(self, timeout_s: float) -> list[str]:
        """Wait for the loaders to stop, and name those that do not: inside PyTorch they would crash a process's end."""
        until = time.monotonic() + timeout_s
        for loader in (one for one in self._loaders if one.ident is not None):
            loader.join(max(0.0, until - time.monotonic()))
        return [loader.name for loader in self._loaders if loader.is_alive()]

    def wait(self, timeout_s: float | None = None, *, proofs: bool = True) -> bool:
        """Wait until every model is ready or has failed, and, with `proofs`, what it can do in parts is proved."""
        return (self._proved if proofs else self._settled).wait(timeout_s)

    @property
    def settled(self) -> bool:
        """Whether every model is ready or has failed."""
        return self._settled.is_set()

    def entry(self, name: str | None) -> Entry:
        """Return a model's entry, whatever its status; None names the default one.

        Raises:
            UnknownModel: there is none of that name.
        """
        name = self.default if name is None else name
        if name not in self.entries:
            near = did_you_mean(name, self.entries, then=f"served are: {', '.join(self.entries)}")
            raise UnknownModel(f"there is no model {quoted(name)}{near}")
        return self.entries[name]

    def get(self, name: str | None) -> Model:
        """Return a model that is ready.

        Raises:
            UnknownModel: there is none of that name.
            ModelUnavailable: it is still loading, or failed to load.
        """
        entry = self.entry(name)
        if entry.model is not None:
            return entry.model
        if entry.status == "failed":
            raise ModelUnavailable(f"model {entry.spec.name!r} failed to load: {entry.error}", retry_after_s=_FAILED_S)
        raise ModelUnavailable(f"model {entry.spec.name!r} is still loading; try again in a few seconds")

    def verdict(self, model: Model, method: str) -> Any:
        """Return what is known of a method on a model; None where nothing is found out."""
        return self.verifier.verdict(model.version, method) if self.verifier is not None else None

    def _load_all(self) -> None:
        leave_cores_to_the_device()
        try:
            while self._load_next():
                pass
        finally:  # who waits for models waits for no thread that has ended
            with self._building:
                self._loading -= 1
                last = not self._loading
            self._note()
            if last:
                self._proved.set()
        if last:
            ready = [(entry.spec, entry.model) for entry in self.entries.values() if entry.model is not None]
            if (tuner := self.tuner) is not None:
                for _, model in ready:
                    self._idly(model, "measured", partial(tuner.measure, model, self._closing))
            if (verifier := self.verifier) is not None and verifier.tests:
                for spec, model in ready:
                    self._idly(model, "tested", partial(verifier.verify, spec, model, self._closing))

    def _load_next(self) -> bool:
        """Load the next model, and find out what it can do in parts; return whether there was one."""
        with self._turn():
            if (built := self._built()) is None:
                return False
            entry, module = built
            try:
                if module is not None:
                    model = self._loaded(entry.spec, module)
                    entry.load_s = time.monotonic() - entry.since
                    entry.model, entry.status = model, "ready"
                    log.info("model %s ready in %.1f s", entry.spec.name, entry.load_s)
            except _RAISED as error:
                _failed(entry, error)
        self._note()
        if entry.model is not None:
            self._prove(entry.model)
        return True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Load one model at a time, as long as none takes long.

        PyTorch has one random generator and one state of its compiler for all threads: a network that draws while it
        is looked at would change the weights of one that is being built.
        """
        with self._turns:
            while self._alone is not None and not self._closing.is_set():
                if (left := self._alone + self._patience_s - time.monotonic()) <= 0:
                    break
                self._turns.wait(left)
            began = self._alone = time.monotonic()
        try:
            yield
        finally:
            with self._turns:
                if self._alone == began:  # else others wait for a later turn
                    self._alone = None
                self._turns.notify_all()

    def _note(self) -> None:
        """Take note where every model is ready or has failed, or none is loaded any more."""
        if not self._loading or all(entry.status != "loading" for entry in self.entries.values()):
            self._settled.set()

    def _prove(self, model: Model) -> None:
        """Find out how rows of boxes run. Requests are answered meanwhile; those for such rows wait for it."""
        if model.proved.is_set():
            return
        try:
            prove_boxes(model, self.device)
        except ServiceError as error:  # closing
            log.info("model %s takes rows whole: %s", model.facts.name, error)
        except _RAISED:  # it serves as it is
            log.exception("model %s takes rows whole", model.facts.name)
        finally:
            model.proved.set()

    def _built(self) -> tuple[Entry, nn.Module | None] | None:
        """Build the next network: None where it has failed, or, in place of both, where none is left."""
        with self._building:
            if self._closing.is_set() or not self._waiting:
                return None
            entry = self._waiting.popleft()
            entry.since = time.monotonic()
            threading.current_thread().name = f"heatlens-loader of {entry.spec.name}"
            try:
                return entry, entry.spec.build()
            except _RAISED as error:
                _failed(entry, error)
                return entry, None

    def _idly(self, model: Model, what: str, work: Callable[[], Any]) -> None:
        """Do what may take long and serves nobody at once; the model serves as it is where it fails."""
        if self._closing.is_set():
            return
        threading.current_thread().name = f"heatlens-loader of {model.facts.name}"
        try:
            work()
        except ServiceError as error:  # closing
            log.info("model %s is not %s: %s", model.facts.name, what, error)
        except _RAISED:
            log.exception("model %s cannot be %s", model.facts.name, what)

    def _loaded(self, spec: ModelSpec, module: nn.Module) -> Model:
        """Examine a network, decide how it runs, and send a first batch of each kind through it."""
        limits = self.device.limits
        try:
            model = Model(spec, module, self.device.device)
            for precision in DTYPES:  # until it is measured
                key = rows_key(model, model.facts.input_shape, precision)
                fitting = limits.fitting(model.row_bytes)
                if model.device.type == "cpu":
                    limits.begin(key, fitting)
                else:  # whose seconds a batch's thread does not see
                    limits.set(key, min(limits.unmeasured_rows, fitting))
            known = self.tuner is not None and self.tuner.recall(model)
            settle(model, known=known)
            if self.verifier is not None:
                self.verifier.recall(model)
        except (CatalogError, ServiceError):
            raise
        except _RAISED as error:
            raise spec.refusal(module, error) from error
        self._warm(model)
        return model

    def _warm(self, model: Model) -> None:
        """Run one batch of each kind that requests bring: the libraries behind plan and allocate on first use."""
        x, shape = model.example(), model.facts.input_shape
        counts = dict.fromkeys((1, self.device.limits.of(rows_key(model, shape, "fp32"))))
        layer = model.facts.default_layer

        def rows(i: int, j: int) -> torch.Tensor:
            return x[:1].repeat(j - i, 1, 1, 1)

        def traced() -> None:
            if layer is not None:
                wrt = (layer,) if model.facts.layers[layer].gradient else ()
                model.trace(x[:1], Tracing((layer,), wrt), lambda seen: seen.outputs[:, :1])

        if compiles(model.module):  # here and now, and not while others wait for the device
            for count in {2, 3, *counts}:
                model.forward(rows(0, count))
            traced()
        for count in counts:
            work = RowsWork(model, shape, Rows(count, rows), readout=model.facts.task.whole)
            self.device.submit(work, Run())
        self.device.call(traced)


def _failed(entry: Entry, error: BaseException) -> None:
    """Take note of a model that fails: it leaves the others serving."""
    known = isinstance(error, CatalogError | ServiceError)
    entry.checks = error.checks if isinstance(error, Refused) else None
    entry.error = str(error) if known else f"{type(error).__name__}: {error}"
    entry.status = "failed"
    log.error("model %s failed to load: %s", entry.spec.name, entry.error, exc_info=None if known else error)
