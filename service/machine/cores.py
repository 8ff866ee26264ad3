"""How many cores the process may use, whatever the machine has."""

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cores(root: Path = CGROUP) -> int:
    """Return how many cores the process may use: by its affinity, and its container's limit.

    Args:
        root: where the kernel shows a container's limits.
    """
    there, limit = reachable(), quota(root)
    return there if limit is None else max(1, min(there, math.ceil(limit)))


def reachable() -> int:
    """Return how many cores the process may run on at all."""
    if hasattr(os, "sched_getaffinity"):  # of Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(root: Path = CGROUP) -> float | None:
    """Return the time on cores that a container may use each second; None: there is no limit.

    Args:
        root: where the kernel shows it: `cpu.max`, or under cgroup v1 quota and period.
    """
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = (root / "cpu.max").read_text("ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else None
    return None
