"""How threads of a parallel loop wait for the next one: they spin, or they sleep.

OpenMP's threads spin, which is quickest where cores are theirs alone. Where others want the cores, threads that spin
keep them from whoever is waited for, and a container's limit is used up by waiting: a small prediction then took
seconds where it takes a tenth of one. OpenMP reads how to wait once, when it is loaded.
"""

import os
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.machine.cores import CGROUP, quota, reachable

POLICY = "OMP_WAIT_POLICY"
_OWN = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # what an operator may have set


@dataclass(frozen=True)
class Surroundings:
    """What is known of a machine and of who else uses it."""

    cores: int  # that the process may run on
    machine_cores: int  # that there are
    quota: float | None = None  # of a container, in cores
    load: float | None = None  # processes that run or want to, the mean of the last minute
    own: Mapping[str, str] | None = None  # variables of OpenMP that an operator has set

    @staticmethod
    def here(environment: Mapping[str, str], root: Path = CGROUP) -> "Surroundings":
        """Look around."""
        load = None
        with suppress(AttributeError, OSError):  # of other systems
            load = os.getloadavg()[0]
        own = {name: environment[name] for name in _OWN if name in environment}
        return Surroundings(reachable(), os.cpu_count() or 1, quota(root), load, own)


@dataclass(frozen=True)
class Waiting:
    """How threads wait, and why."""

    policy: Literal["passive", "own", "default"]
    reason: str


def choose(around: Surroundings) -> Waiting:
    """Return how threads are to wait: asleep where cores are shared, as OpenMP has it elsewhere."""
    if around.own:
        return Waiting("own", ", ".join(f"{name}={value}" for name, value in around.own.items()))
    if around.quota is not None and around.quota < around.cores:
        return Waiting("passive", f"a container's limit of {around.quota:g} of {around.cores} cores")
    if around.load is not None and around.load > around.machine_cores:
        return Waiting("passive", f"a load of {around.load:.1f} on {around.machine_cores} cores at the start")
    return Waiting("default", "cores are not shared, as far as is known")


_chosen: Waiting | None = None


def settle(environment: MutableMapping[str, str] = os.environ, root: Path = CGROUP) -> Waiting:
    """Let OpenMP wait as is chosen. To be called before PyTorch is imported: what is loaded has read its variables.

    Args:
        environment: of this process and of those that it will start.
        root: where the kernel shows a container's limits.
    """
    global _chosen
    found = choose(Surroundings.here(environment, root))
    if found.policy == "passive":
        if "torch" in sys.modules:
            found = Waiting("default", f"PyTorch was loaded before anybody looked; there is {found.reason}")
        else:
            environment[POLICY] = "PASSIVE"
    _chosen = found
    return found


def chosen() -> Waiting:
    """Return what was chosen when the process began; where nobody did, what stands in its environment."""
    own = Surroundings.here(os.environ).own
    return _chosen or Waiting("own" if own else "default", "the application runs in another program")
