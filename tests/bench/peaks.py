"""What each method adds to a resting service's memory, with default parameters: `python -m tests.bench.peaks --help`.

One service in one process, asked for one method after another as a caller would be answered, pictures included. Between
them freed memory is given back. A line has what the process held at most, over what it held before the first method;
the aim is 1 GiB on ResNet-50. Where a method takes longer than the budget, its run ends at its deadline, and the line
says how far it was: rows are run in equal batches, so that its peak is not far from that.
"""

import argparse
import gc
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from service.api.formats import PNG
from service.ask import Ask
from service.engine.scheduler.run import Run
from service.errors import DeadlineExceeded
from service.explainers.base import registry
from service.pipeline import applicability
from service.process import prepare_process, release_freed_memory
from tests.bench.subject import Subject, ours, picture, scratch

AIM_MIB = 1024


def memory_mib(name: str) -> float:
    """Return what Linux says of this process's memory: `VmRSS`, what it holds, or `VmHWM`, the most since the reset."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) / 1024


def settle() -> None:
    """Give freed memory back, and let the peak be counted from here on."""
    gc.collect()
    release_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each method; return 1 where one is beyond the aim."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peaks", description=__doc__)
    parser.add_argument("methods", nargs="?", default="", help="a regular expression; default: all that apply")
    parser.add_argument("--model", default="resnet50", help="a torchvision name, with seeded weights")
    parser.add_argument("--targets", type=int, default=1, help="how many classes are explained; default: the best one")
    parser.add_argument("--budget", type=float, default=30, metavar="S", help="seconds for one method")
    parser.add_argument("--folder", type=Path, help="where weights are kept from run to run")
    given = parser.parse_args(arguments)
    prepare_process()
    beyond = 0
    with scratch() as folder:
        subject = Subject(given.model, given.folder or folder)
        with ours(subject, torch.device("cpu"), tune=False) as service:
            pipeline, facts = service.context.pipeline, service.facts
            settle()
            resting = memory_mib("VmRSS")
            print(f"{given.model} rests at {resting:.0f} MiB\n\n| method | MiB over rest | s | passes |", flush=True)
            print("| --- | ---: | ---: | --- |")
            for name, cls in registry().items():
                if not re.search(given.methods, name) or applicability(facts)[name] is not None:
                    continue
                asked = {"targets": [*range(given.targets)]} if given.targets > 1 else {}
                ask = Ask.explain(name, asked if cls.takes_targets else {}, picture() if cls.needs_image else None)
                settle()
                run, began = Run(timeout_s=given.budget), time.monotonic()
                plan = pipeline.plan(ask)
                try:
                    PNG.encode(pipeline.work(plan, run, PNG.needs))
                    far = str(run.usage.forwards + 2 * run.usage.backwards)
                except DeadlineExceeded:
                    far = f"{run.done} of {plan.passes}"
                peak = memory_mib("VmHWM") - resting
                beyond += peak > AIM_MIB
                print(f"| {name} | {peak:.0f} | {time.monotonic() - began:.1f} | {far} |", flush=True)
    return int(beyond > 0)


if __name__ == "__main__":
    sys.exit(main())
