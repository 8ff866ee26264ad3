"""Byte-level fuzz of decoding: `python -m tests.fuzz.images --inputs 100000 [--seed N] [--minutes M]`.

Each input follows from the seed and its number alone: `--first 4711 --inputs 1` makes that one again. They are decoded
in a process of their own, so that a crash, a hang or much memory is a finding and not the end.
"""

import argparse
import itertools
import random
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context

from service.errors import ServiceError
from service.images import Transform, decode, prepare
from service.settings import Settings
from tests.fuzz.corpus import HOSTILE, SIGNATURE, seeds

TRANSFORM = Transform(256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MAX_S, MAX_MIB = 1.5, 700  # CPU seconds of one input, and memory beyond what the process has before
CHUNK, HANG_S = 500, 120
FIELDS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15 - 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(min(len(data), rng.choice((64, 512, len(data)))))
        data[at] ^= 1 << rng.randrange(8)
    return data


def _overwrite(data: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(data))
    data[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
    return data


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def _splice(data: bytearray, rng: random.Random) -> bytearray:
    other = rng.choice(list(seeds().values())) or b"\0"
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _field(data: bytearray, rng: random.Random) -> bytearray:
    at, kind = rng.randrange(min(len(data), rng.choice((64, 512, len(data))))), rng.choice(("<H", ">H", "<I", ">I"))
    limit = 2 ** (8 * struct.calcsize(kind))
    data[at : at + struct.calcsize(kind)] = struct.pack(kind, rng.choice(FIELDS) % limit)
    return data


def _chunks(data: bytes) -> list[tuple[int, int]]:
    """Return where the parts of a file begin and end, as far as its format is known here; else a grid."""
    found, at = [], 8
    if data.startswith(SIGNATURE):
        while at + 12 <= len(data):
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            found.append((at, min(end, len(data))))
            at = end
    elif data.startswith(b"\xff\xd8"):
        marks = [i for i in range(2, len(data) - 1) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)]
        found = list(itertools.pairwise([*marks, len(data)]))
    elif data.startswith(b"RIFF"):
        at = 12
        while at + 8 <= len(data):
            end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            found.append((at, min(end, len(data))))
            at = end + end % 2
    return found or [(i, min(i + 16, len(data))) for i in range(0, len(data), 16)]


def _repeat(data: bytearray, rng: random.Random) -> bytearray:
    start, end = rng.choice(_chunks(data))
    part = data[start:end] * rng.choice((1, 1, 2, 50))
    at = rng.choice(_chunks(data))[0]
    return data[:at] + part + data[at:]


def _drop(data: bytearray, rng: random.Random) -> bytearray:
    start, end = rng.choice(_chunks(data))
    return data[:start] + data[end:]


MUTATIONS = (_flip, _flip, _flip, _overwrite, _cut, _splice, _field, _field, _repeat, _drop)


def _mend(data: bytearray) -> bytearray:
    """Make a PNG's checksums right, so that what was changed is read."""
    if data.startswith(SIGNATURE):
        for start, end in _chunks(data):
            if end - start >= 12:
                data[end - 4 : end] = struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))
    return data


def make(seed: int, number: int) -> tuple[str, bytes]:
    """Return an input and what it is."""
    whole = list(seeds().items())
    if number < len(whole):
        return whole[number]
    rng = random.Random(f"{seed} {number}")
    name, start = rng.choice(whole)
    data, done = bytearray(start or b"\0"), []
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        mutation = rng.choice(MUTATIONS)
        data = mutation(data, rng) or bytearray(b"\0")
        done.append(mutation.__name__.strip("_"))
    return f"{name}: {', '.join(done)}", bytes(_mend(data) if rng.random() < 0.7 else data)


@dataclass
class Tally:
    """What a number of inputs came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    peak_mib: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.outcomes += other.outcomes
        self.slowest = max(self.slowest, other.slowest)
        self.peak_mib = max(self.peak_mib, other.peak_mib)
        self.failures += other.failures

    def table(self) -> str:
        rows = [f"{name:<28}{count:>9,}" for name, count in self.outcomes.most_common()]
        rows.append(f"{'inputs':<28}{self.outcomes.total():>9,}")
        rows.append(f"{'slowest':<28}{self.slowest[0]:>8.3f} s  {self.slowest[1]}")
        rows.append(f"{'peak memory':<28}{self.peak_mib:>7,.0f} MiB beyond the idle process")
        rows += [f"FAILED {failure}" for failure in self.failures]
        return "\n".join(rows)


def _status_mib(name: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def judge(name: str, data: bytes, tally: Tally, max_s: float) -> None:
    """Decode and prepare one input."""
    limits = Settings.model_fields
    started = time.thread_time()
    try:
        picture = decode(
            data, max_bytes=limits["max_image_bytes"].default, max_pixels=limits["max_image_pixels"].default
        )
        seen = prepare(picture, TRANSFORM).seen
        outcome = "decoded"
        if (picture.mode, seen.mode, seen.size) != ("RGB", "RGB", (224, 224)):
            tally.failures.append(f"{name}: {picture.mode} {picture.size}, seen as {seen.mode} {seen.size}")
    except ServiceError as error:
        outcome = f"{type(error).__name__} {error.status}"
        if error.status >= 500:
            tally.failures.append(f"{name}: {error!r}")
    except Exception as error:
        outcome = f"defect {type(error).__name__}"
        tally.failures.append(f"{name}: {error!r}")
    seconds = time.thread_time() - started
    tally.outcomes[outcome] += 1
    tally.slowest = max(tally.slowest, (seconds, name))
    if seconds > max_s:
        tally.failures.append(f"{name}: {seconds:.2f} s")


def _work(seed: int, numbers: range, hostile: str | None, max_s: float) -> Tally:
    unbounded = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (unbounded, unbounded))  # for what makes the inputs; judged they are below
    inputs = [(hostile, HOSTILE[hostile]())] if hostile is not None else []
    inputs += [(f"{number} ({name})", data) for number in numbers for name, data in [make(seed, number)]]
    tally = Tally()
    judge("", seeds()["PNG RGB"], Tally(), max_s)  # the first one imports
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # begin to look for the peak here
    before = _status_mib("VmRSS")
    # What a picture asks for beyond that is refused by the system, as a container would end the process for it.
    bound = int((_status_mib("VmData") + MAX_MIB) * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, unbounded))
    for name, data in inputs:
        judge(name, data, tally, max_s)
    tally.peak_mib = _status_mib("VmHWM") - before
    if tally.peak_mib > MAX_MIB:
        tally.failures.append(f"{hostile or numbers}: {tally.peak_mib:,.0f} MiB")
    return tally


def fuzz(
    inputs: int,
    *,
    seed: int = 0,
    first: int = 0,
    minutes: float = 1e9,
    hostile: list[str] | None = None,
    max_s: float = MAX_S,
    show: bool = False,
) -> Tally:
    """Run made files and mutated ones in a child process."""
    ends, tally = time.monotonic() + minutes * 60, Tally()
    tasks: list[tuple[range, str | None]] = [(range(0), name) for name in hostile or ()]
    tasks += [(range(i, min(i + CHUNK, first + inputs)), None) for i in range(first, first + inputs, CHUNK)]
    pool = None
    for numbers, name in tasks:
        if time.monotonic() > ends:
            break
        if pool is None:
            pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            found = pool.submit(_work, seed, numbers, name, max_s).result(HANG_S)
        except (TimeoutError, BrokenProcessPool) as error:
            found = Tally(failures=[f"{name or numbers}: {type(error).__name__}"])
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool = None
        if show and name is not None:
            outcome = next(iter(found.outcomes), "lost")
            print(f"{name:<34}{outcome:<28}{found.slowest[0]:>7.3f} s{found.peak_mib:>7.0f} MiB", flush=True)
        tally.add(found)
    if pool is not None:
        pool.shutdown()
    return tally


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.images", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--no-hostile", action="store_true", help="leave out the large files made to hurt")
    options = parser.parse_args()
    tally = fuzz(
        options.inputs,
        seed=options.seed,
        first=options.first,
        minutes=options.minutes,
        hostile=[] if options.no_hostile else list(HOSTILE),
        show=True,
    )
    print(tally.table())
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
