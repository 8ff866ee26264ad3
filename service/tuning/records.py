"""What was measured, on disk: by all that it depends on.

A record made elsewhere, as by `heatlens tune` when an image is built, is looked at before those made here. One that was
made with other conditions (cores, bounds of a batch) on the same instructions is a guess: good to begin with, and no
reason not to measure.
"""

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from service import __version__, kept
from service.engine.network.resident import Model
from service.engine.network.runtimes.kinds import KINDS
from service.machine.accelerators import name_of
from service.tuning.choice import Measured

_FORM = TypeAdapter(Measured)


class Records:
    """Measurements of models, one file each."""

    def __init__(self, cache: Path | None, beforehand: Path | None, conditions: Mapping[str, Any]) -> None:
        """Keep them in a folder.

        Args:
            cache: where they are written; None: nowhere.
            beforehand: where others were written earlier; it is only read.
            conditions: what they depend on beside the model, its software and the processor's instructions.
        """
        self.cache, self.beforehand, self.conditions = cache, beforehand, conditions

    def found(self, model: Model) -> Iterator[tuple[Measured, bool]]:
        """Yield what was measured, the most fitting first, and whether it was under the same conditions.

        What is no record is set aside and passed over.
        """
        name = self.name(model)
        folders = [folder for folder in (self.beforehand, self.cache) if folder is not None]
        files = [(folder / name, True) for folder in folders]
        if self.beforehand is not None:
            others = self.beforehand.glob(f"{name.rpartition('-')[0]}-*.json")
            files += [(file, False) for file in sorted(others) if file.name != name]
        for file, same in files:
            found = kept.read(file, _FORM)
            if found is not None:
                yield found, same

    def write(self, model: Model, found: Mapping[str, Any]) -> None:
        """Keep what was measured; where nothing can be written, it is measured again after the next start."""
        if self.cache is not None:
            kept.write(self.cache / self.name(model), found)

    def name(self, model: Model) -> str:
        """Return the name of a model's file."""
        known = {
            "model": model.version,
            "input": model.facts.input_size,
            "heatlens": __version__,
            "torch": torch.__version__,
            "device": name_of(model.device) or platform.machine(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "libraries": {kind.name: kind.release for kind in KINDS if kind.installed()},
        }
        return f"measured-{kept.digest(known)}-{kept.digest(self.conditions)}.json"
