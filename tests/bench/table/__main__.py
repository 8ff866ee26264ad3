"""What a server promises, held against others in one run: `python -m tests.bench.table [ROW ...]`.

Each row is measured on its own, in a few minutes on a quiet machine; a shared one can be read by the ratios of
processor time. The runtimes' packages are found where they are installed, or in the folder that `--extras` names
(`pip install --target FOLDER onnxruntime onnx onnxscript openvino`). `--other` names a work tree of the version that
start to ready is held against.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from tests.bench.measure import machine
from tests.bench.subject import EMBEDDED, scratch
from tests.bench.table import codec, peers, sharing, starting
from tests.bench.table import machine as rows
from tests.bench.table.line import HEAD, Asked, Line

ROWS: Mapping[str, Callable[[Asked], Iterator[Line]]] = {
    "score-cam-fresh": partial(peers.race, name=EMBEDDED, method="score-cam", aim=1.3, fresh=True),
    "score-cam-fresh-resnet18": partial(peers.race, name="resnet18", method="score-cam", aim=1.15, fresh=True),
    "score-cam-settled": partial(peers.race, name=EMBEDDED, method="score-cam", aim=1.4, fresh=False),
    "score-cam-settled-runtime": partial(
        peers.race, name=EMBEDDED, method="score-cam", aim=1.9, fresh=False, extras=True
    ),
    "savings": peers.savings,
    "occlusion-fresh": partial(peers.race, name=EMBEDDED, method="occlusion", aim=2.5, fresh=True),
    "occlusion-fresh-resnet18": partial(peers.race, name="resnet18", method="occlusion", aim=2, fresh=True),
    "occlusion-settled": partial(peers.race, name=EMBEDDED, method="occlusion", aim=3.5, fresh=False),
    "clients": rows.clients,
    "vgg16": rows.vgg16,
    "predictions": sharing.predictions,
    "measuring": sharing.measuring,
    "certified": rows.certified,
    "grad-cam": sharing.grad_cam,
    "codec-lock": codec.lock,
    "codec-same": codec.same,
    "jobs": sharing.jobs,
    "waiting": sharing.waiting,
    "ready": starting.ready,
    "commands": starting.commands,
}


def _where() -> str:
    found = machine(torch.device("cpu"))
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    instructions = torch.backends.cpu.get_cpu_capability() + (
        ", AMX" if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else ""
    )
    return (
        f"{found['device_name']}, {instructions}; {found['cpus']} cores, {found['threads']} threads, load {load}; "
        f"torch {found['torch']}, grad-cam {found['grad-cam']}, torch-cam {found['torchcam']}, captum {found['captum']}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 where an aim is missed or a row broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.table", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: all of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, help="of each row (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a tiny network, one round: a check of the instrument")
    parser.add_argument("--extras", type=Path, metavar="FOLDER", help="packages of the runtimes")
    parser.add_argument("--other", type=Path, metavar="CHECKOUT", help="a work tree of another version")
    parser.add_argument("--channels", type=int, metavar="N", help="race Score-CAM on a layer of at most N channels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements here")
    given = parser.parse_args(arguments)
    if unknown := set(given.rows) - ROWS.keys():
        parser.error(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    rounds = given.rounds or (1 if given.quick else 3)
    lines: list[Line] = []
    broken: list[str] = []
    print(f"{_where()}\n\n{HEAD}", flush=True)
    with scratch() as folder:
        asked = Asked(
            folder,
            rounds,
            given.quick,
            given.extras.resolve() if given.extras else None,
            given.channels,
            given.other.resolve() if given.other else None,
        )
        for name in given.rows or ROWS:
            began = time.monotonic()
            try:
                for line in ROWS[name](asked):
                    lines.append(line)
                    print(line, flush=True)
            except Exception as error:  # one broken row leaves the others' results
                traceback.print_exc()
                broken.append(name)
                print(f"| {name} | | | broken: {error} | | | **no** |", flush=True)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    if given.json:
        found = [vars(line) | {"ratio": line.ratio, "met": line.met} for line in lines]
        given.json.write_text(json.dumps({"machine": _where(), "rows": found}, indent=1, default=str))
    return int(bool(broken) or any(line.met is False for line in lines))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end, too
    sys.exit(main())
