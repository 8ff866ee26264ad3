"""Clients that want to take a server down, each with an address of its own: `python -m tests.load.attacks URL`.

127.0.0.2 to 127.0.0.9 are all this machine. Each address is one attacker, with a few threads; every loop ends by
itself. In the end one line of JSON says how many answers of which kind each of them got.
"""

import argparse
import asyncio
import base64
import gzip
import io
import json
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from tests.load.traffic import ROOT, pictures

JSON, FORM = "application/json", "multipart/form-data; boundary=b"
PART = b'--b\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'
LARGEST = 22_000_000  # about what a body may have
PATIENCE_S = 30.0


@dataclass
class Attacker:
    """One address, and what it got for its requests."""

    address: str
    host: str
    port: int
    ends: float
    key: str = ""
    got: Counter[str] = field(default_factory=Counter)

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.ends

    def rest(self, seconds: float) -> None:
        """Wait, but no longer than the attack lasts."""
        time.sleep(max(0.0, min(seconds, self.ends - time.monotonic())))

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(PATIENCE_S)
        connection.bind((self.address, 0))
        connection.connect((self.host, self.port))
        return connection

    def head(self, verb: str, path: str, size: int, kind: str = JSON, *more: str) -> bytes:
        lines = [f"{verb} {path} HTTP/1.1", f"host: {self.host}", "connection: close", *more]
        lines += [f"authorization: Bearer {self.key}"] if self.key else []
        lines += [f"content-type: {kind}", f"content-length: {size}"] if verb == "POST" else []
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    def ask(self, verb: str, path: str, body: bytes = b"", kind: str = JSON, *more: str) -> str:
        """Send a request, take its whole answer, and count its status."""
        found = "refused"
        with suppress(OSError), self.connect() as connection:
            found = "cut"
            with suppress(OSError):  # who is refused early may find the rest of the body unwelcome
                connection.sendall(self.head(verb, path, len(body), kind, *more) + body)
            first = connection.recv(65536)
            found = first[9:12].decode("latin-1") or "cut"
            while connection.recv(1 << 20):
                pass
        self.got[found] += 1
        return found

    def start(self, path: str, fields: dict[str, Any], *more: str, receive_buffer: int = 0) -> socket.socket:
        """Send a request, and leave its answer where it is."""
        body = json.dumps(fields).encode()
        connection = self.connect(receive_buffer)
        connection.sendall(self.head("POST", path, len(body), JSON, *more) + body)
        self.got["begun"] += 1
        return connection


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@cache
def tiny() -> str:
    return base64_of(encoded(Image.new("RGB", (8, 8), "red")))


@cache
def blank() -> bytes:
    """Return 25 megapixels in three kilobytes."""
    return encoded(Image.new("1", (5000, 5000)), optimize=True)


@cache
def large() -> bytes:
    """Return 25 megapixels that are not nothing, as JPEG."""
    noise = Image.frombytes("RGB", (1250, 1250), random.Random(0).randbytes(3 * 1250**2))
    return encoded(noise.resize((5000, 5000), Image.Resampling.BICUBIC), "JPEG", quality=70)


def noise(number: int) -> str:
    return base64_of(encoded(Image.frombytes("RGB", (64, 64), random.Random(number).randbytes(64 * 64 * 3))))


def wide(**more: Any) -> dict[str, Any]:
    """Return a request whose answer would be as large as it may be."""
    params = {"layers": ["blocks.0"] * 16, "channels": [0] * 256}
    return {"image": tiny(), "params": params, "output": {"heatmap": False, "overlay": False}} | more


def long_answer() -> dict[str, Any]:
    params = {"layers": ["blocks.0"], "channels": list(range(16))}
    return {"image": tiny(), "params": params, "output": {"heatmap": False, "overlay": False, "array": "base64"}}


# What costs a loop, by how it is read


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def bodies() -> Iterator[tuple[str, bytes, str]]:
    """Yield bodies that cost much to read, or to refuse: path, body, content type."""
    yield "/predict", _json({f"k{i}": 0 for i in range(200_000)}), JSON
    yield "/explain/occlusion", _json({"image": tiny(), "params": {f"k{i}": 0 for i in range(100_000)}}), JSON
    yield "/predict", _json({"a" * 20_000_000: 1}), JSON
    yield "/explain/grad-cam", _json({"image": tiny(), "params": {"layer": "b" * 20_000_000}}), JSON
    yield "/explain/feature-maps", _json({"image": tiny(), "params": {"layers": ["b" * 1_300_000] * 16}}), JSON
    yield "/explain/grad-cam", _json({"image": tiny(), "targets": [f"{i:0256d}" for i in range(1024)]}), JSON
    yield "/explain/grad-cam", b'{"targets": [' + b"1.5," * 5_000_000 + b"1]}", JSON
    yield "/predict", b'{"image": [' + b"[]," * 7_000_000 + b"0]}", JSON
    yield "/predict", b'{"image": [' + b"{}," * 7_000_000 + b"0]}", JSON
    yield "/predict", b"[" * 10_000_000, JSON
    yield "/predict", _json({"image": "QUJD " * 4_400_000}), JSON
    yield "/predict", b'{"top_k": ' + b"9" * 20_000_000 + b"}", JSON
    yield "/predict", PART + b"\r\n--bx" * (20_000_000 // 6) + b"\r\n--b--\r\n", FORM
    yield "/predict", PART + b"x\r\n--b" + b" " * 20_000_000 + b"\r\n", FORM
    yield "/predict", b"--b\r\n" + b"a: b\r\n" * 3_000_000 + b"\r\nx\r\n--b--\r\n", FORM
    text = b"b" * 100_000 + b"-" + b"a" * 200_000
    part = b'--b\r\ncontent-disposition: form-data; name="request"\r\n\r\n' + text + b"\r\n--b--\r\n"
    yield "/predict", part, FORM + "; charset=punycode"


# Attacks: each is one thread's work until its time is up


def stalls(attacker: Attacker) -> None:
    """Bodies that cost the loop seconds."""
    made = list(bodies())
    while attacker.goes_on:
        for path, body, kind in made:
            if attacker.goes_on:
                attacker.ask("POST", path, body, kind)
                attacker.rest(0.1)


def wide_answers(attacker: Attacker) -> None:
    """Answers of hundreds of megabytes, and pictures of 25 megapixels drawn sixteen times."""
    original = {"targets": list(range(16)), "output": {"size": "original", "array": "none"}, "timeout_s": 20}
    drawn = _json({"image": base64_of(large())} | original)
    grids = _json(wide(output={"array": "none"}))
    while attacker.goes_on:
        attacker.ask("POST", "/explain/feature-maps", _json(wide()))
        attacker.ask("POST", "/explain/feature-maps", grids)
        attacker.ask("POST", "/explain/grad-cam", drawn)
        attacker.rest(0.1)


def pixels(attacker: Attacker) -> None:
    """Pictures of three kilobytes and 25 megapixels."""
    body = _json({"image": base64_of(blank()), "params": {"smooth_samples": 20}, "output": {"array": "none"}})
    predicted = _json({"image": base64_of(blank()), "timeout_s": 20})
    while attacker.goes_on:
        attacker.ask("POST", "/explain/saliency", body)
        attacker.ask("POST", "/predict", predicted)
        attacker.rest(0.02)


def unread(attacker: Attacker) -> None:
    """Answers that are never taken, or a byte at a time."""
    held: list[socket.socket] = []
    while attacker.goes_on:
        with suppress(OSError):
            accept = ("accept: text/event-stream",) if len(held) % 2 else ()
            held.append(attacker.start("/explain/feature-maps", long_answer(), *accept, receive_buffer=4096))
        for connection in held[::3]:
            connection.settimeout(0.001)
            with suppress(OSError):
                connection.recv(1)
        if len(held) > 150:
            held.pop(0).close()
        attacker.rest(0.1)
    for connection in held:
        connection.close()


def slow(attacker: Attacker) -> None:
    """Heads that drip, connections that are silent, and bodies that hold back their last bytes."""
    held: list[socket.socket] = []
    filler = b" " * (LARGEST - 100_000)
    while attacker.goes_on:
        with suppress(OSError):
            for _ in range(5):
                silent, dripping = attacker.connect(), attacker.connect()
                dripping.sendall(b"GET /health/live HTTP/1.1\r\nhost: h\r\nx-slow: ")
                held += [silent, dripping]
            body = attacker.connect()
            held.append(body)
            body.sendall(attacker.head("POST", "/predict", len(filler) + 10) + filler)
            attacker.got["begun"] += 11
        for connection in held[::7]:
            connection.settimeout(0.01)
            with suppress(OSError):
                connection.sendall(b"a")
        while len(held) > 600:
            held.pop(0).close()
        attacker.rest(0.5)
    for connection in held:
        connection.close()


def greedy(attacker: Attacker) -> None:
    """All that may wait, at the highest priority."""
    held: list[socket.socket] = []
    number = 0
    while attacker.goes_on:
        number += 1
        fields = {"image": noise(number), "priority": 10, "params": {"window": 32, "stride": 4}, "timeout_s": 86400}
        attacker.ask("POST", "/explain/occlusion", _json(fields | {"timeout_s": 1}))
        with suppress(OSError):
            held.append(attacker.start("/explain/occlusion", fields | {"priority": 0}))
        if len(held) > 40:
            held.pop(0).close()
        attacker.rest(0.2)
    for connection in held:
        connection.close()


def impatient(attacker: Attacker) -> None:
    """Deadlines of a millisecond, which must shorten nobody's patience but their own."""
    body = _json({"image": "", "timeout_s": 0.001})
    while attacker.goes_on:
        attacker.ask("POST", "/predict", body)
        attacker.rest(0.02)


def gone(attacker: Attacker) -> None:
    """Callers who hang up at every stage."""
    rng = random.Random(threading.get_ident())
    asked = ("/explain/occlusion", "/explain/score-cam", "/explain/saliency", "/predict")
    shown = [base64_of(picture) for picture in pictures()]
    while attacker.goes_on:
        number = rng.randrange(1000)
        path = asked[number % len(asked)]
        body = _json({"image": rng.choice(shown)})
        accept = ("accept: text/event-stream",) if number % 3 == 0 and path != "/predict" else ()
        data = attacker.head("POST", path, len(body), JSON, *accept) + body
        with suppress(OSError), attacker.connect() as connection:
            connection.sendall(data[: rng.randrange(10, len(data))] if number % 4 == 0 else data)
            attacker.rest(rng.uniform(0, 0.2))
            if number % 3 == 0:  # a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            attacker.got["hung up"] += 1


def probes(attacker: Attacker) -> None:
    """Health, metrics and lists, all the time; and names that are nearly right."""
    rng = random.Random(threading.get_ident())
    misspelt = _json({"image": tiny(), "params": {"layer": "blokcs.10.0"}})
    label = _json({"image": tiny(), "targets": ["tiger catt"]})
    while attacker.goes_on:
        path = rng.choice(("/health/ready", "/health/ready?model=*", "/metrics", "/methods", "/models", "/nothing"))
        attacker.ask("GET", path)
        attacker.ask("POST", "/explain/grad-cam", rng.choice((misspelt, label)))
        attacker.rest(0.01)


def garbled(attacker: Attacker) -> None:
    """What is no HTTP."""
    cases = (
        b"GET / HTTP/2.0\r\nhost: h\r\n\r\n",
        b"\x16\x03\x01\x02\x00" * 40,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n",
        b"GET /models HTTP/1.1\r\nhost: h\r\n" + b"x: y\r\n" * 9000 + b"\r\n",
        b"GET /models HTTP/1.1\r\nhost: h\r\n\r\n" * 200,
    )
    while attacker.goes_on:
        for data in cases:
            with suppress(OSError), attacker.connect() as connection:
                connection.sendall(data)
                connection.settimeout(1)
                found = connection.recv(65536)[9:12].decode("latin-1") or "cut"
                attacker.got[found] += 1
        attacker.rest(0.1)


def crumbs(attacker: Attacker) -> None:
    """Bodies, trailers and heads of next to nothing, again and again."""

    def head(path: str, *more: str) -> bytes:
        return attacker.head("GET", path, 0, JSON, *more).replace(b"connection: close\r\n", b"")

    def post(path: str, *more: str) -> bytes:
        return head(path, f"content-type: {JSON}", "transfer-encoding: chunked", *more).replace(b"GET", b"POST", 1)

    members = gzip.compress(b"") * 3000
    packed = b"%x\r\n%s\r\n" % (len(members), members)
    cases = (
        (post("/predict", "content-encoding: gzip"), packed),
        (post("/predict"), b"1\r\na\r\n" * 10_000),
        (post("/nothing"), b"1\r\na\r\n" * 10_000),
        (post("/predict") + b"0\r\n", b"a:\r\n" * 15_000),
        (head("/models"), head("/models")[:-2] + b"a:\r\n" * 15_000 + b"\r\n"),
    )
    while attacker.goes_on:
        for first, again in cases:
            with suppress(OSError), attacker.connect() as connection:
                connection.settimeout(1)
                with suppress(OSError):  # it is refused meanwhile
                    connection.sendall(first)
                    for _ in range(100):
                        if attacker.goes_on:
                            connection.sendall(again)
                found = connection.recv(65536)[9:12].decode("latin-1") or "cut"
                attacker.got[found] += 1


def refused(attacker: Attacker) -> None:
    """Bodies that go on a byte at a time after their request was refused."""
    held: list[socket.socket] = []
    while attacker.goes_on:
        with suppress(OSError):
            connection = attacker.connect()
            head = attacker.head("POST", "/nothing", 10**9).replace(b"connection: close\r\n", b"")
            connection.sendall(head)
            attacker.got[connection.recv(65536)[9:12].decode("latin-1") or "cut"] += 1
            held.append(connection)
        for connection in list(held):
            try:
                connection.sendall(b"a")
            except OSError:
                attacker.got["let go"] += 1
                held.remove(connection)
        attacker.rest(0.02)
    for connection in held:
        connection.close()


# Addresses: what each does, and in how many threads
ATTACKS: dict[str, tuple[str, tuple[tuple[Callable[[Attacker], None], int], ...]]] = {
    "stalls": ("127.0.0.2", ((stalls, 2), (crumbs, 4))),
    "answers": ("127.0.0.3", ((wide_answers, 4),)),
    "pixels": ("127.0.0.4", ((pixels, 32),)),
    "unread": ("127.0.0.5", ((unread, 2),)),
    "slow": ("127.0.0.6", ((slow, 2), (garbled, 2), (refused, 2))),
    "greedy": ("127.0.0.7", ((greedy, 2), (impatient, 4))),
    "gone": ("127.0.0.8", ((gone, 20),)),
    "probes": ("127.0.0.9", ((probes, 16),)),
}


def run(url: str, seconds: float, key: str = "", names: tuple[str, ...] = ()) -> dict[str, dict[str, int]]:
    """Attack for a while, all at once; return what came of it."""
    place = urlsplit(url)
    attackers, threads = {}, []
    for name in names or tuple(ATTACKS):
        address, works = ATTACKS[name]
        attacker = Attacker(address, place.hostname or "", place.port or 80, time.monotonic() + seconds, key)
        attackers[name] = attacker
        for work, count in works:
            threads += [threading.Thread(target=work, args=(attacker,), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 2 * PATIENCE_S)
    return {name: dict(attacker.got) for name, attacker in attackers.items()}


class attacking:  # noqa: N801 - reads as what it does
    """Runs the attackers in a process of their own, as what they do must not slow those who measure."""

    def __init__(self, url: str, seconds: float, only: Sequence[str] = ()) -> None:
        key = os.environ.get("HEATLENS_SIEGE_KEY", "")
        self.command = [sys.executable, "-m", "tests.load.attacks", url, "--seconds", str(seconds), "--key", key]
        self.command += ["--only", *only] if only else []

    async def __aenter__(self) -> "asyncio.Task[dict[str, dict[str, int]]]":
        self.process = await asyncio.create_subprocess_exec(*self.command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        return asyncio.create_task(self._told())

    async def _told(self) -> dict[str, dict[str, int]]:
        said, _ = await self.process.communicate()
        return dict(json.loads(said)) if said else {}

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


def main() -> None:
    """Run, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.attacks")
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--key", default="")
    parser.add_argument("--only", nargs="*", default=(), choices=ATTACKS)
    options = parser.parse_args()
    host = urlsplit(options.url).hostname or ""
    if not host.startswith("127."):
        sys.exit("only a server of this machine, on 127.0.0.1, is attacked")
    print(json.dumps(run(options.url, options.seconds, options.key, tuple(options.only))), flush=True)


if __name__ == "__main__":
    main()
