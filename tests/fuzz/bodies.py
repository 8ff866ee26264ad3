"""Fuzz of request bodies, against the whole application: `python -m tests.fuzz.bodies --cases 100000 [--seed N]`.

Each case follows from the seed and its number alone: `--first 4711 --cases 1` makes that one again. A body is a request
that is right, as JSON or as a form, with a few things changed: values, names, depth, bytes, parts, types, and where it
is cut on its way. Whatever it is, the answer is no 5xx but one that is an answer (503, 504), an error is a problem
document of bounded length, and nothing takes long on the loop.
"""

import argparse
import asyncio
import base64
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.conftest import CATALOG
from tests.fuzz.schema import MODELS, PICTURE

LONGEST = 64 * 1024  # bytes of an error: what was sent comes back in small pieces only
PATIENCE_S = 20.0
PATHS = ("/predict", "/explain/grad-cam", "/explain/occlusion", "/explain/feature-maps", "/explain/saliency")
WORDS = (
    "",
    "a",
    "image",
    "tiny",
    "relu2",
    "\0",
    "\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -0.0, 1e-300, 1e308, 0.1),
    *([], {}, [[]], [None], {"": None}, "0", "NaN", "../../etc/passwd", "é" * 300, "x" * 5000, *WORDS),
)
RAW = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b'"\\ud800"',
    b"tru",
    b"{",
    b"]",
    b",",
    b"\xff",
    b"\0",
    b"[" * 3000,
    b'{"a":' * 900,
)
FIELDS = {
    "model": MODELS[0],
    "targets": [0, "apple"],
    "timeout_s": 5,
    "precision": "fp32",
    "priority": 0,
    "output": {"array": "none", "heatmap": False},
    "params": {"layer": "relu2"},
}
TYPES = (
    *("application/json", "application/json; charset=utf-8", "application/json; charset=punycode", "text/plain", ""),
    *("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=b; charset=idna"),
    *("multipart/form-data; boundary=" + "q" * 300, 'multipart/form-data; boundary="b"', "application/JSON;;;"),
)


def _value(value: Any, rng: random.Random) -> Any:
    """Change something somewhere in a value."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        change = rng.randrange(5)
        if change == 0:
            return {**value, rng.choice((*value, *WORDS, name + "s", name.upper())): rng.choice(ODD)}
        if change == 1:
            return {key: one for key, one in value.items() if key != name}
        return {**value, name: _value(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return [*value[:at], *([_value(value[at], rng)] * rng.choice((1, 1, 2, 50))), *value[at + 1 :]]
    return rng.choice(ODD)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Change bytes, wherever they are."""
    at = rng.randrange(len(data) + 1)
    change = rng.randrange(5)
    if change == 0:
        return data[:at]
    if change == 1:
        return data[:at] + rng.choice(RAW) + data[at:]
    if change == 2:
        return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at + rng.randrange(9) :]
    if change == 3:
        end = min(len(data), at + rng.randrange(1, 200))
        return data[:end] + data[at:end] * rng.choice((1, 3, 100)) + data[end:]
    return data[at:] + data[:at]


def _form(parts: list[tuple[str, bytes]], rng: random.Random) -> bytes:
    """Return a form of parts, each a head and its content; some of them twice, or with a head that is odd."""
    if rng.random() < 0.3:
        parts = [*parts, rng.choice(parts)]
    heads = {
        "odd": "content-type: image/\xff",
        "long": "x" * 9000 + ": y",
        "none": "",
        "twice": 'content-disposition: form-data; name="image"',
    }
    text = b""
    for head, content in parts:
        more = f"\r\n{rng.choice(list(heads.values()))}" if rng.random() < 0.1 else ""
        text += (
            b"--b\r\n"
            + f"content-disposition: form-data; {head}{more}".encode("latin-1")
            + b"\r\n\r\n"
            + content
            + b"\r\n"
        )
    return text + rng.choice((b"--b--\r\n", b"--b--\r\n", b"--b", b"", b"--b--\r\nepilogue"))


def make(seed: int, number: int) -> tuple[str, str, bytes, random.Random]:
    """Return a case: path, content type, body, and what decides how the body is cut."""
    rng = random.Random(f"{seed} {number}")
    fields: Any = {name: FIELDS[name] for name in rng.sample(list(FIELDS), rng.randrange(len(FIELDS)))}
    picture = PICTURE if rng.random() < 0.9 else rng.choice((b"", PICTURE[:40], b"GIF89a", rng.randbytes(60)))
    kind = "application/json"
    if rng.random() < 0.5:
        fields["image"] = base64.b64encode(picture).decode()
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            fields = _value(fields, rng)
        body = json.dumps(fields).encode()
    else:
        for _ in range(rng.choice((0, 1, 1, 2))):
            fields = _value(fields, rng)
        request = json.dumps(fields).encode()
        name = rng.choice(("image", "image", "image", "request", "picture", "", 'a"b'))
        body = _form([(f'name="{name}"; filename="a"', picture), ('name="request"', request)], rng)
        kind = "multipart/form-data; boundary=b"
    for _ in range(rng.choice((0, 0, 0, 1, 1, 3))):
        body = _bytes(body, rng)
    return rng.choice(PATHS), rng.choice(TYPES) if rng.random() < 0.1 else kind, body, rng


@dataclass
class Tally:
    """What a number of cases came to."""

    statuses: Counter[int] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)
    failures: list[str] = field(default_factory=list)

    def table(self) -> str:
        rows = [", ".join(f"{status}: {count:,}" for status, count in sorted(self.statuses.items()))]
        rows += [f"{self.statuses.total():,} cases, {len(self.failures)} failures"]
        rows += [f"slowest: {self.slowest[0]:.2f} s, case {self.slowest[1]}"]
        return "\n".join([*rows, *(f"FAILED {failure}" for failure in self.failures[:50])])


async def _ask(app: FastAPI, number: int, seed: int, tally: Tally) -> None:
    """Send one case, in pieces, and judge its answer."""
    path, kind, body, rng = make(seed, number)
    cuts = sorted({0, len(body), *(rng.randrange(len(body) + 1) for _ in range(rng.choice((0, 0, 1, 4))))})
    pieces = [body[i:j] for i, j in pairwise(cuts)] or [b""]
    sent = iter([{"type": "http.request", "body": p, "more_body": i + 1 < len(pieces)} for i, p in enumerate(pieces)])
    gone = asyncio.Event()
    status, headers, answer = 0, {}, b""

    async def receive() -> Any:
        for message in sent:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status, headers, answer
        if message["type"] == "http.response.start":
            status, headers = message["status"], dict(message["headers"])
        else:
            answer += message.get("body", b"")

    head = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode()), (b"accept", b"application/json")]
    head += [(b"content-type", kind.encode("latin-1"))] if kind else []
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": head, "client": ("127.0.0.1", 1), "server": ("localhost", 80), "state": {},
    }  # fmt: skip
    started = time.monotonic()
    said = f"case {number} of seed {seed}"
    try:
        await asyncio.wait_for(app(scope, receive, send), 3 * PATIENCE_S)
    except Exception as error:
        tally.failures.append(f"{said}: {error!r}")
    tally.slowest = max(tally.slowest, (time.monotonic() - started, number))
    tally.statuses[status] += 1
    if status >= 500 and status not in (503, 504):
        tally.failures.append(f"{said}: {status} {answer[:300]!r}")
    if status >= 400:
        if len(answer) > LONGEST:
            tally.failures.append(f"{said}: an error of {len(answer):,} bytes")
        if headers.get(b"content-type") != b"application/problem+json" or json.loads(answer)["status"] != status:
            tally.failures.append(f"{said}: {status} is no problem document")


async def _run(cases: range, seed: int, at_once: int) -> Tally:
    tally, numbers = Tally(), iter(cases)
    app = create_app(Settings(catalog=CATALOG, device="cpu", default_timeout_s=PATIENCE_S))

    async def client() -> None:
        for number in numbers:
            await _ask(app, number, seed, tally)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        settled: Callable[[], bool] = app.state.context.store.wait
        await asyncio.to_thread(settled)
        await asyncio.gather(*(client() for _ in range(at_once)))
    return tally


def fuzz(cases: int, *, seed: int = 0, first: int = 0, at_once: int = 8) -> Tally:
    """Run so many cases, some of them at a time."""
    return asyncio.run(_run(range(first, first + cases), seed, at_once))


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.bodies", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    tally = fuzz(options.cases, seed=options.seed, first=options.first)
    print(tally.table())
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
