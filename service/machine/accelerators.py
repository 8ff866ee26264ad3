"""The device that networks run on: which there is, and what every kind of it is asked for.

Kinds are those that PyTorch calls accelerators: `cuda` (ROCm's too), `xpu`, `mps`. What a kind lacks is done without.
"""

import logging
import warnings
from typing import Any

import torch

from service.errors import CatalogError

log = logging.getLogger("heatlens")


def choose_device(wanted: str) -> torch.device:
    """Return the device to run on; `auto` takes the accelerator that there is, if methods can compute on it.

    Raises:
        CatalogError: it is not there, or has no float64, which methods add up in.
    """
    # Full float32 on CUDA: what TF32 rounds off is more than explanations of two devices may differ by.
    with warnings.catch_warnings():
        # Torch 2.9 warns of these names; who sets the new ones makes the old ones unreadable for everybody else.
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    there = torch.accelerator.current_accelerator(check_available=True)
    if wanted == "auto":
        if there is None:
            return torch.device("cpu")
        device = torch.device(there.type, 0)
        if why := _lacks(device):
            log.warning("%s is not used: %s", device, why)
            return torch.device("cpu")
        return device
    device = torch.device(wanted)
    if device.type == "cpu":
        return device
    count = torch.accelerator.device_count() if there is not None and there.type == device.type else 0
    if (device.index or 0) >= count:
        kind = "CUDA" if device.type == "cuda" else device.type
        raise CatalogError(f"--device {wanted}: there are {count} {kind} devices; use cpu or auto")
    if why := _lacks(device):
        raise CatalogError(f"--device {wanted}: {why}; use cpu")
    return device


def _lacks(device: torch.device) -> str | None:
    """Return why methods cannot compute on a device; None where they can."""
    try:
        torch.ones(2, dtype=torch.float64, device=device).sum().item()
    except (RuntimeError, TypeError) as error:
        return f"it has no float64, which methods add up in ({str(error).strip().partition(chr(10))[0]})"
    return None


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all that this thread has given it; a processor has."""
    if device.type != "cpu":
        torch.accelerator.current_stream(device).synchronize()


def release_memory(device: torch.device) -> None:
    """Give memory that a device has freed, and keeps, back to it."""
    _ask(device, "empty_cache")


def memory_bytes(device: torch.device) -> int:
    """Return the memory in use on an accelerator; 0 on a processor, and where nobody tells."""
    if device.type == "mps":
        return int(_ask(device, "current_allocated_memory") or 0)
    return int(_ask(device, "memory_allocated", device) or 0)


def reserved_bytes(device: torch.device) -> int:
    """Return the memory that PyTorch holds on an accelerator, in use or not; 0 on a processor, and where none tells."""
    return int(_ask(device, "memory_reserved", device) or 0)


def name_of(device: torch.device) -> str | None:
    """Return what a device's maker calls it; None on a processor, and where nobody tells."""
    found = _ask(device, "get_device_name", device)
    return None if found is None else str(found)


def _ask(device: torch.device, what: str, *given: Any) -> Any:
    """Call a function of a kind's own module, `torch.cuda` and its like; None where it has none of the name."""
    function = getattr(getattr(torch, device.type, None), what, None) if device.type != "cpu" else None
    return None if function is None else function(*given)
