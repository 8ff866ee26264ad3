"""The device thread: full batches, isolation of failures, cancels and deadlines, an end that answers everybody."""

import queue
import random
import threading

import pytest
import torch

from service.contract import Rows
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import CallWork, RowsWork
from service.errors import Cancelled, DeadlineExceeded, EngineUnavailable, OutOfMemory
from tests.engine.scheduler.doubles import SHAPE, Clock, Recorder, held, outcome, rows_of, together, work_of


@pytest.fixture
def device():
    device = Device(torch.device("cpu"), max_batch_rows=8)
    yield device
    device.close()


@pytest.fixture
def remembering():
    device = Device(torch.device("cpu"), max_batch_rows=8, cache_bytes=1000)
    yield device
    device.close()


def test_rows_of_all_works_share_full_batches(device):
    network = Recorder()
    works = [work_of(network, value, count) for value, count in ((1, 20), (2, 20), (3, 3))]
    results = together(device, [(work, Run()) for work in works])
    for value, result, work in zip((1, 2, 3), results, works, strict=True):
        assert result[:, 0].tolist() == [value] * work.count
    sizes = [len(batch) for batch in network.batches]
    assert sizes == [8, 8, 8, 8, 8, 3]  # 43 rows: every batch full but the last
    assert 3 in network.batches[0]  # a small late work does not wait for the big ones
    assert sum(batch.count(3.0) for batch in network.batches[:2]) == 3


def test_higher_priority_goes_first(device):
    network = Recorder()
    low, high = work_of(network, 1, 16), work_of(network, 2, 4)
    together(device, [(low, Run(priority=0)), (high, Run(priority=5))])
    assert network.batches[0].count(2.0) == 4


def test_callers_take_turns(device):
    """One row of whoever asks little comes at once, however much somebody else has asked before."""
    network = Recorder(clock := Clock(), batch_s=1.0)
    device._clock = clock
    greedy = [(work_of(network, 1, 40), Run(caller="greedy")) for _ in range(5)]
    modest = [(work_of(network, 2, 40), Run(caller="modest"))]
    together(device, greedy + modest)
    taken = [batch.count(2.0) for batch in network.batches[:10]]
    assert sum(taken) == 40  # every other batch, until there is nothing left to ask for


def test_a_call_does_not_wait_for_rows(device):
    network, seen = Recorder(), []
    together(device, [(work_of(network, 1, 80), Run()), (CallWork(lambda: seen.append(len(network.batches))), Run())])
    assert seen == [1]


def test_a_poisoned_row_fails_its_own_work_only(device):
    network = Recorder()
    network.poison = 2.0
    results = together(device, [(work_of(network, value, 10), Run()) for value in (1, 2, 3)])
    assert results[0][:, 0].tolist() == [1] * 10
    assert isinstance(results[1], RuntimeError)
    assert results[2][:, 0].tolist() == [3] * 10


def test_rows_that_cannot_be_built_fail_their_own_work_only(device):
    def broken(i, j):
        raise ValueError("no rows")

    network = Recorder()
    results = together(device, [(work_of(network, 1, 10), Run()), (work_of(network, 0, 10, broken), Run())])
    assert results[0][:, 0].tolist() == [1] * 10
    assert isinstance(results[1], ValueError)


def test_results_that_cannot_be_kept_fail_their_own_work_only(device):
    """A network whose number of outputs changes from batch to batch is a defect of that network, not of the thread."""

    class Growing(Recorder):
        def forward(self, rows, precision):
            return super().forward(rows, precision).expand(-1, len(self.batches) + 1)

    results = together(device, [(work_of(Growing(), 1, 20), Run()), (work_of(Recorder(), 2, 20), Run())])
    assert isinstance(results[0], RuntimeError)
    assert results[1][:, 0].tolist() == [2] * 20


def test_an_expired_work_stops_within_a_batch(device):
    network, clock = Recorder(), Clock()
    device._clock = clock
    run = Run(timeout_s=3600, clock=clock)

    def build(i, j):
        if i >= 16:
            clock.now += 3601  # time runs out while this batch runs
        return torch.ones(j - i, *SHAPE)

    with pytest.raises(DeadlineExceeded, match="raise timeout_s"):
        device.submit(work_of(network, 1, 800, build), run)
    assert sum(map(len, network.batches)) == 24


def test_time_runs_out_for_who_waits_behind_others_too(device):
    network, answered = Recorder(clock := Clock(), batch_s=1.0), []
    device._clock = clock
    with held(device):
        urgent = device.put(work_of(network, 1, 80), Run(priority=1, clock=clock))
        late = device.put(work_of(network, 2, 8), Run(timeout_s=2.5, clock=clock))
        fail = late.fail
        late.fail = lambda error: (answered.append(len(network.batches)), fail(error))
    assert isinstance(outcome(late), DeadlineExceeded)
    assert len(outcome(urgent)) == 80
    assert answered == [3]  # after the third second, and not only when its turn would have come
    assert all(2.0 not in batch for batch in network.batches)


def test_a_cancelled_work_stops_within_a_batch(device):
    network, run = Recorder(), Run()

    def build(i, j):
        if i >= 8:
            run.cancelled.set()
        return torch.ones(j - i, *SHAPE)

    with pytest.raises(Cancelled):
        device.submit(work_of(network, 1, 800, build), run)
    assert sum(map(len, network.batches)) == 16
    assert not device.waiting
    assert not len(device._claims.queue)


def test_who_has_gone_is_forgotten_before_the_next_batch(device):
    network, runs = Recorder(), [Run() for _ in range(3)]
    with held(device):
        tickets = [device.put(work_of(network, value, 4), run) for value, run in enumerate(runs)]
        device.cancel(runs[1])
        device.cancel(Run())  # one that nobody knows does not matter
    results = [outcome(ticket) for ticket in tickets]
    assert isinstance(results[1], Cancelled)
    assert sorted(network.batches[0]) == [0.0] * 4 + [2.0] * 4


def test_death_of_the_thread_answers_every_waiter_and_is_mended_once():
    device = Device(torch.device("cpu"), max_batch_rows=8)

    def die():
        raise SystemExit("the end")

    network = Recorder()
    results = together(device, [(CallWork(die), Run()), (work_of(network, 1, 10), Run())])
    assert isinstance(results[0], EngineUnavailable)
    assert isinstance(results[1], EngineUnavailable)
    assert device.submit(work_of(network, 1, 10), Run()).sum() == 10  # a new thread has taken over
    assert isinstance(together(device, [(CallWork(die), Run())])[0], EngineUnavailable)
    assert not device.alive
    with pytest.raises(EngineUnavailable):
        device.call(lambda: None)
    assert not device.waiting


def test_a_batch_that_does_not_end_is_known(device):
    device._clock = clock = Clock()
    running, go = threading.Event(), threading.Event()

    class Hanging(Recorder):
        def forward(self, rows, precision="fp32"):
            running.set()
            assert go.wait(60)
            return super().forward(rows, precision)

    assert device.stuck_s() == 0
    ticket = device.put(work_of(Hanging(), 1, 1), Run())
    assert running.wait(60)
    clock.now += 59
    assert device.stuck_s() == 0
    assert device.stuck_s(after_s=50) == 59
    clock.now += 2
    assert device.stuck_s() == 61
    go.set()
    ticket.wait()
    device.call(lambda: None)
    assert device.stuck_s(after_s=1e-9) == 0
    running.clear()
    go.clear()
    ticket = device.put(work_of(Hanging(), 1, 1), Run())
    assert running.wait(60)
    clock.now += 600  # ten times as long as one that did end
    assert device.stuck_s() == 0
    clock.now += 20
    assert device.stuck_s() == 620
    go.set()
    ticket.wait()


def test_what_the_server_runs_for_itself_may_take_its_time_but_not_for_ever(device):
    device._clock = clock = Clock()
    with held(device):
        clock.now += 600
        assert device.stuck_s(after_s=8) == 0
        clock.now += 1
        assert device.stuck_s(after_s=8) == device.stuck_s() == 601
        assert device.stuck_s(after_s=700) == 0


def test_closing_answers_every_waiter():
    device = Device(torch.device("cpu"))
    device.close()
    with pytest.raises(EngineUnavailable, match="shutting down"):
        device.call(lambda: None)


def test_closing_answers_those_who_wait_already():
    device, network, waited_for = Device(torch.device("cpu")), Recorder(), threading.Event()
    join = device._thread.join
    device._thread.join = lambda: (waited_for.set(), join())
    with held(device):
        tickets = [device.put(work_of(network, value, 8), Run()) for value in range(3)]
        closing = threading.Thread(target=device.close)
        closing.start()
        assert waited_for.wait(20)
    closing.join(20)
    assert all(isinstance(outcome(ticket), EngineUnavailable) for ticket in tickets)
    assert not network.batches
    assert not device.waiting


def test_memory_is_given_back_once_after_work(monkeypatch):
    released, waits = [], []
    monkeypatch.setattr("service.engine.scheduler.device.release_freed_memory", lambda: released.append(len(waits)))
    device, asleep = Device(torch.device("cpu")), queue.Queue()
    really = device._changed.wait

    def wait(timeout=None):
        waits.append(timeout)
        if timeout is not None:
            return False  # time is up at once
        asleep.put(None)
        return really()

    with held(device):
        device._changed.wait = wait
    asleep.get(timeout=20)  # for good, until there is work again
    for turn in (2, 3):
        assert len(released) == turn - 1
        device.call(lambda: None)
        asleep.get(timeout=20)
    device.close()
    assert waits == [2.0, None] * 3
    assert len(released) == 3


def test_waiting_for_itself_is_an_error_and_no_deadlock(device):
    with pytest.raises(RuntimeError, match="wait for itself"):
        device.call(lambda: device.call(lambda: None))


def test_usage_counts_this_requests_rows(device):
    network, runs = Recorder(), [Run(), Run()]
    together(device, [(work_of(network, i, 12), run) for i, run in enumerate(runs)])
    assert [run.usage.forwards for run in runs] == [12, 12]
    assert [run.done for run in runs] == [12, 12]
    assert all(run.usage.batch_rows / run.usage.batches == 8 for run in runs)


def test_time_is_shared_out_among_the_rows_of_a_batch(device):
    device._clock = clock = Clock()
    network, runs = Recorder(clock, batch_s=4.0), [Run(), Run()]
    together(device, [(work_of(network, 1, 6), runs[0]), (work_of(network, 2, 2), runs[1])])
    assert [run.usage.device_s for run in runs] == [3.0, 1.0]


def test_times_are_those_of_the_device_and_not_of_what_it_was_told():
    """An accelerator only queues what it is given, at no time at all."""
    clock = Clock()
    told: list[float] = []

    def finish(device):
        if told:
            clock.now += told.pop()

    class Queueing(Recorder):
        def forward(self, rows, precision="fp32"):
            told.append(4.0)
            return super().forward(rows, precision)

    device = Device(torch.device("cpu"), max_batch_rows=8, finish=finish, clock=clock)
    try:
        run = Run()
        together(device, [(work_of(Queueing(), 1, 16), run)])
        assert run.usage.device_s == 8.0
    finally:
        device.close()


def test_time_in_the_queue_is_that_between_batches(device):
    device._clock = clock = Clock()
    network, runs = Recorder(clock, batch_s=1.0), [Run(), Run()]
    together(device, [(work_of(network, i, 24), run) for i, run in enumerate(runs)])
    assert [batch[0] for batch in network.batches] == [0, 1, 0, 0, 1, 1]  # with a turn left, a work is a small one
    assert [run.usage.queue_s for run in runs] == [1.0, 3.0]
    assert [run.usage.device_s for run in runs] == [3.0, 3.0]


def test_models_take_turns_by_device_time(device):
    turns = []
    device._clock = clock = Clock()

    class Noting(Recorder):
        def __init__(self, name, batch_s):
            super().__init__(clock, batch_s)
            self.name = name

        def forward(self, rows, precision):
            turns.append(self.name)
            return super().forward(rows, precision)

    together(
        device,
        [(work_of(Noting("slow", 0.02), 1, 40), Run()), (work_of(Noting("quick", 0.002), 2, 400), Run())],
    )
    # By turns alone the quick one would have had 5 of the first 10 batches.
    assert turns[: turns.index("slow", 1) + 1].count("quick") >= 3


def test_out_of_memory_halves_the_batch_and_loses_nothing(device):
    class Small(Recorder):
        def forward(self, rows, precision):
            if len(rows) > 3:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(rows, precision)

    network = Small()
    results = together(device, [(work_of(network, 1, 10), Run()), (work_of(network, 2, 10), Run())])
    assert [r[:, 0].tolist() for r in results] == [[1] * 10, [2] * 10]
    assert max(map(len, network.batches)) == 2
    network.batches.clear()
    device.submit(work_of(network, 3, 10), Run())
    assert max(map(len, network.batches)) == 2  # it is remembered
    assert device.limits.lacked_beside(None) > 0 == device.limits.lacked_beside(network)


def test_a_row_that_does_not_fit_fails_alone(device):
    class Full(Recorder):
        def forward(self, rows, precision):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    full, network = Full(), Recorder()
    results = together(device, [(work_of(full, 1, 10), Run()), (work_of(network, 2, 10), Run())])
    assert isinstance(results[0], OutOfMemory)
    assert "smaller model" in results[0].detail
    assert results[1][:, 0].tolist() == [2] * 10
    assert device.limits.lacked_beside(network) > 0 == device.limits.lacked_beside(full)


def test_equal_requests_compute_once_and_are_remembered(remembering):
    device, network, runs = remembering, Recorder(), [Run() for _ in range(4)]

    def work(key="a"):
        return work_of(network, 1, 20, cache_key=key)

    results = together(device, [(work(), run) for run in runs[:3]])
    assert all(torch.equal(result, results[0]) for result in results)
    assert sum(map(len, network.batches)) == 20
    assert sorted(run.usage.cache for run in runs[:3]) == ["miss", "shared", "shared"]
    assert sorted(run.usage.avoided for run in runs[:3]) == [0, 20, 20]
    assert [run.done for run in runs[:3]] == [20] * 3
    assert device.submit(work(), runs[3]) is results[0]
    assert runs[3].usage.cache == "hit"
    assert not device._claims._sharable
    for other in "bcdefghijklmno":  # 80 bytes each: the oldest goes
        device.submit(work(other), Run())
    assert device.cache.bytes <= 1000
    assert device.cache.get("a") is None
    assert device.cache.get("o") is not None


def test_the_others_go_on_when_the_first_of_equals_leaves(remembering):
    network, first, second = Recorder(), Run(), Run()

    def build(i, j):
        if i >= 8:
            first.cancelled.set()
        return torch.ones(j - i, *SHAPE)

    works = [(work_of(network, 1, 40, build, cache_key="a"), run) for run in (first, second)]
    results = together(remembering, works)
    assert isinstance(results[0], Cancelled)
    assert results[1][:, 0].tolist() == [1] * 40
    assert sum(map(len, network.batches)) == 40
    assert second.done == 40


def test_the_most_urgent_of_equals_decides_when_they_are_worked_off(remembering):
    network, urgent = Recorder(), Run(priority=5)
    with held(remembering):
        shared = remembering.put(work_of(network, 1, 8, cache_key="a"), Run())
        other = remembering.put(work_of(network, 2, 8), Run(priority=1))
        joined = remembering.put(work_of(network, 1, 8, cache_key="a"), urgent)
        calm = remembering.put(work_of(network, 3, 8, cache_key="b"), Run())
        leaves = Run(priority=5)
        gone = remembering.put(work_of(network, 3, 8, cache_key="b"), leaves)
        remembering.cancel(leaves)
    assert isinstance(outcome(gone), Cancelled)
    for ticket in (shared, other, joined, calm):
        ticket.wait()
    assert [batch[0] for batch in network.batches] == [1.0, 2.0, 3.0]


def test_a_request_without_rows_is_an_error_and_waits_for_nothing(device):
    with pytest.raises(ValueError, match="at least one row"):
        device.submit(RowsWork(Recorder(), SHAPE, Rows(0, rows_of(1))), Run())
    assert not device.waiting


def test_a_thousand_cancels_leave_nothing_behind_and_cross_no_answers(device):
    """Some go before anything is done, some after a batch, some whenever another thread comes to it."""
    network, wrong = Recorder(), []
    leaving = queue.Queue()

    def canceller():
        while (run := leaving.get(timeout=60)) is not None:
            device.cancel(run)

    def client(number):
        chance = random.Random(number)
        for turn in range(50):
            value, run = float(number * 50 + turn), Run()
            way = chance.choice(("stay", "stay", "at once", "after a batch", "some time"))
            if way == "after a batch":
                run.progress = lambda run=run: device.cancel(run)
            ticket = device.put(work_of(network, value, chance.randint(1, 60)), run)
            if way == "at once":
                device.cancel(run)
            if way == "some time":
                leaving.put(run)
            try:
                result = ticket.wait()
            except Cancelled:
                continue
            if not (result == value).all():
                wrong.append(value)

    cancelling = threading.Thread(target=canceller)
    cancelling.start()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    leaving.put(None)
    cancelling.join(60)
    assert not wrong
    assert not device.waiting
    assert not len(device._claims.queue)
    assert not device._claims._tickets
    assert device.alive


def test_a_call_on_a_callers_picture_that_does_not_end_is_known(device):
    device._clock = clock = Clock()
    running, go = threading.Event(), threading.Event()
    done = []

    def hang():
        running.set()
        assert go.wait(60)

    calling = threading.Thread(target=lambda: done.append(device.call(hang, watched=True)))
    calling.start()
    assert running.wait(60)
    clock.now += 61
    assert device.stuck_s() == 61
    go.set()
    calling.join(60)
    assert done == [None]
    assert device.stuck_s(after_s=1e-9) == 0
