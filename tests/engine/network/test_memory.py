"""What a forward needs, or a trace, is counted at its most crowded moment."""

import pytest
import torch
from torch import nn

from service.contract import INPUT, Part, Relevance, Rescale, Trace, Tracing
from service.engine.network import memory
from service.engine.network.memory import TraceBytes, live_bytes
from service.engine.network.resident import Model
from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task
from tests import tiny


def test_live_bytes_are_those_of_the_most_crowded_moment():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1000))

        def forward(self, x):
            x = x * self.weight.view(10, 100)[0, 0].to(x.dtype)  # beside what is given: x; the weight counts nothing
            wide = torch.cat([x, x, x, x], 1)  # beside x: 1 + 4
            narrow = wide.amax(1, keepdim=True) + 1  # beside x and wide: 1 + 4 + 1/3 + 1/3
            del wide
            return narrow.relu_() + x  # 1 + 1/3 + 1

    x = torch.zeros(2, 3, 10, 10)
    assert live_bytes(Branches(), x) == x.nbytes * 6 + x.nbytes * 2 // 3
    assert live_bytes(Branches(), x.bfloat16()) == live_bytes(Branches(), x) // 2


class Line(nn.Module):
    """Keeps what is given of each of its products for the backward."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList(torch.ones(()) for _ in range(6))

    def forward(self, x):
        for weight in self.weights:
            x = (x * weight).tanh()  # which keeps its result
        return x.mean((2, 3))


def _model(network):
    transform = Transform(32, (32, 32), (0.5,) * 3, (0.2,) * 3)
    return Model(ModelSpec("one", lambda: network, transform, task("classification")), network, torch.device("cpu"))


def _part(rows, columns=1, references=False):
    x = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Part(x, lambda seen: seen.outputs[:, [0] * columns], references=-x if references else None)


def _measured(network, tracing, *parts):
    model = _model(network)
    assert model.trace_bytes(tracing, True) is None
    assert not [one for one in model.trace_parts(parts, tracing) if isinstance(one, Exception)]
    return model.trace_bytes(tracing, True)


def test_sparse_tensors_on_the_way_are_no_obstacle():
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.eye(12).to_sparse(), persistent=False)

        def forward(self, x):
            return torch.sparse.mm(self.table.coalesce(), x.flatten(1).mT).mT

    assert live_bytes(Sparse(), torch.zeros(1, 3, 2, 2)) >= 2 * 12 * 4


def test_a_trace_takes_what_its_backward_needs_beside_a_forward():
    row = 3 * 32 * 32 * 4
    one, four = (_measured(Line().eval(), Tracing(wrt=(INPUT,)), _part(rows)) for rows in (1, 4))
    assert 7 * row <= one <= 12 * row  # the picture and six results, and what is made on the way
    assert four == pytest.approx(one, rel=0.05)  # a row
    assert one > 2 * live_bytes(Line(), torch.zeros(1, 3, 32, 32))


def test_rules_and_pairs_are_counted_as_they_run():
    plain, shared, paired = (
        _measured(tiny.classifier(), Tracing(wrt=(INPUT,), rule=rule), _part(2, references=isinstance(rule, Rescale)))
        for rule in (None, Relevance(), Rescale())
    )
    assert shared > 1.2 * plain
    assert paired > 1.8 * plain


def test_more_columns_take_more():
    tracing, layers = Tracing(wrt=(INPUT,)), Tracing(wrt=("conv1", "conv2", INPUT))
    for asked in (tracing, layers):
        model = _model(tiny.classifier())
        known = []
        for columns in (1, 4, 2):
            model.trace_parts([_part(1), _part(2, columns)], asked)
            known.append(model.trace_bytes(asked, True))
        assert known[0] < known[1] == known[2]
        assert known[1] >= _measured(tiny.classifier(), asked, _part(3, 4)) * 0.9


def test_a_trace_that_fails_says_nothing_of_its_memory():
    def broken(_):
        raise ValueError("no such thing")

    model, tracing = _model(tiny.classifier()), Tracing(wrt=(INPUT,))
    (found,) = model.trace_parts([Part(torch.zeros(1, 3, 32, 32), broken)], tracing)
    assert isinstance(found, ValueError)
    assert model.trace_bytes(tracing, True) is None


def test_what_does_not_run_while_it_is_counted_runs_uncounted(monkeypatch):
    class Refusing(memory._Live):
        def __torch_dispatch__(self, *_):
            raise TypeError("not under a mode")

    monkeypatch.setattr(memory, "_Live", Refusing)
    known, trace = TraceBytes(100), Trace(torch.zeros(1, 2))

    def traced():
        torch.ones(1)
        return [trace]

    assert known.counted("a", nn.Identity(), 1, traced) == [trace]
    assert known.of("a") == 400


def test_memory_that_runs_out_is_no_reason_to_try_again():
    calls = []

    def full():
        calls.append(1)
        raise MemoryError

    with pytest.raises(MemoryError):
        TraceBytes(100).counted("a", nn.Identity(), 1, full)
    assert len(calls) == 1


def test_of_kinds_that_callers_make_up_only_the_last_are_known():
    known, trace = TraceBytes(100), Trace(torch.zeros(1, 2))
    for kind in range(2000):
        known.counted(kind, nn.Identity(), 1, lambda: [trace])
    assert known.of(0) is None
    assert known.of(1999) is not None
    assert len(known._known) <= 1024
