"""Who waits for whom: predictions under large jobs, measuring under load, and a batch's choice among thousands."""

import statistics
import threading
import time
from collections.abc import Iterator
from itertools import count

from service.engine.scheduler.queue import Item, Queue
from tests.bench.load import batch_ms, large, predict, square_of_rows
from tests.bench.served import Served
from tests.bench.subject import EMBEDDED, pictures
from tests.bench.table.line import Asked, Line
from tests.bench.table.peers import FULL, fields_of, served, subject


def _p99(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(0.99 * len(times)))]


def _under_jobs(server: Served, window: int, stride: int, seconds: float) -> tuple[list[float], float]:
    """Return the milliseconds of predictions beside eight jobs of about 2,048 rows, and those of a batch."""
    stop = threading.Event()
    clients = [threading.Thread(target=large, args=(server.url, window, stride, seconds, stop)) for _ in range(8)]
    for thread in clients:
        thread.start()
    try:
        time.sleep(min(2.0, seconds / 10))  # until the queue is theirs
        busy = predict(server.client, 10_000, until=time.monotonic() + seconds * 0.8)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    return busy, batch_ms(server.client, window)


def predictions(asked: Asked) -> Iterator[Line]:
    """`/predict` under eight jobs, on a fresh server: by its batches, and against one that measures nothing."""
    of = subject(asked, EMBEDDED)
    window, stride = square_of_rows(of.spec.transform.crop[0])
    seconds = 3.0 if asked.quick else 30.0
    found: dict[str, list[tuple[list[float], float]]] = {"true": [], "false": []}
    for number in range(asked.rounds):
        for tune in ("true", "false") if number % 2 else ("false", "true"):
            folder = asked.folder / f"predict-{number}-{tune}"
            with served(asked, of, folder, HEATLENS_TUNE=tune) as server:
                found[tune].append(_under_jobs(server, window, stride, seconds))
    measuring, resting = found["true"], found["false"]
    yield Line(
        f"/predict p99 under eight jobs, {of.name}, fresh server that measures meanwhile",
        f"{statistics.median(_p99(busy) for busy, _ in measuring):.0f} ms "
        f"(p50 {statistics.median(statistics.median(busy) for busy, _ in measuring):.0f})",
        f"one of its batches, {statistics.median(batch for _, batch in measuring):.0f} ms",
        [_p99(busy) / batch for busy, batch in measuring],
        (),
        3,
        "batches",
        least=False,
    )
    yield Line(
        "the same",
        f"{statistics.median(_p99(busy) for busy, _ in measuring):.0f} ms",
        f"a server that measures nothing, {statistics.median(_p99(busy) for busy, _ in resting):.0f} ms",
        [_p99(a) / _p99(b) for (a, _), (b, _) in zip(measuring, resting, strict=True)],
        (),
        1.2,
        least=False,
    )


def measuring(asked: Asked) -> Iterator[Line]:
    """What measuring a model takes; and how long it takes while requests keep the device busy for four fifths."""
    of = subject(asked, EMBEDDED)
    with served(asked, of, asked.folder / "measuring") as server:
        before = server.processor_s()
        took = server.settled()
        spent = server.processor_s() - before
        missing = server.tuning(of.name)
    yield Line(
        f"measuring {of.name} on an idle server, processor time",
        f"{spent:.1f} s, {took:.0f} s of the clock",
        "",
        [spent],
        (),
        30,
        "s",
        least=False,
        facts={"tuning": missing},
    )
    with served(asked, of, asked.folder / "measuring-busy") as server:
        stop, busy = threading.Event(), [0.0]
        began = time.monotonic()

        def load() -> None:
            while not stop.is_set():
                answer, *_ = server.explain("occlusion", pictures(1)[0], **fields_of(of, "occlusion"))
                ms = answer["usage"]["device_ms"]
                busy[0] += ms / 1e3
                stop.wait(ms / 4e3)

        client = threading.Thread(target=load)
        client.start()
        try:
            took = server.settled(900)
        finally:
            stop.set()
            client.join()
        share = busy[0] / (time.monotonic() - began)
        missing = server.tuning(of.name)
    yield Line(
        f"measuring {of.name} while requests take {share:.0%} of the clock",
        f"missing: {', '.join((missing or {}).get('missing', ())) or 'nothing'}",
        "",
        [took],
        (),
        300,
        "s",
        least=False,
        facts={"tuning": missing},
    )


def grad_cam(asked: Asked) -> Iterator[Line]:
    """Processor time of a Grad-CAM over HTTP, less that of the thread which runs the network."""
    of = subject(asked, EMBEDDED)
    folder, each = asked.folder / f"{of.name}-single", 4 if asked.quick else 30
    # Without processes beside it, whose time would have to be added.
    with served(asked, of, folder, OMP_NUM_THREADS="1", HEATLENS_CODEC_PROCESSES="0") as server:
        server.settled()
        server.explain("grad-cam", pictures(1)[0])
        beside, own = [], []
        for _ in range(asked.rounds):
            before, total = (
                {one.id: one.user_time + one.system_time for one in server.counted.threads()},
                server.processor_s(),
            )
            for image in pictures(each):
                server.explain("grad-cam", image)
            after = {one.id: one.user_time + one.system_time for one in server.counted.threads()}
            # With one thread a forward, the thread that took most is the one that runs the network.
            own.append(max(took - before.get(id, 0.0) for id, took in after.items()) / each * 1e3)
            beside.append((server.processor_s() - total) / each * 1e3 - own[-1])
    yield Line(
        "grad-cam over HTTP, JPEG to PNGs and JSON, processor time beside the network's own",
        f"{statistics.median(beside):.1f} ms",
        f"the network's own {statistics.median(own):.1f} ms",
        beside,
        beside,
        12,
        "ms",
        least=False,
    )


def waiting(asked: Asked) -> Iterator[Line]:
    """What threads that sleep between loops cost where cores are not shared; beside others, what they bring."""
    of = subject(asked, EMBEDDED)
    # The second one is OpenMP's own way: LLVM's default, which GNU's does not read, and ours takes for the operator's.
    ways = {"sleep": {"OMP_WAIT_POLICY": "PASSIVE"}, "spin": {"KMP_BLOCKTIME": "200"}}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    predicted: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(asked.rounds):
        image, others = pictures(1)[0], 5 if asked.quick else 30
        for way in sorted(ways, reverse=bool(number % 2)):
            with served(asked, of, asked.folder / f"{way}-{number}", HEATLENS_TUNE="false", **ways[way]) as server:
                server.explain("occlusion", image, **fields_of(of, "occlusion"))
                answer, took, _ = server.explain("score-cam", image, **FULL)
                rates[way].append(answer["usage"]["forwards"] / took)
                predicted[way].append(statistics.median(predict(server.client, others)))
    yield Line(
        f"threads that sleep between loops: rows/s of {of.name}",
        f"{statistics.median(rates['sleep']):.1f} rows/s",
        f"that spin, {statistics.median(rates['spin']):.1f} rows/s",
        [sleep / spin for sleep, spin in zip(rates["sleep"], rates["spin"], strict=True)],
        (),
        0.98,
    )
    yield Line(
        "the same: p50 of /predict",
        f"{statistics.median(predicted['sleep']):.0f} ms",
        f"that spin, {statistics.median(predicted['spin']):.0f} ms",
        [spin / sleep for sleep, spin in zip(predicted["sleep"], predicted["spin"], strict=True)],
        (),
        0.98,
    )


def jobs(asked: Asked) -> Iterator[Line]:
    """The choice of a batch while thousands of jobs wait, over that with sixteen."""

    def seconds(many: int, callers: int) -> float:
        queue: Queue[Item] = Queue(memory=2**30)
        numbers = count()

        def one() -> Item:
            i = next(numbers)
            key = ("x", i % 3)
            return Item(
                key, key[0], 1 + i * 7 % 60, str(i % callers), passes=1.0, memory=10 * (i % 4 == 1), deadline=1e9 + i
            )

        for _ in range(many):
            queue.put(one())
        took = []
        for turn in range(400):
            began = time.perf_counter()
            queue.expired(turn / 100)
            shares = queue.cut(lambda key: 24)
            queue.charge(shares, 0.1)
            took.append(time.perf_counter() - began)
            for item, _, _ in shares:
                if not item.rows:
                    queue.remove(item)
                    queue.put(one())
        return statistics.median(took)

    for callers in (1, 4096):
        rounds = [(seconds(4096, callers), seconds(16, callers)) for _ in range(asked.rounds)]
        yield Line(
            f"cut of a batch, 4,096 jobs of {callers} callers waiting",
            f"{statistics.median(many for many, _ in rounds) * 1e6:.0f} us",
            f"with 16 jobs, {statistics.median(few for _, few in rounds) * 1e6:.0f} us",
            [many / few for many, few in rounds],
            (),
            1.5,
            least=False,
        )
