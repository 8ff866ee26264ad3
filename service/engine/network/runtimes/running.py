"""A network in another runtime, as a way to send rows through it."""

import copy
import logging
import threading
from pathlib import Path

import torch
from torch import Tensor, nn

from service.engine.network.capture import uninstall
from service.engine.network.forms.failures import checked
from service.engine.network.runtimes.building import NotBuilt, build, expected
from service.engine.network.runtimes.kinds import Kind, Rows

log = logging.getLogger("heatlens")
TIMES = 2.0  # the error of the network itself, against float64, that a runtime may have
LEAST = 2**-20  # an error, relative to the largest output, that any order of additions may have


class Runtime:
    """Runs rows; from its first failure on it does not, and its network does."""

    def __init__(self, name: str, rows: Rows) -> None:
        """Take what runs rows."""
        self.name, self._rows = name, rows
        self.failed = False

    def __call__(self, rows: Tensor) -> Tensor | None:
        """Return answers (N, ...) to rows (N, C, H, W) in float32; None: somebody else has to."""
        if self.failed:
            return None
        try:
            return checked(self._rows(rows.contiguous()), len(rows))
        except Exception as error:
            self.failed = True
            log.warning("%s fails, and the network runs without it from now on: %s", self.name, error)
            return None


def opened(kind: Kind, network: nn.Module, x: Tensor, folder: Path, threads: int, closing: threading.Event) -> Runtime:
    """Return a network in a runtime, from a folder, or built first where that is not there yet.

    Args:
        kind: the runtime.
        network: in float32 on the processor, in evaluation mode.
        x: inputs (N, C, H, W), several, to hold it against float64 on.
        folder: where it is kept.
        threads: cores to use.
        closing: ends it early.

    Raises:
        NotBuilt: there is none, or it does not answer what the network does.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            build(kind, network, x, folder, closing)
        x, answers = expected(folder)
        runtime = Runtime(kind.name, kind.open(folder, threads))
    except NotBuilt:
        raise
    except Exception as error:  # of another library, or a file that is damaged
        raise NotBuilt(f"{type(error).__name__}: {error}") from error
    hold(runtime, uninstall(copy.deepcopy(network)), x, answers)  # another thread may be running the network itself
    return runtime


def hold(runtime: Runtime, network: nn.Module, x: Tensor, answers: Tensor) -> None:
    """Raise `NotBuilt` where a runtime is not about as near to the answers in float64 as the network itself is.

    It is asked for batches of several sizes: what is exported may be right for one of them alone.
    """

    def error(found: Tensor) -> float:
        if found.shape != answers[: len(found)].shape:
            one, true = tuple(found.shape[1:]), tuple(answers.shape[1:])
            raise NotBuilt(f"it answers {len(found)} times {one} numbers, and the network {true} a picture")
        scale = float(answers.abs().max()) or 1.0
        return float((found.double() - answers[: len(found)]).abs().max()) / scale

    with torch.inference_mode():
        own = error(network(x))
        for count in {1, 2, 3, len(x)}:
            found = runtime(x[:count])
            if found is None:
                raise NotBuilt(f"it fails on {count} pictures")
            off = error(found)
            if not off <= max(TIMES * own, LEAST):
                raise NotBuilt(
                    f"it is {off:.1e} of the largest output off what the network answers in float64, which itself is "
                    f"{own:.1e} off"
                )
