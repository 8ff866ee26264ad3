"""Measure the service against its peers and the machine: `python -m tests.bench --help`."""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from service.process import prepare_process
from tests.bench import certified, client, compare, latency, load, masks, memory, wire, yielding
from tests.bench.measure import Options, Row, report, table
from tests.bench.subject import EMBEDDED, scratch

SECTIONS: Mapping[str, Callable[[Options, Path], Iterator[Row]]] = {
    "latency": latency.run,
    "second-target": wire.second_target,
    "http": wire.run,
    "concurrency": load.run,
    "ceiling": load.ceiling,
    "mixed": load.mixed,
    "client": client.run,
    "memory": memory.run,
    "small-masks": masks.run,
    "certified": certified.run,
    "compare": compare.run,
    "yielding": yielding.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections asked for; return 1 where maps disagree that must not, or a section broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small networks, few rounds: a check of the instrument")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="rounds of each race (default: 5; quick: 2)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--model", help=f"default: {EMBEDDED}; on CUDA resnet50; or any torchvision name, seeded")
    parser.add_argument(
        "--channels", type=int, metavar="N", help="race Score-CAM on the last layer of at most N channels"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements here")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    prepare_process()  # as all our commands do; peers run in processes of their own
    usual = "tiny" if given.quick else EMBEDDED if device.type == "cpu" else "resnet50"
    options = Options(
        given.quick, device, given.rounds or (2 if given.quick else 5), given.model or usual, given.channels
    )
    started = time.monotonic()
    rows: list[Row] = []
    with scratch() as folder:
        for name in given.only or SECTIONS:
            try:
                for row in SECTIONS[name](options, folder):
                    rows.append(row)
                    print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
            except Exception as error:  # one broken section leaves the others' results
                traceback.print_exc()
                rows.append(Row(name, "broken", float("nan"), "", failed=f"{type(error).__name__}: {error}"))
    seconds = time.monotonic() - started
    print(table(rows))
    print(f"\n{seconds:.0f} s on {device}, {options.rounds} rounds")
    if given.json:
        given.json.write_text(json.dumps(report(rows, options, seconds), indent=1))
    failed = [row for row in rows if row.failed]
    for row in failed:
        print(f"FAILED {row.section}: {row.name} against {row.against}: {row.failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
