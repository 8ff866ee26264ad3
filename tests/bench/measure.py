"""Rounds that alternate between contestants, what they show, and the table and JSON of it."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from tests import oracles


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    quick: bool
    device: torch.device
    rounds: int
    model: str
    channels: int | None = None  # of Score-CAM's layer, at most; None: the default layer

    def pick(self, quick: Any, full: Any) -> Any:
        """Return one of two sizes."""
        return quick if self.quick else full

    def tolerance(self, cpu: float) -> float:
        """Return how far maps may be apart: on CUDA both sides use TF32 wherever their defaults do."""
        return cpu if self.device.type == "cpu" else max(cpu, 2e-2)


@dataclass
class Row:
    """One line of the table: a measured value of ours, and what it is held against."""

    section: str
    name: str
    ours: float
    unit: str
    against: str = ""
    theirs: float | None = None
    ratio: float | None = None  # above 1: ours is better, where something is held against it
    agreement: dict[str, float] = field(default_factory=dict)
    aim: str = ""
    failed: str | None = None
    rounds: dict[str, list[float]] = field(default_factory=dict)  # raw, in the unit of `ours` unless named otherwise
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Rounds:
    """The seconds of each contestant, round by round, and what each returned."""

    seconds: dict[str, list[float]]
    results: dict[str, list[Any]]

    def median(self, name: str) -> float:
        """Return a contestant's median time, s."""
        return statistics.median(self.seconds[name])

    def ratio(self, ours: str, theirs: str) -> float:
        """Return the median over rounds of theirs / ours."""
        return statistics.median(b / a for a, b in zip(self.seconds[ours], self.seconds[theirs], strict=True))


def synchronise(device: torch.device) -> None:
    """Wait for a GPU's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    contestants: Mapping[str, Callable[[Any], Any]],
    inputs: Sequence[Any],
    device: torch.device,
    *,
    warm: bool = True,
    budget_s: float = float("inf"),
) -> Rounds:
    """Time every contestant once a round on the round's own input, in turning order.

    With `warm` the first input is for an untimed call of each, and no round. After the first round none begins that
    would end beyond the budget.
    """
    rest = inputs[1:] if warm else inputs
    for contestant in contestants.values() if warm else ():
        contestant(inputs[0])
    names = list(contestants)
    rounds = Rounds({name: [] for name in names}, {name: [] for name in names})
    began = time.perf_counter()
    for number, given in enumerate(rest):
        if number and (time.perf_counter() - began) * (number + 1) / number > budget_s:
            break
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            synchronise(device)
            started = time.perf_counter()
            result = contestants[name](given)
            synchronise(device)
            own = getattr(contestants[name], "seconds", None)  # of one in another process, which times itself
            rounds.seconds[name].append(time.perf_counter() - started if own is None else own)
            rounds.results[name].append(result)
    return rounds


def agreement(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> dict[str, float]:
    """Return the worst round's differences of raw maps, and their rank correlation."""
    pairs = [(a.float().cpu(), b.float().cpu()) for a, b in zip(ours, theirs, strict=True)]
    return {
        "max_abs": max(float((a - b).abs().max()) for a, b in pairs),
        "relative": max(oracles.relative_error(a, b) for a, b in pairs),
        "spearman": min(oracles.spearman(a, b) for a, b in pairs),
    }


def disagreement(found: Mapping[str, float], *, relative: float = 0, max_abs: float = 0, spearman: float = -1) -> str:
    """Return what is wrong with an agreement, or nothing: it has to keep the difference that is given."""
    problems = []
    if relative and not found["relative"] <= relative:
        problems.append(f"relative difference {found['relative']:.1e} above {relative:.0e}")
    if max_abs and not found["max_abs"] <= max_abs:
        problems.append(f"difference {found['max_abs']:.1e} above {max_abs:.0e}")
    if spearman > -1 and not found["spearman"] >= spearman:
        problems.append(f"Spearman {found['spearman']:.4f} below {spearman}")
    return ", ".join(problems)


def against(
    section: str,
    name: str,
    rounds: Rounds,
    theirs: str,
    *,
    ours: str = "ours",
    aim: str = "",
    agree: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Row:
    """Make the row of a race: times in ms, the ratio theirs / ours, and whether the maps agree as they must."""
    row = Row(
        section,
        name,
        rounds.median(ours) * 1e3,
        "ms",
        theirs,
        rounds.median(theirs) * 1e3,
        rounds.ratio(ours, theirs),
        aim=aim,
        rounds={key: [s * 1e3 for s in rounds.seconds[key]] for key in (ours, theirs)},
        facts=dict(facts or {}),
    )
    if agree is not None:
        row.agreement = agreement(rounds.results[ours], rounds.results[theirs])
        row.failed = disagreement(row.agreement, **agree) or None
    return row


def machine(device: torch.device) -> dict[str, Any]:
    """Return where this was measured."""
    import captum
    import torchcam
    import torchvision

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else name,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "captum": captum.__version__,
        "torchcam": torchcam.__version__,
        "grad-cam": version("grad-cam"),
    }


def number(value: float | None) -> str:
    """Write a number with three significant digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    head = ("", "ours", "peer or ceiling", "ratio", "agreement", "aim")
    lines = [head, ("---",) * len(head)]
    for row in rows:
        agree = row.agreement
        met = f"{agree['max_abs']:.0e} (rel. {agree['relative']:.0e}), rho {agree['spearman']:.5f}" if agree else "-"
        lines.append(
            (
                f"{row.section}: {row.name}",
                f"{number(row.ours)} {row.unit}",
                f"{number(row.theirs)} {row.unit} ({row.against})" if row.theirs is not None else "-",
                f"{row.ratio:.3g}x" if row.ratio is not None else "-",
                met + (f" **{row.failed}**" if row.failed else ""),
                row.aim,
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(rows: Sequence[Row], options: Options, seconds: float) -> dict[str, Any]:
    """Return everything for the JSON file."""
    return {
        "machine": machine(options.device),
        "options": asdict(options) | {"device": str(options.device)},
        "rows": [asdict(row) for row in rows],
        "total_s": seconds,
    }
