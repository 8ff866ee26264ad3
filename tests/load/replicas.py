"""Replicas behind HAProxy, for real: `python -m tests.load.replicas`; needs the program `haproxy`.

Two servers on the small networks behind `docker/haproxy.cfg`, of which only the names that Docker gives are replaced.
What is asked again of a picture goes where it is known; a server that is killed is done without, and taken again when
it is back; one that is told to stop gives up none of what it has begun.
"""

import argparse
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image

from service.client import Client
from tests.conftest import CATALOG, encoded
from tests.house import ROOT
from tests.load.traffic import Server, meanwhile, serving

TINY = ("--catalog", str(CATALOG), "--device", "cpu")
PICTURES = [
    encoded(Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 61, 3), np.uint8))) for i in range(16)
]


def configuration(port: int, servers: list[str]) -> str:
    """Return the file that the image has, with ports of this machine."""
    text = (ROOT / "docker" / "haproxy.cfg").read_text("utf-8")
    text = re.sub(r"resolvers containers\n(    .*\n)+", "", text).replace("bind :8000", f"bind 127.0.0.1:{port}")
    line = next(line for line in text.splitlines() if "server-template" in line)
    check = re.search(r"check .*? rise \d+", line)
    assert check, line
    named = [f"    server heatlens-{i} {url} {check.group()}" for i, url in enumerate(servers)]
    return text.replace(line, "\n".join(named))


@contextmanager
def proxy(servers: list[Server]) -> Iterator[str]:
    """Run HAProxy before servers until the block ends; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "haproxy.cfg")
        file.write_text(configuration(port, [urlsplit(one.url).netloc for one in servers]))
        subprocess.run(["haproxy", "-c", "-f", str(file)], check=True, stdout=subprocess.DEVNULL)
        process = subprocess.Popen(["haproxy", "-f", str(file)], stdout=subprocess.DEVNULL)
        try:
            _until(lambda: httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _until(reached: Callable[[], bool], patience_s: float = 90) -> float:
    begun = time.monotonic()
    while time.monotonic() - begun < patience_s:
        try:
            if reached():
                return time.monotonic() - begun
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("it does not come to that")


def affinity(address: str) -> list[str]:
    """What is asked again of a picture is known where it is asked."""
    with Client(address) as client:
        found = [
            [client.explain("occlusion", p, window=8, stride=4, targets=[t]).usage.cache for p in PICTURES]
            for t in (0, 1)
        ]
    hits = found[1].count("hit")
    print(f"affinity: {hits} of {len(PICTURES)} hits", flush=True)
    return [] if hits == len(PICTURES) else ["a picture went to another replica"]


def stopped(address: str, server: Server, sign: signal.Signals, seconds: float = 12) -> list[str]:
    """Stop one of the servers under load; return what went wrong."""
    statuses = Counter[str]()

    def plainly(client: httpx.Client, i: int) -> None:
        try:
            response = client.post("/explain/score-cam", files={"image": PICTURES[i]})
        except httpx.TransportError:
            statuses["lost"] += 1
        else:
            back = ", come back" if "retry-after" in response.headers else ""
            statuses[f"{response.status_code}{back}"] += 1

    answers, errors = meanwhile(
        address,
        plainly,
        lambda client, i: client.explain("score-cam", PICTURES[i]),
        lambda: server.process.send_signal(sign),
        threads=6,
        seconds=seconds,
        after_s=seconds / 3,
    )
    print(f"{sign.name}: raw {dict(statuses)}; through the client {answers} answers, {len(errors)} errors", flush=True)
    failed = sum(n for status, n in statuses.items() if status not in ("200", "503, come back"))
    allowed = 6 if sign == signal.SIGKILL else 0
    return errors + ([] if failed <= allowed else [f"{failed} requests failed"])


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    argparse.ArgumentParser(prog="python -m tests.load.replicas").parse_args()
    wrong: list[str] = []
    own = {"HEATLENS_TUNE": "false"}
    with serving(*TINY, **own) as one, serving(*TINY, **own) as other, proxy([one, other]) as address:
        wrong += affinity(address)
        wrong += stopped(address, other, signal.SIGKILL)
        with serving(*TINY, port=urlsplit(other.url).port or 0, **own) as back:
            time.sleep(5)  # in which the proxy looks at it again
            wrong += affinity(address)
            wrong += stopped(address, back, signal.SIGTERM)
    print("\n".join(f"VIOLATION {text}" for text in wrong) or "all well")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
