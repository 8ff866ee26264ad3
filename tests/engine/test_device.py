"""The scheduler: fair shares, isolation of failures, deadlines, an end that answers everybody."""

import random
import threading
from contextlib import ExitStack, suppress

import pytest
import torch

from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import CallJob, RowsJob, TraceJob
from service.errors import Cancelled, DeadlineExceeded, EngineUnavailable, OutOfMemory, Overloaded


class Recorder:
    """A network that adds up its input, and notes each batch."""

    def __init__(self):
        self.batches = []
        self.poison = None

    def forward(self, rows, precision):
        self.batches.append(rows[:, 0, 0, 0].tolist())
        if self.poison is not None and self.poison in self.batches[-1]:
            raise RuntimeError("poisoned row")
        return rows.sum((1, 2, 3), keepdim=True)[:, :, 0, 0]


@pytest.fixture
def device():
    device = Device(torch.device("cpu"), max_batch_rows=8)
    yield device
    device.close()


def _rows(value):
    return lambda i, j: torch.full((j - i, 1, 1, 1), float(value))


def _job(network, value, count, run=None, rows=None):
    return RowsJob(network, (1, 1, 1), count, rows or _rows(value)), run or Run()


def _together(device, jobs, submit=None):
    """Queue jobs while the thread is held, so that they all wait at once; return each one's result or error."""
    held, go = threading.Event(), threading.Event()
    results = [None] * len(jobs)

    def hold():
        held.set()
        assert go.wait(10)

    def ask(i):
        try:
            results[i] = (submit or device.submit)(*jobs[i])
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=device.call, args=(hold,))]
    threads[0].start()
    assert held.wait(10)
    for i in range(len(jobs)):
        threads.append(threading.Thread(target=ask, args=(i,)))
        threads[-1].start()
        while sum(len(job.tickets) for job in device._jobs) < i + 1:
            threading.Event().wait(0.001)
    go.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return results


def test_rows_of_all_jobs_share_full_batches(device):
    network = Recorder()
    jobs = [_job(network, value, count) for value, count in ((1, 20), (2, 20), (3, 3))]
    results = _together(device, jobs)
    for value, result, job in zip((1, 2, 3), results, jobs, strict=True):
        assert result[:, 0].tolist() == [value] * job[0].count
    sizes = [len(batch) for batch in network.batches]
    assert sizes == [8, 8, 8, 8, 8, 3]  # 43 rows: every batch full but the last
    assert 3 in network.batches[0]  # a small late job does not wait for the big ones
    assert sum(batch.count(3.0) for batch in network.batches[:2]) == 3


def test_higher_priority_goes_first(device):
    network = Recorder()
    low = _job(network, 1, 16, Run(priority=0))
    high = _job(network, 2, 4, Run(priority=5))
    _together(device, [low, high])
    assert network.batches[0].count(2.0) == 4


def test_a_call_does_not_wait_for_rows(device):
    network, seen = Recorder(), []
    _together(device, [_job(network, 1, 80), (CallJob(lambda: seen.append(len(network.batches))), Run())])
    assert seen == [1]


def test_a_poisoned_row_fails_its_own_job_only(device):
    network = Recorder()
    network.poison = 2.0
    results = _together(device, [_job(network, 1, 10), _job(network, 2, 10), _job(network, 3, 10)])
    assert results[0][:, 0].tolist() == [1] * 10
    assert isinstance(results[1], RuntimeError)
    assert results[2][:, 0].tolist() == [3] * 10


def test_rows_that_cannot_be_built_fail_their_own_job_only(device):
    def broken(i, j):
        raise ValueError("no rows")

    network = Recorder()
    results = _together(device, [_job(network, 1, 10), _job(network, 0, 10, rows=broken)])
    assert results[0][:, 0].tolist() == [1] * 10
    assert isinstance(results[1], ValueError)


def test_an_expired_job_stops_within_a_batch(device):
    network, run = Recorder(), Run(timeout_s=3600)

    def rows(i, j):
        if i >= 16:
            run.deadline = 0.0  # time runs out while this batch runs
        return torch.ones(j - i, 1, 1, 1)

    with pytest.raises(DeadlineExceeded, match="raise timeout_s"):
        device.submit(*_job(network, 1, 800, run, rows))
    assert sum(map(len, network.batches)) == 24


def test_a_cancelled_job_stops_within_a_batch(device):
    network, run = Recorder(), Run()

    def rows(i, j):
        if i >= 8:
            run.cancelled.set()
        return torch.ones(j - i, 1, 1, 1)

    with pytest.raises(Cancelled):
        device.submit(*_job(network, 1, 800, run, rows))
    assert sum(map(len, network.batches)) == 16
    assert not device._jobs


def test_death_of_the_thread_answers_every_waiter_and_is_mended_once():
    device = Device(torch.device("cpu"), max_batch_rows=8)

    def die():
        raise SystemExit("the end")

    network = Recorder()
    results = _together(device, [(CallJob(die), Run()), _job(network, 1, 10)])
    assert isinstance(results[1], EngineUnavailable)
    assert device.submit(*_job(network, 1, 10)).sum() == 10  # a new thread has taken over
    assert isinstance(_together(device, [(CallJob(die), Run())])[0], EngineUnavailable)
    assert not device.alive
    with pytest.raises(EngineUnavailable):
        device.call(lambda: None)


def test_closing_answers_every_waiter():
    device = Device(torch.device("cpu"))
    device.close()
    with pytest.raises(EngineUnavailable, match="shutting down"):
        device.call(lambda: None)


def test_memory_is_given_back_once_after_work(monkeypatch):
    released = []
    monkeypatch.setattr("service.engine.scheduler.device._RELEASE_S", 0.01)
    monkeypatch.setattr("service.engine.scheduler.device.release_freed_memory", lambda: released.append(1))
    device = Device(torch.device("cpu"))
    for turn in range(1, 3):
        device.call(lambda: None)
        while len(released) < turn:
            threading.Event().wait(0.001)
        threading.Event().wait(0.1)
        assert len(released) == turn  # and not again before there was work
    device.close()


def test_waiting_for_itself_is_an_error_and_no_deadlock(device):
    with pytest.raises(RuntimeError, match="wait for itself"):
        device.call(lambda: device.call(lambda: None))


def test_usage_counts_this_requests_rows(device):
    network, runs = Recorder(), [Run(), Run()]
    _together(device, [_job(network, i, 12, run) for i, run in enumerate(runs)])
    assert [run.forwards for run in runs] == [12, 12]
    assert all(run.batch_rows / run.batches == 8 for run in runs)


def test_models_take_turns_by_device_time(device):
    class Slow(Recorder):
        def forward(self, rows, precision):
            turns.append("slow")
            threading.Event().wait(0.02)
            return super().forward(rows, precision)

    class Quick(Recorder):
        def forward(self, rows, precision):
            turns.append("quick")
            threading.Event().wait(0.002)
            return super().forward(rows, precision)

    turns = []
    _together(device, [_job(Slow(), 1, 40), _job(Quick(), 2, 400)])
    # By turns alone the quick one would have had 5 of the first 10 batches.
    assert turns[: turns.index("slow", 1) + 1].count("quick") >= 3


def test_out_of_memory_halves_the_batch_and_loses_nothing(device):
    class Small(Recorder):
        def forward(self, rows, precision):
            if len(rows) > 3:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(rows, precision)

    network = Small()
    results = _together(device, [_job(network, 1, 10), _job(network, 2, 10)])
    assert [r[:, 0].tolist() for r in results] == [[1] * 10, [2] * 10]
    assert max(map(len, network.batches)) == 2
    network.batches.clear()
    device.submit(*_job(network, 3, 10))
    assert max(map(len, network.batches)) == 2  # it is remembered


def test_a_row_that_does_not_fit_fails_alone(device):
    class Full(Recorder):
        def forward(self, rows, precision):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    full, network = Full(), Recorder()
    results = _together(device, [_job(full, 1, 10), _job(network, 2, 10)])
    assert isinstance(results[0], OutOfMemory)
    assert "smaller model" in results[0].detail
    assert results[1][:, 0].tolist() == [2] * 10


def test_equal_requests_compute_once_and_are_remembered():
    device = Device(torch.device("cpu"), max_batch_rows=8, cache_bytes=1000)
    network, runs = Recorder(), [Run() for _ in range(4)]

    def job(key="a", count=20):
        return RowsJob(network, (1, 1, 1), count, _rows(1), cache_key=key)

    results = _together(device, [(job(), run) for run in runs[:3]], submit=device.scores)
    assert all(torch.equal(result, results[0]) for result in results)
    assert sum(map(len, network.batches)) == 20
    assert sorted(run.cache for run in runs[:3]) == ["miss", "shared", "shared"]
    assert sorted(run.avoided for run in runs[:3]) == [0, 20, 20]
    assert device.scores(job(), runs[3]) is results[0]
    assert runs[3].cache == "hit"
    assert not device._sharable
    for other in "bcdefghijklmno":  # 80 bytes each: the oldest goes
        device.scores(job(other), Run())
    assert device.cache.bytes <= 1000
    assert device.cache.get("a") is None
    assert device.cache.get("o") is not None
    device.close()


def test_the_others_go_on_when_the_first_of_equals_leaves():
    device = Device(torch.device("cpu"), max_batch_rows=8, cache_bytes=1000)
    network, first, second = Recorder(), Run(), Run()

    def rows(i, j):
        if i >= 8:
            first.cancelled.set()
        return torch.ones(j - i, 1, 1, 1)

    jobs = [(RowsJob(network, (1, 1, 1), 40, rows, cache_key="a"), run) for run in (first, second)]
    results = _together(device, jobs, submit=device.scores)
    assert isinstance(results[0], Cancelled)
    assert results[1][:, 0].tolist() == [1] * 40
    assert sum(map(len, network.batches)) == 40
    device.close()


def test_admission_counts_rows():
    device = Device(torch.device("cpu"), max_waiting_rows=100, max_waiting_requests=3)
    big, small = Run(), Run()
    with device.admission.admitted(big, 5000):  # an idle server takes any
        assert device.admission.waiting_rows == 5000
        with pytest.raises(Overloaded, match="send it again later") as refused:
            device.admission.admit(small, 1)
        assert refused.value.retry_after_s >= 1
        with pytest.raises(Overloaded):
            device.admission.check_room()
        big.advance(4950)
        device.admission.check_room()
        with device.admission.admitted(small, 50), pytest.raises(Overloaded):
            device.admission.admit(Run(), 1)
        with device.admission.admitted(Run(), 1), device.admission.admitted(Run(), 1), pytest.raises(Overloaded):
            device.admission.admit(Run(), 1)  # the number of requests is bounded too
    assert device.admission.waiting_rows == 0
    device.close()


def test_retry_after_follows_the_measured_rate():
    device = Device(torch.device("cpu"), max_batch_rows=10, max_waiting_rows=100)

    class Slow(Recorder):
        def forward(self, rows, precision):
            threading.Event().wait(0.05)
            return super().forward(rows, precision)

    device.submit(*_job(Slow(), 1, 100))  # about 200 rows a second
    with device.admission.admitted(Run(), 1000), pytest.raises(Overloaded) as refused:
        device.admission.admit(Run(), 100)
    assert 4 <= refused.value.retry_after_s <= 8
    device.close()


def test_what_would_end_too_late_is_turned_away_at_once():
    device = Device(torch.device("cpu"), max_batch_rows=10)

    class Slow(Recorder):
        def forward(self, rows, precision):
            threading.Event().wait(0.05)
            return super().forward(rows, precision)

    device.submit(*_job(Slow(), 1, 100))  # about 200 rows a second
    with device.admission.admitted(Run(), 1000):  # 5 s of work
        with pytest.raises(Overloaded) as refused:
            device.admission.admit(Run(timeout_s=8), 900)  # 4.5 s beside as much of the other one
        assert 1 <= refused.value.retry_after_s <= 7
        with device.admission.admitted(Run(timeout_s=60), 900), device.admission.admitted(Run(timeout_s=2), 10):
            pass  # a small one takes turns with large ones and does not wait for them
    with device.admission.admitted(Run(timeout_s=2), 1000):  # alone it may try
        pass
    with ExitStack() as small:
        for _ in range(10):
            small.enter_context(device.admission.admitted(Run(), 50))  # 2.5 s in all, in the order they came
        with pytest.raises(Overloaded):
            device.admission.admit(Run(timeout_s=2), 10)
        with device.admission.admitted(Run(timeout_s=30), 10):
            pass
    device.close()


def test_time_beside_the_device_counts_in_admission(monkeypatch):
    """Where decoding and drawing are what is scarce, rows alone would let in far too much."""
    device, clock = Device(torch.device("cpu")), [1000.0]
    monkeypatch.setattr("service.engine.scheduler.admission.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("service.engine.scheduler.run.time.monotonic", lambda: clock[0])
    runs = [Run() for _ in range(60)]
    for run in runs:
        device.admission.admit(run, 1)
    device.admission.admit(Run(timeout_s=1), 1)  # nothing is known yet
    for run in runs[:30]:
        clock[0] += 0.1  # one ends every tenth of a second, and the device has done nothing
        device.admission.release(run)
    with pytest.raises(Overloaded) as refused:
        device.admission.admit(Run(timeout_s=5), 1)  # 31 times 0.1 s, and thrice that is more
    assert 1 <= refused.value.retry_after_s <= 3
    device.admission.admit(Run(timeout_s=11), 1)
    device.admission.check_room()  # some callers have all the time in the world
    for _ in range(64):
        with suppress(Overloaded):
            device.admission.admit(Run(timeout_s=5), 1)
    with pytest.raises(Overloaded):
        device.admission.check_room()  # as those before it would not wait that long, this one is not even read
    clock[0] += 0.3
    device.admission.check_room()  # until it is time to look again
    device.close()


def test_a_thousand_cancels_leave_nothing_behind_and_cross_no_answers(device):
    random.seed(0)
    network, wrong = Recorder(), []

    def client(number):
        for turn in range(50):
            value, run = float(number * 50 + turn), Run()
            if random.random() < 0.5:
                timer = threading.Timer(random.random() * 0.002, device.cancel, (run,))
                timer.start()
            try:
                result = device.submit(*_job(network, value, random.randint(1, 60), run))
            except Cancelled:
                continue
            if not (result == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not device._jobs
    assert device.alive


def test_traces_with_one_key_share_a_pass(tiny):
    model = tiny.store.get("tiny-functional")
    device = Device(torch.device("cpu"), max_batch_rows=8)
    seen = []
    model.module.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    inputs = [torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(5)]

    def job(i):
        columns = [i, (i + 1) % 5][: 1 + i % 2]  # different targets, and different numbers of them
        return TraceJob(model, inputs[i], lambda outputs, _: outputs[:, columns], layers=["conv1"], wrt=["conv1"])

    alone = [device.submit(job(i), Run()) for i in range(5)]
    seen.clear()
    together = _together(device, [(job(i), Run()) for i in range(5)])
    assert seen == [5]
    for one, shared in zip(alone, together, strict=True):
        assert one.gradients["conv1"].shape == shared.gradients["conv1"].shape
        torch.testing.assert_close(one.outputs, shared.outputs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.activations["conv1"], shared.activations["conv1"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.gradients["conv1"], shared.gradients["conv1"], rtol=1e-5, atol=1e-6)
    model.module._forward_pre_hooks.clear()
    device.close()


def test_an_objective_that_raises_fails_its_own_trace_only(tiny):
    model = tiny.store.get("tiny")
    device = Device(torch.device("cpu"), max_batch_rows=8)

    def broken(outputs, activations):
        raise ValueError("no such thing")

    x = torch.randn(1, 3, 32, 32)
    objectives = (lambda outputs, _: outputs[:, :1], broken)
    jobs = [(TraceJob(model, x, objective, layers=["conv2"], wrt=["conv2"]), Run()) for objective in objectives]
    results = _together(device, jobs)
    assert results[0].gradients["conv2"].shape == (1, 1, 12, 16, 16)
    assert isinstance(results[1], ValueError)
    device.close()
