"""Other libraries as ways to run a network: which of them there are here, and where what was built for them is kept."""

import logging
import platform
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from service import __version__, kept
from service.engine.network.forms.adapted import compiles
from service.engine.network.resident import Model
from service.engine.network.runtimes.building import NotBuilt
from service.engine.network.runtimes.kinds import KINDS, Kind
from service.engine.network.runtimes.running import Runtime, opened
from service.engine.network.variants import Variant
from service.images import photographs
from service.models.networks.holding import parameters

log = logging.getLogger("heatlens")
_MOST_BYTES = 2**31 - 2**27  # of a network's parameters: a file of one message holds no more


class Runtimes:
    """The libraries that are installed, for models on a processor."""

    def __init__(self, cache: Path, beforehand: Path | None, threads: int) -> None:
        """Look for what is built, first where it was built beforehand; build in the cache; run on so many cores."""
        self._cache, self._beforehand, self._threads = cache, beforehand, threads
        self._open: dict[tuple[str, str], Runtime] = {}  # by model version and name

    def variants(self, model: Model, copy: Variant, closing: threading.Event) -> Iterator[Variant]:
        """Yield a network in each library that takes it; the first time that takes as long as exporting it does.

        Nothing of it is the device thread's, nor any other that serves.

        Args:
            model: whose network.
            copy: the network in PyTorch that runs where the library fails.
            closing: ends it early.
        """
        if model.device.type != "cpu" or model.examined.keeps or model.examined.singly or compiles(model.module):
            return  # what is exported is a function of one batch alone
        if sum(value.nbytes for value in parameters(model.module).values()) > _MOST_BYTES:
            return
        for kind in KINDS:
            if kind.installed() and not closing.is_set():
                try:
                    yield replace(copy, name=kind.name, runtime=self._opened(model, kind, closing))
                except NotBuilt as reason:
                    log.info("model %s does not run in %s: %s", model.facts.name, kind.name, reason)

    def variant(self, model: Model, copy: Variant, name: str) -> Variant:
        """Return a network in a library that was chosen earlier; in PyTorch where it is not there any more."""
        kind = next((kind for kind in KINDS if kind.name == name), None)
        if kind is None or not kind.installed() or not self.folder(model, kind).is_dir():
            return copy
        try:
            return replace(copy, name=name, runtime=self._opened(model, kind, threading.Event()))
        except NotBuilt as reason:
            log.info("model %s does not run in %s: %s", model.facts.name, name, reason)
            return copy

    def folder(self, model: Model, kind: Kind) -> Path:
        """Return where a network is kept for a library: by all that decides what is in there, and what it is worth."""
        known = {
            "model": model.version,
            "input": model.facts.input_shape,
            "heatlens": __version__,
            "torch": torch.__version__,
            "library": [kind.name, kind.release],
            "instructions": [platform.machine(), torch.backends.cpu.get_cpu_capability()],
        }
        folder = f"{kind.name}-{kept.digest(known)}"
        if self._beforehand is not None and (self._beforehand / folder).is_dir():
            return self._beforehand / folder
        return self._cache / folder

    def forget(self, model: Model, chosen: str) -> None:
        """Close those of a model's libraries that are not chosen."""
        for key in [key for key in self._open if key[0] == model.version and key[1] != chosen]:
            del self._open[key]

    def _opened(self, model: Model, kind: Kind, closing: threading.Event) -> Runtime:
        key = model.version, kind.name
        if key not in self._open or self._open[key].failed:
            x = torch.cat([model.example(), photographs(model.spec.transform)])
            self._open[key] = opened(kind, model.module, x, self.folder(model, kind), self._threads, closing)
        return self._open[key]
