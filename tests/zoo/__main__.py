"""The whole zoo: `python -m tests.zoo [--only PATTERN] [--shard I/N] [--json FILE] [--budget SECONDS]`.

Each of the library classifiers is loaded by its source with no other key, in a process of its own, and held against its
library (task, labels, input, outputs), an expert's layer, and the truth of every method that applies (of those of
`holding.TRIED`, or of `--methods`); of each that is refused the reason is held against what is true. With `--json` what
is done is kept and not done again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from tests.zoo.networks import LIBRARIES, ZOO

MARKS = {"=": "right", "0": "right and zero", "-": "refused", ".": "not asked", "!": "wrong", "x": "refused falsely"}


def child(network: str, folder: str, budget_s: float, methods: str | None, back: Connection) -> None:
    """Hold one network, and send back what came of it."""
    from tests.zoo.holding import Found, held

    try:
        found = held(ZOO[network], Path(folder), budget_s, methods)
    except Exception as error:
        found = Found(network, faults=[f"{type(error).__name__}: {str(error)[:500]}"])
    back.send(found.as_json())


def tried(network: str, folder: str, options: argparse.Namespace) -> dict[str, object]:
    """Return what came of one network, in a process of its own that has its time."""
    processes = multiprocessing.get_context("forkserver")
    here, there = processes.Pipe(duplex=False)
    process = processes.Process(target=child, args=(network, folder, options.budget, options.methods, there))
    process.start()
    there.close()
    try:
        if here.poll(options.limit):
            found: dict[str, object] = here.recv()
            return found
        fault = f"it took more than {options.limit:g} s"
    except EOFError:
        process.join()
        fault = f"its process ended with {process.exitcode}"
    finally:
        if process.is_alive():
            process.join(10)
            process.kill()
    from tests.zoo.holding import Found

    return Found(network, faults=[fault]).as_json()


def main(arguments: Sequence[str] | None = None) -> None:
    """Try networks, print a line for each and the table; exit with 1 where there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression over LIBRARY/NAME")
    parser.add_argument("--methods", help="a regular expression over methods; default: those tried on the whole zoo")
    parser.add_argument("--shard", default="1/1", help="the I-th of N parts, such as 2/8")
    parser.add_argument("--json", type=Path, help="where to keep what came of it; networks in there are done")
    parser.add_argument("--budget", type=float, default=12.0, help="seconds of a method and its oracle, at most")
    parser.add_argument("--limit", type=float, default=280.0, help="seconds of a network, at most")
    parser.add_argument("--table", action="store_true", help="print the table of what is done, and try nothing")
    options = parser.parse_args(arguments)
    part, parts = map(int, options.shard.split("/"))
    wanted = [name for name in ZOO if re.search(options.only, name)][part - 1 :: parts]
    done = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.zoo.holding", "timm", "transformers"])
    folder = (options.json.resolve().parent / "folders") if options.json else Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    for name in wanted:
        if name in done or options.table:
            continue
        found = done[name] = tried(name, str(folder), options)
        if options.json:
            options.json.write_text(json.dumps(done, indent=1))
        print(line(name, found), flush=True)
        for fault in found["faults"]:
            print(f"    {fault}", flush=True)
    rows = {name: done[name] for name in wanted if name in done}
    print(table(rows))
    sys.exit(any(found["faults"] for found in rows.values()))


def line(name: str, found: dict) -> str:
    """Return a network's line: its default layer, and a mark for each method in the order of the registry."""
    marks = "".join(answer["mark"] for answer in found["methods"].values())
    layer = f"{found['layer']} {found['layout']} {found['shape']}"
    return f"{name:45} {layer:60} {marks}  load {found['load_s'] or 0:.1f} s, all {found['seconds']:.1f} s"


def table(rows: dict[str, dict]) -> str:
    """Return the counts by library, and each network's row."""
    text = ["", "| library | networks | loaded | right layer | methods right | refused | not asked | faults | s |"]
    text.append("| --- " * 9 + "|")
    for library in LIBRARIES:
        own = [found for name, found in rows.items() if name.startswith(f"{library}/")]
        marks = "".join(answer["mark"] for found in own for answer in found["methods"].values())
        cells = [
            library,
            len(own),
            sum(found["load_s"] is not None for found in own),
            sum(found["right_layer"] for found in own),
            marks.count("=") + marks.count("0"),
            marks.count("-"),
            marks.count("."),
            sum(len(found["faults"]) for found in own),
            round(sum(found["seconds"] for found in own)),
        ]
        text.append("| " + " | ".join(map(str, cells)) + " |")
    methods = next((list(found["methods"]) for found in rows.values() if found["methods"]), [])
    legend = ", ".join(f"`{mark}` {word}" for mark, word in MARKS.items())
    text += ["", f"Marks in the order {' '.join(methods)}: {legend}, `E` failed.", ""]
    text += ["| network | task | default layer | layout | maps | marks | load s | s |", "| --- " * 8 + "|"]
    for name, found in rows.items():
        marks = "".join(answer["mark"] for answer in found["methods"].values())
        shape = " x ".join(map(str, found["shape"]))
        text.append(
            f"| {name} | {found['task']} | {found['layer']} | {found['layout']} | {shape} | `{marks}` | "
            f"{found['load_s'] or 0:.1f} | {found['seconds']:.0f} |"
        )
    return "\n".join(text)


if __name__ == "__main__":
    from tests.zoo import __main__ as module  # children import it by its name

    module.main()
