"""Measuring before anything is served: as when an image is built."""

import os
import threading

from service.engine.scheduler.device import Device
from service.engine.store import Store
from service.errors import CatalogError
from service.settings import Settings
from service.tuning.tuner import Tuner


def tuned(store: Store, device: Device, settings: Settings) -> str:
    """Measure all models of a store, and keep what is found in `cache_dir`; return a line a model.

    Raises:
        CatalogError: nothing can be written there.
        ServiceError: a model failed to load.
    """
    folder = settings.cache_dir
    assert folder is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogError(f"nothing can be written to {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise CatalogError(f"nothing can be written to {folder}")
    tuner = Tuner(device, settings.model_copy(update={"tune": True, "tuned_dir": None}))
    lines = []
    for name in store.entries:
        model = store.get(name)
        if not tuner.recall(model):
            tuner.measure(model, threading.Event())
        found = tuner.found[model.version]
        ways = ", ".join(f"{way} in {precision}" for precision, way in found.variants.items())
        lines.append(f"{name}: {ways}" + (f"; not measured: {', '.join(found.missing)}" if found.missing else ""))
    return "\n".join(lines)
