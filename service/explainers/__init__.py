"""The explanation methods, one file each."""

import importlib
import pkgutil


def discover() -> None:
    """Import every method of this folder, so that it is registered."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
