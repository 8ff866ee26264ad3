"""A batch of more rows than any before answers what its rows answer in small ones, whatever the network does."""

import pytest
import torch
from torch import Tensor, nn

from service.contract import INPUT, Part, Rescale, Trace, Tracing
from service.engine.network.forms.sizes import Sizes, maps_of, rows_of, traces_of
from service.engine.network.resident import Model
from service.errors import InvalidParameter, ModelFailed
from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task
from tests import oracles, tiny

ROWS = 40
X = torch.randn(ROWS, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Sized(nn.Module):
    """Does with more than so many pictures what `does` says."""

    def __init__(self, most: int, does: str) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU()
        self.fc = nn.Linear(8, 5)
        self.most, self.does = most, does
        self.register_buffer("held", torch.ones(most, 5))
        self.met: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.met.append(len(x))
        if len(x) > self.most and self.does == "statistics":
            x = x - x.mean(0, keepdim=True)
        y = self.fc(self.act(self.conv(x)).mean((2, 3)))
        large = len(y) > self.most
        if self.does == "buffer":
            return y * self.held[: len(y)]
        if large and self.does == "zeros":
            return torch.cat([y[: self.most], y[self.most :] * 0])
        if large and self.does == "middle":
            return torch.cat([y[: self.most], y[self.most : -1] * 0, y[-1:]])
        return y


DOES = ("buffer", "zeros", "middle", "statistics")


def _served(network: nn.Module) -> Model:
    spec = ModelSpec("sized", lambda: network, Transform(32, (32, 32), (0.0,) * 3, (1.0,) * 3), task("classification"))
    return Model(spec, network.eval(), torch.device("cpu"))


def _model(most: int, does: str) -> Model:
    torch.manual_seed(0)
    return _served(Sized(most, does))


def _batches(model: Model) -> list[str]:
    return [line.found for line in model.facts.checks if line.name == "batch"]


def _expected(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.module(one) for one in x.split(1)])


@pytest.mark.parametrize("does", DOES)
@pytest.mark.parametrize("most", [12, 30])
def test_many_rows_are_answered_as_few(does, most) -> None:
    model = _model(most, does)
    expected = _expected(model, X)
    for count in (1, 10, 11, 25, ROWS, ROWS):
        assert oracles.relative_error(model.forward(X[:count]), expected[:count]) < 1e-5
    (found,) = _batches(model)
    assert f"batches have {25 if most == 30 else 11} pictures at most" in found
    model.module.met.clear()
    model.forward(X)
    assert max(model.module.met) <= most


@pytest.mark.parametrize("does", DOES)
def test_many_traces_are_those_of_few(does) -> None:
    model = _model(12, does)
    tracing = Tracing(("conv",), (INPUT, "conv"))

    def traced(x: Tensor) -> list[Trace]:
        parts = [Part(piece, lambda seen: seen.outputs[:, 1:2], first=3) for piece in x.split(25)]
        return model.trace_parts(parts, tracing)

    expected = Trace.joined([model.trace(one, tracing, lambda seen: seen.outputs[:, 1:2]) for one in X.split(1)])
    for found in (traced(X), traced(X)):
        assert [one.first for one in found] == [3, 3]
        whole = Trace.joined(found)
        assert oracles.relative_error(whole.outputs, expected.outputs) < 1e-5
        assert oracles.relative_error(whole.activations["conv"], expected.activations["conv"]) < 1e-5
        for name in (INPUT, "conv"):
            assert oracles.relative_error(whole.gradients[name], expected.gradients[name]) < 1e-4
    assert len(_batches(model)) == 1


@pytest.mark.parametrize("does", DOES)
def test_many_pairs_are_those_of_few(does) -> None:
    model = _model(12, does)
    tracing = Tracing((), (INPUT,), rule=Rescale())

    def traced(x: Tensor) -> Trace:
        (found,) = model.trace_parts([Part(x, lambda seen: seen.outputs[:, :1], references=x * 0.5)], tracing)
        return found

    expected = Trace.joined([traced(one) for one in X.split(1)])
    assert oracles.relative_error(traced(X).gradients[INPUT], expected.gradients[INPUT]) < 1e-4
    assert len(_batches(model)) == 1


@pytest.mark.parametrize("does", DOES)
def test_many_maps_in_a_layers_place_are_answered_as_few(does) -> None:
    model = _model(12, does)
    tails = model.tails
    shares = torch.rand(ROWS, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    prefixes = [tails.prefix("conv", one) for one in X[:2].split(1)] if tails.way("conv").alone else None
    prefixes = prefixes or [tails.prefix("conv", X[:1])]
    pieces = [(prefix, prefix.output * part) for prefix, part in zip(prefixes, shares.split(25), strict=False)]
    expected = torch.cat([tails.outputs("conv", [(p, m)]) for p, maps in pieces for m in maps.split(1)])
    assert oracles.relative_error(tails.outputs("conv", pieces), expected) < 1e-5


def test_what_is_answered_rightly_costs_a_few_rows_once() -> None:
    model = _model(1000, "zeros")
    model.module.met.clear()
    for count in (10, 16, 16, 12, 32, 20, ROWS, ROWS):
        model.forward(X[:count])
    assert model.module.met == [10, 16, 2, 16, 12, 32, 2, 20, ROWS, 2, ROWS]
    assert _batches(model) == []


def test_every_way_of_running_rows_is_proved_for_itself() -> None:
    model = _model(1000, "zeros")
    model.forward(X)
    met = model.module.met
    met.clear()
    model.variants["fp32"] = type(model.variants["fp32"])("another", model.module)
    model.forward(X)
    assert met == [ROWS, 2]


def test_what_fails_in_small_batches_too_bounds_nothing() -> None:
    model = _model(1000, "zeros")
    model.module.most = "nothing to compare with"
    with pytest.raises(ModelFailed):
        model.forward(X)
    model.module.most = 1000
    model.forward(X)
    assert model.sizes.most is None


def _run(sizes: Sizes, kind, pieces, answers):
    return sizes.run(kind, pieces, lambda given: [answers(piece) for piece in given])


def test_numbers_that_are_none_prove_nothing_and_bound_nothing() -> None:
    told = []
    sizes = Sizes(None, told.append)
    met = []

    def answers(x: Tensor) -> Tensor:
        met.append(len(x))
        return x.sum((1, 2, 3))[:, None] * torch.nan

    for _ in range(2):
        assert len(_run(sizes, rows_of("fp32", None), [X], answers)[0]) == ROWS
    assert met == [ROWS, 1, 1] * 2
    assert not told


def test_numbers_that_only_many_rows_turn_into_none_are_a_failure() -> None:
    told = []
    sizes = Sizes(None, told.append)
    (found,) = _run(sizes, rows_of("fp32", None), [X], lambda x: x.mean((2, 3)) * (torch.nan if len(x) > 20 else 1.0))
    assert torch.equal(found, X.mean((2, 3)))
    assert sizes.most == 10
    assert [line.outcome for line in told] == ["warning"]


def test_a_part_that_has_no_answer_is_told_so() -> None:
    wrong = InvalidParameter("no such output")
    told = []
    sizes = Sizes(None, told.append)
    parts = [Part(X[:20]), Part(X[20:])]
    found = sizes.run(traces_of(Tracing()), parts, lambda given: [wrong for _ in given])
    assert found == [wrong, wrong]
    sizes.most = 10
    assert sizes.run(traces_of(Tracing()), parts, lambda given: [wrong for _ in given]) == [wrong, wrong]
    assert not told


def test_boxes_are_compared_by_the_table_that_is_made_of_them() -> None:
    """Which box is the first may differ from batch to batch, and how many rows of them are filled up."""
    told = []
    sizes = Sizes(None, told.append)
    kind = maps_of("conv", lambda found: found.sum(1))

    def answers(piece):
        found = piece[1].mean((2, 3))[:, :, None].expand(-1, -1, 6).clone()
        return found.flip(1) if len(found) > 20 else found

    (found,) = _run(sizes, kind, [("picture", X)], answers)
    assert found.shape == (ROWS, 3, 6)
    assert not told


def test_networks_of_the_house_take_any_number() -> None:
    model = _served(tiny.classifier())
    assert oracles.relative_error(model.forward(X), _expected(model, X)) < 1e-5
    assert model.sizes.most is None
