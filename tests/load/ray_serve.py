"""Ray Serve, looked at for real: `python -m tests.load.ray_serve [same forms killed scaled affinity]`; needs `ray`.

One cluster on this machine, two replicas of the small networks behind Serve's own proxy, and one server without Ray as
the truth.
"""

import argparse
import base64
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
import numpy as np
import psutil
import ray
from PIL import Image
from ray import serve

from service.client import Client
from service.deploy.ray import Replica, app
from service.settings import Settings
from tests.api.test_contract import fields
from tests.conftest import CATALOG, encoded, serving
from tests.house import ROOT
from tests.load.traffic import meanwhile

METHODS = ["cam", "grad-cam", "occlusion", "saliency", "score-cam", "integrated-gradients"]
LONG = {"params": {"window": 8, "stride": 1, "score": "logit"}, "model": "tiny-vgg"}  # 625 passes


def _picture(seed: int) -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 61, 3), np.uint8)))


PICTURES = [_picture(i) for i in range(20)]
ENVIRONMENT = {
    "HEATLENS_CATALOG": str(CATALOG),
    "HEATLENS_DEVICE": "cpu",
    "HEATLENS_TUNE": "false",
    "HEATLENS_ALLOWED_HOSTS": "*",
    "HEATLENS_MAX_WAITING_PASSES": "12500",  # twenty of the long ones
    "PYTHONPATH": str(ROOT),
    "MALLOC_ARENA_MAX": "1",
}


@contextmanager
def cluster() -> Iterator[str]:
    """Begin a cluster with two replicas; give the proxy's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120", "RAY_SERVE_PROXY_READY_CHECK_PERIOD_S": "1"}
    begun = time.monotonic()
    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": ENVIRONMENT})
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app({"min_replicas": "2", "max_replicas": "2", "num_cpus": "1"}), name="heatlens")
        print(f"two replicas after {time.monotonic() - begun:.0f} s", flush=True)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def _body(method: str, picture: bytes, **more: Any) -> dict[str, Any]:
    return fields(method) | {"image": base64.b64encode(picture).decode()} | more


def same(address: str, requests: int = 1000) -> list[str]:
    """Mixed requests over two replicas are the serial truth."""
    asked = [(METHODS[i % len(METHODS)], i % len(PICTURES)) for i in range(requests)]
    with serving(Settings(catalog=CATALOG, device="cpu", tune=False)) as one:
        truth = {
            key: one.post(f"/explain/{key[0]}", json=_body(key[0], PICTURES[key[1]])).json()["maps"]
            for key in dict.fromkeys(asked)
        }
    worst, statuses = 0.0, Counter[int]()
    with httpx.Client(base_url=address, timeout=120) as client, ThreadPoolExecutor(8) as pool:

        def ask(key: tuple[str, int]) -> httpx.Response:
            return client.post(f"/explain/{key[0]}", json=_body(key[0], PICTURES[key[1]]))

        for key, response in zip(asked, pool.map(ask, asked), strict=True):
            statuses[response.status_code] += 1
            if response.status_code != 200:
                continue
            for a, b in zip(response.json()["maps"], truth[key], strict=True):
                x, y = (np.asarray(m["array"]["data"]) for m in (a, b))
                worst = max(worst, float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-12)))
    print(
        f"same: {count} requests, {len(truth)} questions, statuses {dict(statuses)}, off by {worst:.1e} of the largest"
    )
    return [] if set(statuses) == {200} and worst <= 1e-5 else ["answers are not the truth's"]


def forms(address: str) -> list[str]:
    """Events, a hang-up, too much work, problems and pictures come through the proxy as they are."""
    wrong = []
    with httpx.Client(base_url=address, timeout=120) as client:
        long = _body("occlusion", PICTURES[0], **LONG)
        with client.stream("POST", "/explain/occlusion", json=long, headers={"accept": "text/event-stream"}) as told:
            names = [line.removeprefix("event: ") for line in told.iter_lines() if line.startswith("event: ")]
        wrong += [] if names[-1:] == ["result"] and "result" not in names[:-1] else [f"events: {names}"]
        begun = time.monotonic()
        for picture in PICTURES[1:13]:
            body = _body("occlusion", picture, **LONG)
            with client.stream("POST", "/explain/occlusion", json=body, headers={"accept": "text/event-stream"}):
                pass
        with ThreadPoolExecutor(4) as pool:  # where there is room for twenty, if nobody has left anything
            calls = [
                pool.submit(client.post, "/explain/occlusion", json=_body("occlusion", p, **LONG)) for p in PICTURES[:4]
            ]
            wrong += [f"after hang-ups: {c.result().status_code}" for c in calls if c.result().status_code != 200]
        took = time.monotonic() - begun
        with ThreadPoolExecutor(60) as pool:
            burst = [
                pool.submit(
                    client.post,
                    "/explain/occlusion",
                    json=_body("occlusion", PICTURES[i % 20], **LONG, targets=[i % 5]),
                )
                for i in range(60)
            ]
            statuses = Counter(one.result().status_code for one in burst)
            refused = [one.result() for one in burst if one.result().status_code == 429]
        waits = sorted({one.headers.get("retry-after", "none") for one in refused})
        kinds = {one.headers["content-type"] for one in refused}
        wrong += [] if refused and "none" not in waits and kinds == {"application/problem+json"} else ["no right 429"]
        picture = client.post("/explain/cam", files={"image": PICTURES[0]}, headers={"accept": "image/png"})
        wrong += [] if picture.content.startswith(b"\x89PNG") else ["no PNG"]
        bad = client.post("/explain/cam", json=_body("cam", PICTURES[0], targets=[99]))
        wrong += [] if bad.json()["type"] == "urn:heatlens:problem:invalid-parameter" else ["no problem"]
    print(
        f"forms: {len(names)} events in order; 12 hang-ups and 4 answers in {took:.1f} s; "
        f"burst {dict(statuses)}, Retry-After {waits}"
    )
    return wrong


def killed(address: str, seconds: float = 25) -> list[str]:
    """A replica that is killed fails what it was about, and our client's user sees none of it."""
    statuses, texts = Counter[int](), set[str]()

    def plainly(client: httpx.Client, i: int) -> None:
        response = client.post("/explain/score-cam", json=_body("score-cam", PICTURES[i]))
        statuses[response.status_code] += 1
        if response.status_code != 200:
            texts.add(response.text[:120])

    answers, errors = meanwhile(
        address,
        plainly,
        lambda client, i: client.explain("score-cam", PICTURES[i], model="tiny"),
        lambda: _replicas()[0].send_signal(signal.SIGKILL),
        threads=8,
        seconds=seconds,
        after_s=seconds / 4,
    )
    print(f"killed: raw {dict(statuses)} ({sorted(texts)}); through the client {answers} answers, {len(errors)} errors")
    wrong = errors + [text for text in texts if "loading" in text]
    return wrong + ([] if sum(n for s, n in statuses.items() if s != 200) <= 8 else ["more failed than was in flight"])


def _replicas() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [one for one in found if "ServeReplica:heatlens" in " ".join(one.cmdline())]


def scaled(address: str) -> list[str]:
    """One replica becomes two and one again, and no request fails."""
    serve.run(
        Replica.options(
            name="heatlens",
            max_ongoing_requests=512,
            max_queued_requests=-1,
            health_check_timeout_s=600,
            ray_actor_options={"num_cpus": 1},
            autoscaling_config={
                "min_replicas": 1,
                "max_replicas": 2,
                "metrics_interval_s": 0.5,
                "upscale_delay_s": 2,
                "downscale_delay_s": 6,
                "policy": {"policy_function": "service.deploy.ray:waiting_policy"},
            },
        ).bind(),
        name="heatlens",
    )
    statuses, stopped, begun = Counter[int](), threading.Event(), time.monotonic()
    seeds = count(len(PICTURES))  # what was asked before would be known, and nothing would wait

    def ask(least: bool) -> None:
        with httpx.Client(base_url=address, timeout=300) as client:
            while not stopped.is_set() or least:
                body = _body("occlusion", _picture(next(seeds)), **LONG)
                statuses[client.post("/explain/occlusion", json=body).status_code] += 1
                least = False

    seen = [f"{_running()} at 0 s"]
    threads = [threading.Thread(target=ask, args=(True,)) for _ in range(18)]
    for thread in threads:
        thread.start()
    seen.append(_reached(2, begun))
    stopped.set()
    for thread in threads:
        thread.join()
    seen.append(_reached(1, begun))
    print(f"scaled: {', '.join(seen)}; statuses {dict(statuses)}")
    return [] if set(statuses) == {200} and "never" not in " ".join(seen) else ["it did not scale, or a request failed"]


def _running() -> int:
    (deployment,) = serve.status().applications["heatlens"].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


def _reached(replicas: int, begun: float, patience_s: float = 120) -> str:
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if _running() == replicas:
            return f"{replicas} at {time.monotonic() - begun:.0f} s"
        time.sleep(0.5)
    return f"{replicas} never"


def affinity(address: str) -> list[str]:
    """What is asked again of a picture, by our client, is known where it is asked."""
    with Client(address) as client:
        found = [
            [
                client.explain("occlusion", p, window=8, stride=4, targets=[t], model="tiny").usage.cache
                for p in PICTURES[:16]
            ]
            for t in (0, 1)
        ]
    hits = found[1].count("hit")
    print(f"affinity: {hits} of 16 hits")
    return [] if hits == 16 else ["a picture went to another replica"]


CHECKS: dict[str, Callable[[str], list[str]]] = {
    "same": same,
    "forms": forms,
    "affinity": affinity,
    "killed": killed,
    "scaled": scaled,
}


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.ray_serve")
    parser.add_argument("checks", nargs="*", choices=[*CHECKS, []], default=[])
    names = parser.parse_args().checks or list(CHECKS)
    wrong: list[str] = []
    with cluster() as address:
        for name in names:
            wrong += CHECKS[name](address)
            sys.stdout.flush()
    print("\n".join(f"VIOLATION {text}" for text in wrong) or "all well")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
