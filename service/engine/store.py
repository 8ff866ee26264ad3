"""The models that are served: loaded in the background, warmed, and kept on the device."""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from service.contract import Rows, Tracing
from service.engine.network.resident import Model
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import RowsWork, rows_key
from service.errors import CatalogError, ModelUnavailable, ServiceError, UnknownModel, did_you_mean
from service.models.spec import ModelSpec
from service.precision import DTYPES
from service.process import leave_cores_to_the_device

Status = Literal["loading", "ready", "failed"]
log = logging.getLogger("heatlens")


@dataclass
class Entry:
    """One model's place in the store."""

    spec: ModelSpec
    status: Status = "loading"
    model: Model | None = None
    error: str | None = None
    load_s: float | None = None


class Tuning(Protocol):
    """Finds out how a model runs best here."""

    found: dict[str, Any]  # what was measured, by model version

    def recall(self, model: Model) -> bool:
        """Apply what an earlier measurement found; return whether there was one."""
        ...

    def measure(self, model: Model, closing: threading.Event) -> None:
        """Measure while the device is idle, and apply what is found."""
        ...


class Store:
    """Models by name, one of them the default."""

    def __init__(
        self, specs: Mapping[str, ModelSpec], default: str, device: Device, tuner: Tuning | None = None
    ) -> None:
        self.default = default
        self.tuner = tuner
        self.device = device
        # The default model first: it is what most callers wait for.
        self.entries = {name: Entry(specs[name]) for name in sorted(specs, key=lambda name: name != default)}
        self._settled = threading.Event()
        self._closing = threading.Event()
        self._loader = threading.Thread(target=self._load_all, name="heatlens-loader", daemon=True)

    def start(self) -> None:
        """Begin to load, in the background."""
        self._loader.start()

    def close(self) -> None:
        """Stop loading and measuring further models."""
        self._closing.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the loader to stop: a thread inside PyTorch at the end of the process would crash it."""
        if self._loader.ident is not None:
            self._loader.join(timeout_s)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every model is ready or has failed."""
        return self._settled.wait(timeout_s)

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
            near = did_you_mean(name, self.entries)
            raise UnknownModel(f"there is no model {name!r}{near}; served are: {', '.join(self.entries)}")
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
            raise ModelUnavailable(f"model {entry.spec.name!r} failed to load: {entry.error}")
        raise ModelUnavailable(f"model {entry.spec.name!r} is still loading; try again in a few seconds")

    def _load_all(self) -> None:
        leave_cores_to_the_device()
        for entry in self.entries.values():
            if self._closing.is_set():
                break
            started = time.monotonic()
            try:
                entry.model = self._load(entry.spec)
                if self.tuner is not None:
                    self.tuner.recall(entry.model)
                entry.load_s = time.monotonic() - started
                entry.status = "ready"
                log.info("model %s ready in %.1f s", entry.spec.name, entry.load_s)
            except Exception as error:  # a model that fails leaves the others serving
                known = isinstance(error, CatalogError | ServiceError)
                entry.error = str(error) if known else f"{type(error).__name__}: {error}"
                entry.status = "failed"
                log.error("model %s failed to load: %s", entry.spec.name, entry.error, exc_info=not known)
        self._settled.set()
        for entry in self.entries.values():
            if self.tuner is not None and entry.model is not None and not self._closing.is_set():
                self._tune(entry.model, self.tuner)

    def _tune(self, model: Model, tuner: Tuning) -> None:
        try:
            tuner.measure(model, self._closing)
        except ServiceError as error:  # closing
            log.info("model %s is not measured: %s", model.facts.name, error)
        except Exception:  # it serves as it is
            log.exception("model %s cannot be measured", model.facts.name)

    def _load(self, spec: ModelSpec) -> Model:
        module = spec.build()
        try:
            model = self.device.call(lambda: Model(spec, module, self.device.device))
        except (CatalogError, ServiceError):
            raise
        except Exception as error:
            raise spec.refusal(module, error) from error
        limits = self.device.limits
        for precision in DTYPES:  # until it is measured
            key = rows_key(model, model.facts.input_shape, precision)
            limits.set(key, min(limits.unmeasured_rows, limits.fitting(model.row_bytes)))
        # One batch of each kind that requests bring: the libraries behind plan and allocate on first use.
        x = model.example()

        def rows(i: int, j: int) -> torch.Tensor:
            return x[:1].repeat(j - i, 1, 1, 1)

        for count in (1, limits.unmeasured_rows):
            work = RowsWork(model, model.facts.input_shape, Rows(count, rows), readout=model.facts.task.whole)
            self.device.submit(work, Run())
        layer = model.facts.default_layer
        if layer is not None:
            wrt = (layer,) if model.facts.layers[layer].gradient else ()
            self.device.call(lambda: model.trace(x[:1], Tracing((layer,), wrt), lambda seen: seen.outputs[:, :1]))
        return model
