"""Exporting a network for another runtime, in a process of its own: it takes seconds to minutes, and may crash.

The process has the lowest priority and a budget of processor time; what it was asked for and what it made lie in one
folder. The same process computes what the network answers in float64, which nothing that serves should have to hold.
"""

import copy
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from service.engine.network.capture import uninstall
from service.engine.network.runtimes.kinds import Kind
from service.models.networks.holding import cast

BUDGET_S = 180  # of processor time
_PATIENCE_S = 3600.0  # of a clock's: others may keep the processor busy
_LOOK_S = 0.5  # between two looks at whether the server is closing
_ASKED, _EXPECTED, _INPUTS = "asked.pickle", "expected.pt", "inputs.pt"


class NotBuilt(Exception):
    """There is no such runtime of a network; says why."""


def build(kind: Kind, network: nn.Module, x: Tensor, folder: Path, closing: threading.Event) -> None:
    """Write a network for a runtime into a folder, which is there from then on, or not at all.

    Args:
        kind: the runtime.
        network: in float32 on the processor, in evaluation mode. It is only read.
        x: inputs (N, C, H, W) that it is held against later.
        folder: where to; its parent has to be there.
        closing: ends it early.

    Raises:
        NotBuilt: the network cannot be written, the budget is used up, or the server is closing.
        OSError: nothing can be written there.
    """
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix="building-"))
    try:
        try:
            with (work / _ASKED).open("wb") as file:
                torch.save((kind, uninstall(copy.deepcopy(network)), x), file)
        except (RuntimeError, AttributeError, TypeError, pickle.PickleError) as error:
            raise NotBuilt(f"it cannot be handed to another process: {error}") from None
        _run(work, closing)
        (work / _ASKED).unlink()
        work.chmod(0o755)  # who builds an image may be somebody else than who serves from it
        with suppress(OSError):  # another server was quicker
            work.rename(folder)
        if not folder.is_dir():
            raise NotBuilt(f"it cannot be kept in {folder.parent}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def expected(folder: Path) -> tuple[Tensor, Tensor]:
    """Return inputs (N, C, H, W), and what the network answers to them in float64."""
    x, answers = (torch.load(folder / name, weights_only=True) for name in (_INPUTS, _EXPECTED))
    return x, answers


def _run(work: Path, closing: threading.Event) -> None:
    """Let another process do it, and wait for it."""
    if closing.is_set():
        raise NotBuilt("the server is closing")
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS="1")
    with (work / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(work)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        until = time.monotonic() + _PATIENCE_S
        while child.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LOOK_S)
            if closing.is_set() or time.monotonic() > until:
                child.kill()
                child.wait()
    if closing.is_set():
        raise NotBuilt("the server is closing")
    if child.returncode:
        said = (work / "log").read_text("utf-8", "replace").strip().splitlines()
        raise NotBuilt(f"its export ended with {child.returncode}: {said[-1] if said else 'nothing was said'}")
    (work / "log").unlink()


def _yield() -> None:
    """Take the processor only where nobody else wants it, and no more of it than the budget."""
    with suppress(AttributeError, OSError):  # of other systems
        os.nice(19)
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (BUDGET_S, BUDGET_S + 5))
    torch.set_num_threads(1)


def written(folder: Path) -> None:
    """Write what is asked for in a folder."""
    # By this server's own process, a moment ago, in a folder that nobody else may open.
    kind, network, x = torch.load(folder / _ASKED, weights_only=False)
    with torch.no_grad():
        kind.export(network, x[:2], folder)
        answers = cast(network, torch.float64)(x.double())
    torch.save(x, folder / _INPUTS)
    torch.save(answers, folder / _EXPECTED)


if __name__ == "__main__":
    _yield()
    written(Path(sys.argv[1]))
