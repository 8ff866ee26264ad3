"""Work that runs itself: what becomes of a batch, without a device and without a thread."""

import pytest
import torch

from service.contract import INPUT, Pairs, Rows, Trace, Tracing
from service.engine.scheduler.device import Device
from service.engine.scheduler.queue import Share
from service.engine.scheduler.run import Run
from service.engine.scheduler.work import CallWork, RowsWork, Ticket, TraceWork, Work
from service.errors import OutOfMemory
from service.process import out_of_memory
from tests.engine.scheduler.doubles import SHAPE, Clock, Recorder, together, work_of

KEPT, BOTH = Tracing(("a",)), Tracing(("a",), ("a",))
FULL = torch.OutOfMemoryError("out of memory")


class Tracer:
    """Answers its input as outputs, doubles it as the layer `a`, and has gradients of ones."""

    def __init__(self, clock=None, fail=None):
        self.clock, self.fail, self.passes, self.seen = clock, fail, [], []

    def trace_bytes(self, tracing, differentiated):
        return 100 if self.passes else None

    def trace_parts(self, parts, tracing):
        self.passes.append([len(part.x) for part in parts])
        self.seen.append(list(parts))
        if self.clock is not None:
            self.clock.now += 1
        if self.fail is not None:
            raise self.fail
        return [self._one(part, tracing) for part in parts]

    @staticmethod
    def _one(part, tracing):
        flat = part.x.flatten(1)
        seen = Trace(flat, {"a": 2 * part.x}, first=part.first)
        try:
            objective = part.objective(seen) if part.objective else flat[:, :0]
        except Exception as error:
            return error
        gradients = {name: torch.ones(objective.shape[1], *part.x.shape) for name in tracing.wrt}
        return Trace(flat, seen.activations, objective, gradients, part.first).totalled(part.total)


def _shares(works, rows):
    return [Share(work, count, 0) for work, count in zip(works, rows, strict=True)]


def _run(works, rows, clock=None):
    return works[0].run(_shares(works, rows), clock or Clock())


def _kept(work, done):
    """Do as the device does with what became of a work's rows."""
    work.take(done.result)
    work.next += done.share.rows
    return work


def test_rows_of_several_works_share_one_forward():
    network = Recorder()
    works = [work_of(network, value, 10) for value in (1, 2)]
    done = _run(works, (3, 5))
    assert network.batches == [[1.0] * 3 + [2.0] * 5]
    assert [(one.share.item, one.share.rows, one.batch_rows, one.forwards, one.passes) for one in done] == [
        (works[0], 3, 8, 3, 3),
        (works[1], 5, 8, 5, 5),
    ]
    assert [one.result[:, 0].tolist() for one in done] == [[1.0] * 3, [2.0] * 5]


def test_rows_are_asked_for_where_the_last_ones_ended():
    asked = []

    def build(i, j):
        asked.append((i, j))
        return torch.arange(float(i), float(j)).view(-1, *SHAPE)

    work = RowsWork(Recorder(), SHAPE, Rows(7, build))
    for rows in (3, 4):
        (done,) = _run([work], [rows])
        _kept(work, done)
        assert work.so_far()[:, 0].tolist() == list(range(work.next))
    assert asked == [(0, 3), (3, 7)]
    assert work.result()[:, 0].tolist() == list(range(7))


def test_nothing_is_recorded_for_gradients_of_rows():
    class Weighted(Recorder):
        def forward(self, rows, precision):
            return super().forward(rows, precision) * torch.ones(1, requires_grad=True)

    work = work_of(Weighted(), 1, 2)
    _kept(work, _run([work], [2])[0])
    assert not work.result().requires_grad
    assert not work.result().is_inference()  # methods may go on to differentiate what they make of it


@pytest.mark.parametrize("where", ["build", "together"])
def test_whose_rows_fail_is_found(where):
    network = Recorder()
    network.poison = 2.0
    works = [work_of(network, value, 10) for value in (1, 2, 3)]
    if where == "build":
        network.poison, works[1] = None, work_of(network, 2, 10, lambda i, j: 1 / 0)
    done = {one.share.item: one for one in _run(works, (2, 3, 4))}
    assert isinstance(done[works[1]].error, ZeroDivisionError if where == "build" else RuntimeError)
    for work, rows in ((works[0], 2), (works[2], 4)):
        assert len(done[work].result) == rows
        assert done[work].error is None
        assert done[work].batch_rows == (rows if where == "together" else 6)
    assert len(done) == 3


def test_where_all_fail_each_is_told_of_its_own_failure():
    class Broken(Recorder):
        def forward(self, rows, precision):
            raise RuntimeError(f"{len(rows)} rows")

    works = [work_of(Broken(), value, 10) for value in (1, 2)]
    done = _run(works, (2, 3))
    assert [str(one.error) for one in done] == ["2 rows", "3 rows"]


def test_where_memory_runs_out_rows_are_left_for_smaller_batches():
    class Full(Recorder):
        def forward(self, rows, precision):
            raise FULL

    works = [work_of(Full(), value, 10) for value in (1, 2)]
    done = _run(works, (2, 3))
    assert [(one.too_many, one.batch_rows, one.error, one.passes) for one in done] == [(True, 5, None, 0)] * 2
    assert [work.next for work in works] == [0, 0]
    (done,) = _run(works[:1], [1])
    assert isinstance(done.error, OutOfMemory)
    assert not done.too_many


def test_what_a_failed_forward_had_made_is_freed_before_the_next_one():
    """Else one that fails for want of memory, or on poisoned rows, would leave less to those that follow."""
    alive = []

    class Hoarding(Recorder):
        def forward(self, rows, precision):
            class Map:
                def __del__(self):
                    alive.remove(self.name)

            kept = Map()
            kept.name = len(self.batches)
            alive.append(kept.name)
            self.batches.append(list(alive))
            raise RuntimeError("poisoned")

    network = Hoarding()
    _run([work_of(network, value, 10) for value in (1, 2, 3)], (1, 1, 1))
    assert network.batches == [[0], [1], [2], [3]]


def test_time_is_shared_out_by_passes():
    clock = Clock()
    works = [
        TraceWork(Tracer(clock), SHAPE, Rows.of(torch.ones(4, *SHAPE)), Tracing(wrt=(INPUT,)), objective)
        for objective in (lambda seen: seen.outputs[:, :1], lambda seen: seen.outputs[:, [0, 0, 0]])
    ]
    done = _run(works, (1, 2), clock)
    assert [(one.forwards, one.backwards, one.passes) for one in done] == [(1, 1, 3), (2, 6, 14)]
    assert [one.seconds for one in done] == pytest.approx([3 / 17, 14 / 17])


def _traced(count, piece, objective=lambda seen: seen.outputs[:, :2], total=None, tracing=BOTH, rows=Rows.of):
    x = torch.arange(float(count * 4)).view(count, 1, 2, 2)
    network = Tracer()
    work = TraceWork(network, (1, 2, 2), rows(x), tracing, objective, total)
    while work.next < count:
        (done,) = _run([work], [min(piece, count - work.next)])
        _kept(work, done)
    return network, work, work.result()


@pytest.mark.parametrize("piece", [1, 2, 5])
def test_a_trace_is_the_same_in_whatever_pieces(piece):
    network, _, found = _traced(5, piece)
    _, _, whole = _traced(5, 5)
    assert sum(map(sum, network.passes)) == 5
    assert found.outputs.tolist() == whole.outputs.tolist()
    assert torch.equal(found.activations["a"], whole.activations["a"])
    assert torch.equal(found.objective, whole.objective)
    assert found.gradients["a"].shape == (2, 5, 1, 2, 2)


@pytest.mark.parametrize("piece", [1, 2, 5])
def test_totals_are_added_up_and_nothing_else_is_kept(piece):
    def total(seen):
        return seen.activations["a"].sum(0), torch.tensor(float(seen.first))

    _, work, found = _traced(5, piece, total=total)
    x = torch.arange(20.0).view(5, 1, 2, 2)
    assert torch.equal(found.totals[0], 2 * x.sum(0))
    assert float(found.totals[1]) == sum(range(0, 5, piece))  # where each piece began
    assert not found.activations
    assert not found.gradients
    assert len(found.outputs) == 5
    assert not any(piece.totals for piece in work.pieces)


def test_a_trace_is_charged_by_what_its_objective_turned_out_to_ask_for():
    _, work, _ = _traced(3, 1, objective=lambda seen: seen.outputs[:, [0, 1, 2, 3]])
    assert work.passes == 1 + 2 * 4
    _, work, _ = _traced(3, 1, tracing=Tracing(("a",)))
    assert work.passes == 1


def test_a_pair_is_charged_as_the_two_rows_that_it_is():
    network, work, _ = _traced(5, 2, rows=lambda x: Pairs.beside(x, -x))
    assert [[tuple(-part.references.flatten()) for part in parts] for parts in network.seen] == [
        [tuple(part.x.flatten()) for part in parts] for parts in network.seen
    ]
    assert work.passes == 2 * (1 + 2 * 2)
    assert work.counted(work.pieces[0], 2) == (4, 8)
    assert _traced(3, 1)[0].seen[0][0].references is None


def test_traces_share_a_pass_only_where_they_ask_for_the_same():
    network, rows = Tracer(), Rows.of(torch.ones(2, *SHAPE))

    def key(tracing=KEPT, objective=None, shape=SHAPE, network=network):
        return TraceWork(network, shape, rows, tracing, objective).key

    assert key() == key()
    others = [
        key(Tracing(("b",))),
        key(Tracing(("a",), ("a",))),
        key(objective=lambda seen: seen.outputs),
        key(shape=(1, 2, 2)),
        key(network=Tracer()),
    ]
    assert len({key(), *others}) == 6


def test_an_objective_that_raises_is_its_own_works_failure():
    def broken(seen):
        raise ValueError("no such thing")

    works = [
        TraceWork(Tracer(), SHAPE, Rows.of(torch.ones(2, *SHAPE)), Tracing(("a",), ("a",)), objective)
        for objective in (lambda seen: seen.outputs, broken)
    ]
    done = _run(works, (2, 2))
    assert done[0].error is None
    assert isinstance(done[1].error, ValueError)
    assert done[1].passes == 0


def test_a_call_counts_as_nothing_and_fails_as_it_likes():
    work = CallWork(lambda: 42)
    (done,) = _run([work], [1])
    assert (done.passes, done.forwards) == (0, 0)
    assert _kept(work, done).result() == 42
    assert work.caller is None

    def full():
        raise FULL

    (done,) = _run([CallWork(full)], [1])
    assert done.error is FULL  # who measures how much fits has to know
    assert out_of_memory(done.error)


def test_work_without_rows_is_an_error():
    with pytest.raises(ValueError, match="at least one row"):
        work_of(Recorder(), 1, 0)


def test_every_kind_of_work_says_how_it_runs():
    kinds = Work.__subclasses__()
    assert {CallWork, RowsWork, TraceWork} <= set(kinds)
    for kind in kinds:
        assert {"build", "together", "take", "result"} <= set(vars(kind)), kind


def test_a_ticket_is_answered_once_for_who_waits():
    ticket = Ticket(Run(), CallWork(lambda: None), 0.0)
    ticket.finish(3)
    assert ticket.wait() == 3
    failing = Ticket(Run(), CallWork(lambda: None), 0.0)
    try:
        raise ValueError("theirs")
    except ValueError as error:
        failing.fail(error)
    with pytest.raises(ValueError, match="theirs") as raised:
        failing.wait()
    assert [entry.name for entry in raised.traceback][-1] == "wait"  # and not where it was raised


@pytest.fixture(scope="module")
def device():
    device = Device(torch.device("cpu"), max_batch_rows=8)
    yield device
    device.close()


def test_traces_with_one_key_share_a_pass_of_a_real_network(tiny, device):
    model, seen = tiny.store.get("tiny-functional"), []
    hook = model.module.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    inputs = [torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(5)]

    def work(i):
        columns = [i, (i + 1) % 5][: 1 + i % 2]  # different targets, and different numbers of them
        tracing = Tracing(("conv1",), ("conv1",))
        return TraceWork(model, (3, 32, 32), Rows.of(inputs[i]), tracing, lambda seen: seen.outputs[:, columns])

    alone = [device.submit(work(i), Run()) for i in range(5)]
    seen.clear()
    runs = [Run() for _ in range(5)]
    found = together(device, [(work(i), run) for i, run in enumerate(runs)])
    assert seen == [5]
    assert [run.usage.backwards for run in runs] == [1, 2, 1, 2, 1]
    for one, shared in zip(alone, found, strict=True):
        assert one.gradients["conv1"].shape == shared.gradients["conv1"].shape
        torch.testing.assert_close(one.outputs, shared.outputs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.activations["conv1"], shared.activations["conv1"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.gradients["conv1"], shared.gradients["conv1"], rtol=1e-5, atol=1e-6)
    hook.remove()


def test_an_objective_that_raises_fails_its_own_trace_of_a_real_network_only(tiny, device):
    model = tiny.store.get("tiny")

    def broken(seen):
        raise ValueError("no such thing")

    x, tracing = torch.randn(1, 3, 32, 32), Tracing(("conv2",), ("conv2",))
    works = [
        (TraceWork(model, (3, 32, 32), Rows.of(x), tracing, objective), Run())
        for objective in (lambda seen: seen.outputs[:, :1], broken)
    ]
    results = together(device, works)
    assert results[0].gradients["conv2"].shape == (1, 1, 12, 16, 16)
    assert isinstance(results[1], ValueError)


def test_a_long_trace_is_cut_into_batches(tiny, device):
    model, sizes = tiny.store.get("tiny"), []
    hook = model.module.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    x, run = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)), Run()
    work = TraceWork(
        model,
        (3, 32, 32),
        Rows.of(x),
        Tracing(wrt=(INPUT,)),
        lambda seen: seen.outputs[:, :1],
        lambda seen: [seen.gradients[INPUT].sum(1)],
    )
    (total,) = device.submit(work, run).totals
    hook.remove()
    assert (sum(sizes), max(sizes)) == (20, 8)  # the first of its kind is one row, which is weighed
    assert len(sizes) <= 4
    assert (run.usage.forwards, run.usage.backwards, run.done) == (20, 20, 60)
    given = x.clone().requires_grad_()
    model.module(given)[:, 0].sum().backward()
    torch.testing.assert_close(total[0], given.grad.sum(0), rtol=1e-4, atol=1e-6)
