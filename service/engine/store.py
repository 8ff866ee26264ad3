"""The models that are served: loaded in the background, warmed, and kept on the device.

A network is built, examined and proved on a loader's thread, where no request waits for it; the device thread gets it
when it is as it will be served, for one batch of each kind.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from torch import nn

from service.contract import Check
from service.engine.network.forms.adapted import compiles
from service.engine.network.proofs.checks import Refused
from service.engine.network.resident import Model
from service.engine.scheduler.device import Device
from service.engine.scheduler.work import rows_key
from service.engine.settling import prove_boxes, settle, warm
from service.engine.turns import Turns
from service.errors import CatalogError, ModelUnavailable, ServiceError, UnknownModel, did_you_mean, quoted
from service.models.spec import ModelSpec
from service.precision import DTYPES
from service.process import leave_cores_to_the_device

Status = Literal["loading", "ready", "failed"]
log = logging.getLogger("heatlens")
_FAILED_S = 3600  # after which to ask again for a model that has failed: it does not load before a restart
_LOADERS = 3  # models that are loaded at once: one that takes long does not hold up the rest
_BUILDING_S = 30.0  # that one is built alone for
_HANGS = (
    "it has not come to an end within {:g} s, and is not waited for any more; mend what hangs, or raise "
    "HEATLENS_LOAD_TIMEOUT_S where it only takes long, as fetching weights may"
)

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
        building_s: float = _BUILDING_S,
        timeout_s: float | None = None,
        verifier: Verifying | None = None,
    ) -> None:
        """Prepare to load.

        Args:
            specs: by name.
            default: the name of the one that is loaded first: it is what most callers wait for.
            device: where they are to run.
            tuner: what measures them.
            patience_s: that one is loaded alone for: one that compiles for minutes does not hold up the others.
            building_s: that one is built alone for, if longer: what a factory fetches may take its time.
            timeout_s: after which one that is still loading has failed; None: never.
            verifier: what tests methods on them.
        """
        self.verifier = verifier
        self.default = default
        self.tuner = tuner
        self.device = device
        self.entries = {name: Entry(specs[name]) for name in sorted(specs, key=lambda name: name != default)}
        self._waiting = deque(self.entries.values())
        # PyTorch has one random generator and one state of its compiler for all threads: a network that draws while it
        # is looked at would change the weights of one that is being built.
        self._turns, self._builds = Turns(patience_s), Turns(max(patience_s, building_s))
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._proved = threading.Event()
        self._closing = threading.Event()
        self._loading = min(_LOADERS, len(specs))
        self._loaders = [
            threading.Thread(target=self._load_all, name=f"heatlens-loader-{i}", daemon=True)
            for i in range(self._loading)
        ]
        self._threads = list(self._loaders)  # and that of each model

    def start(self) -> None:
        """Begin to load, in the background."""
        for loader in self._loaders:
            loader.start()

    def close(self) -> None:
        """Stop loading and measuring further models."""
        self._closing.set()
        self._turns.close()
        self._builds.close()

    def join(self, timeout_s: float) -> list[str]:
        """Wait for the loaders to stop, and name those that do not: inside PyTorch they would crash a process's end."""
        until = time.monotonic() + timeout_s
        with self._lock:
            threads = [thread for thread in self._threads if thread.ident is not None]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return list(dict.fromkeys(thread.name for thread in threads if thread.is_alive()))

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
            with self._lock:
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
        """Load the next model, and find out what it can do in parts; return whether there was one.

        It has a thread of its own, which is left where it hangs: a factory may wait for what never comes.
        """
        with self._turns.turn():
            with self._lock:
                if self._closing.is_set() or not self._waiting:
                    return False
                entry = self._waiting.popleft()
                name = threading.current_thread().name = f"heatlens-loader of {entry.spec.name}"
                thread = threading.Thread(target=self._load, args=(entry,), name=name, daemon=True)
                self._threads.append(thread)
                entry.since = time.monotonic()
                thread.start()
            if not self._ended(thread):
                self._fail(entry, CatalogError(_HANGS.format(self._timeout_s)))
                self._builds.end(thread)
        self._note()
        if entry.model is not None:
            self._prove(entry.model)
        return True

    def _ended(self, thread: threading.Thread) -> bool:
        """Wait for a model's thread, and return whether it has come to its end."""
        thread.join(self._timeout_s)
        return not thread.is_alive()

    def _load(self, entry: Entry) -> None:
        """Build a network and make it ready, or take note of why it is not."""
        leave_cores_to_the_device()
        try:
            with self._builds.turn():
                module = entry.spec.build()
            model = self._loaded(entry.spec, module)
        except _RAISED as error:
            self._fail(entry, error)
            return
        with self._lock:
            if entry.status == "loading":  # else nobody waits for it any more
                entry.load_s = time.monotonic() - entry.since
                entry.model, entry.status = model, "ready"
                log.info("model %s ready in %.1f s", entry.spec.name, entry.load_s)

    def _fail(self, entry: Entry, error: BaseException) -> None:
        """Take note that a model still loading has failed: it leaves the others serving."""
        known = isinstance(error, CatalogError | ServiceError)
        with self._lock:
            if entry.status != "loading":
                return
            entry.checks = error.checks if isinstance(error, Refused) else None
            entry.error = str(error) if known else f"{type(error).__name__}: {error}"
            entry.status = "failed"
        log.error("model %s failed to load: %s", entry.spec.name, entry.error, exc_info=None if known else error)

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
        warm(model, self.device, compiled=compiles(model.module))
        return model
