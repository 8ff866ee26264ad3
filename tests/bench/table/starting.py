"""What a start takes, and what commands that need no network take: processor time, rounds taking turns."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.served import ROOT, Served
from tests.bench.table.line import Asked, Line


def processor_s(words: Sequence[str], times: int) -> float:
    """Return the processor time of a command, the mean of several runs: one alone vanishes in the clock's grain."""
    before = os.times()
    for _ in range(times):
        subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return (after.children_user + after.children_system - before.children_user - before.children_system) / times


def commands(asked: Asked) -> Iterator[Line]:
    """`heatlens --help` and `methods` against an import that every one of these commands could not do without."""
    least = ["-c", "import pydantic"]
    for words in (["--help"], ["methods"]):
        ratios, ours = [], []
        for _ in range(asked.rounds):
            ours.append(processor_s(["-m", "service", *words], 5))
            ratios.append(ours[-1] / processor_s(least, 5))
        yield Line(
            f"heatlens {words[0]}",
            f"{min(ours):.2f} s",
            'python -c "import pydantic"',
            ratios,
            (),
            2,
            least=False,
        )


def ready(asked: Asked) -> Iterator[Line]:
    """From the start to `/health/ready` of the embedded models, against another version."""
    if asked.other is None:
        raise ValueError("start to ready is held against another version: name its work tree by --other")
    found: dict[Path, list[Served]] = {ROOT: [], asked.other: []}
    for number in range(asked.rounds + 1):
        for root in (ROOT, asked.other) if number % 2 else (asked.other, ROOT):
            with Served(asked.folder / f"start-{number}-{root.name}", root=root) as server:
                if number:  # the first round reads the files
                    found[root].append(server)
    mine, theirs = found[ROOT], found[asked.other]
    yield Line(
        "from the start to ready, embedded models, processor time",
        f"{min(server.ready_processor_s for server in mine):.1f} s ({min(server.ready_s for server in mine):.1f} s)",
        f"{asked.other.name}, {min(server.ready_processor_s for server in theirs):.1f} s "
        f"({min(server.ready_s for server in theirs):.1f} s)",
        [a.ready_processor_s / b.ready_processor_s for a, b in zip(mine, theirs, strict=True)],
        (),
        0.5,
        least=False,
        facts={"wall": [(a.ready_s, b.ready_s) for a, b in zip(mine, theirs, strict=True)]},
    )
