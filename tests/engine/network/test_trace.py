"""One pass for the parts of several requests gives each its own rows, activations and gradients."""

import threading

import pytest
import torch
from torch import nn
from torch.utils import checkpoint as checkpoints
from torch.utils.checkpoint import checkpoint

from service.contract import INPUT, Layout, Part, Relevance, Rescale, Rule, Trace, Tracing
from service.engine.network.capture import install
from service.engine.network.forms.addresses import Addresses
from service.engine.network.trace import straight, trace_parts
from service.engine.network.variants import Variant
from service.errors import NotApplicable
from service.tasks import task
from tests import tiny

RESCALED = Tracing(wrt=(INPUT,), rule=Rescale())


@pytest.fixture(scope="module")
def network():
    network = tiny.classifier().requires_grad_(False)
    install(network)
    return Variant("plain", network)


def _pictures(count, seed=0):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def _by_hand(module, x, layer, columns):
    """Outputs, the layer's answer and the columns' gradients there and at the input, by torch.autograd alone."""
    names = [name for name, _ in module.named_children()]
    cut = names.index(layer) + 1
    leaf = x.clone().requires_grad_()
    a = module[:cut](leaf.clone()).clone()
    y = module[cut:](a.clone())
    gradients = [torch.autograd.grad(y[:, c].sum(), (a, leaf), retain_graph=True) for c in columns]
    return y.detach(), a.detach(), [g[0] for g in gradients], [g[1] for g in gradients]


def test_parts_of_several_requests_get_their_own(network) -> None:
    first, second = _pictures(2), _pictures(3, 1)
    parts = [
        Part(first, lambda seen: seen.outputs[:, [1, 3]]),
        Part(second, lambda seen: seen.outputs[:, [0]] * 2, first=5),
    ]
    tracing = Tracing(layers=("conv2",), wrt=("conv2", INPUT))
    found = trace_parts(network, Addresses(), parts, tracing)
    for x, trace, columns, factor in ((first, found[0], (1, 3), 1), (second, found[1], (0,), 2)):
        y, a, at_layer, at_input = _by_hand(network.module, x, "conv2", columns)
        torch.testing.assert_close(trace.outputs, y)
        torch.testing.assert_close(trace.activations["conv2"], a)
        torch.testing.assert_close(trace.objective, y[:, list(columns)] * factor)
        torch.testing.assert_close(trace.gradients["conv2"], torch.stack(at_layer) * factor)
        torch.testing.assert_close(trace.gradients[INPUT], torch.stack(at_input) * factor)
    assert found[1].first == 5


def test_pairs_of_several_requests_are_held_against_each_other(network) -> None:
    """Pictures first, then their references: each part gets its own rows of both halves."""
    first, second = _pictures(2), _pictures(3, 1)
    parts = [
        Part(x, lambda seen: seen.outputs[:, [1]], references=0.5 * x, readout=task("classification").whole)
        for x in (first, second)
    ]
    for x, trace in zip((first, second), trace_parts(network, Addresses(), parts, RESCALED), strict=True):
        y, change = network.module(x), network.module(x) - network.module(0.5 * x)
        torch.testing.assert_close(trace.outputs, y)
        torch.testing.assert_close(trace.references, y - change)
        parts_of = (trace.gradients[INPUT][0] * 0.5 * x).sum((1, 2, 3))
        torch.testing.assert_close(parts_of, change[:, 1], rtol=1e-4, atol=1e-5)
        (alone,) = trace_parts(network, Addresses(), [Part(x, parts[0].objective, references=0.5 * x)], RESCALED)
        torch.testing.assert_close(alone.gradients[INPUT], trace.gradients[INPUT])


def test_a_rule_that_compares_takes_pairs(network) -> None:
    with pytest.raises(ValueError, match="takes `Pairs`"):
        trace_parts(network, Addresses(), [Part(_pictures(1), lambda seen: seen.outputs)], RESCALED)


def test_relevance_is_what_arrives_at_layers_and_at_the_input(network) -> None:
    """Nothing is lost behind the last layer with a bias but what that bias takes."""
    part = Part(_pictures(2), lambda seen: seen.outputs[:, [2]])
    (found,) = trace_parts(network, Addresses(), [part], Tracing(wrt=("gap", INPUT), rule=Relevance()))
    weight, bias = network.module.fc.weight[2], network.module.fc.bias[2]
    at_pool = found.gradients["gap"][0].flatten(1)
    torch.testing.assert_close(at_pool.sum(1) + bias, found.outputs[:, 2], rtol=1e-4, atol=1e-5)
    assert at_pool.shape[1] == len(weight)
    assert found.gradients[INPUT].shape == (1, 2, 3, 32, 32)


def test_an_objective_that_fails_fails_alone(network) -> None:
    def broken(seen: Trace) -> torch.Tensor:
        raise ZeroDivisionError("mine")

    x = _pictures(1)
    parts = [Part(x, broken), Part(x, lambda seen: seen.outputs[:, :1])]
    failed, fine = trace_parts(network, Addresses(), parts, Tracing(wrt=(INPUT,)))
    assert isinstance(failed, ZeroDivisionError)
    torch.testing.assert_close(fine.gradients[INPUT], torch.stack(_by_hand(network.module, x, "conv1", (0,))[3]))


def test_a_readout_that_fails_fails_alone(network) -> None:
    class Broken:
        key = None

        def __call__(self, raw):
            raise KeyError("mine")

    x = _pictures(1)
    parts = [Part(x, lambda seen: seen.outputs, readout=Broken()), Part(x, lambda seen: seen.outputs[:, :1])]
    failed, fine = trace_parts(network, Addresses(), parts, Tracing(wrt=(INPUT,)))
    assert isinstance(failed, KeyError)
    assert fine.outputs.shape == (1, 5)


def test_a_readout_makes_the_table_that_objectives_meet(network) -> None:
    class Twice:
        key = "twice"

        def __call__(self, raw):
            return raw[:, :2] * 2

    x = _pictures(2)
    part = Part(x, lambda seen: seen.outputs[:, 1:], readout=Twice())
    (found,) = trace_parts(network, Addresses(), [part], Tracing(layers=("conv2",), wrt=("conv2",)))
    y, _, at_layer, _ = _by_hand(network.module, x, "conv2", (1,))
    torch.testing.assert_close(found.outputs, y[:, :2] * 2)
    torch.testing.assert_close(found.gradients["conv2"], torch.stack(at_layer) * 2)


def test_totals_leave_nothing_else_behind(network) -> None:
    x = _pictures(3)
    part = Part(x, lambda seen: seen.outputs[:, :2], lambda seen: [seen.gradients[INPUT].sum(1)])
    (found,) = trace_parts(network, Addresses(), [part], Tracing(layers=("conv2",), wrt=(INPUT,)))
    at_input = torch.stack(_by_hand(network.module, x, "conv2", (0, 1))[3])
    torch.testing.assert_close(found.totals[0], at_input.sum(1))
    assert not found.gradients
    assert not found.activations
    pieces = [
        trace_parts(network, Addresses(), [Part(x[i : i + 1], part.objective, part.total, i)], Tracing(wrt=(INPUT,)))[0]
        for i in range(3)
    ]
    joined = Trace.joined(pieces)
    torch.testing.assert_close(joined.totals[0], found.totals[0])
    assert joined.outputs.shape == (3, 5)


def test_a_total_that_fails_fails_alone(network) -> None:
    x = _pictures(1)
    parts = [
        Part(x, lambda seen: seen.outputs[:, :1], lambda seen: 1 / 0),
        Part(x, lambda seen: seen.outputs[:, :1], lambda seen: [seen.gradients[INPUT].sum(1)]),
    ]
    failed, fine = trace_parts(network, Addresses(), parts, Tracing(wrt=(INPUT,)))
    assert isinstance(failed, ZeroDivisionError)
    assert len(fine.totals) == 1


def test_a_partial_forward_stops_and_has_no_outputs(network) -> None:
    x, met = _pictures(2), []
    handle = network.module.fc.register_forward_pre_hook(lambda *_: met.append(1))
    part = Part(x, lambda seen: seen.activations["conv2"][:, 0].mean((1, 2))[:, None])
    tracing = Tracing(layers=("conv2",), wrt=(INPUT,), partial=True)
    (found,) = trace_parts(network, Addresses(), [part], tracing)
    handle.remove()
    assert not met
    assert found.outputs.shape == (2, 0)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network.module[:5](leaf.clone())[:, 0].mean((1, 2)).sum(), leaf)
    torch.testing.assert_close(found.gradients[INPUT][0], expected)


def test_gradients_at_several_layers_and_the_rule(network) -> None:
    x = _pictures(1)
    part = Part(x, lambda seen: seen.outputs[:, [2]])
    tracing = Tracing(wrt=("conv1", "conv2", INPUT))
    (found,) = trace_parts(network, Addresses(), [part], tracing)
    for layer in ("conv1", "conv2"):
        torch.testing.assert_close(found.gradients[layer][0], _by_hand(network.module, x, layer, (2,))[2][0])
    (other,) = trace_parts(network, Addresses(), [part], Tracing(wrt=(INPUT,), rule=Rule("linear")))
    assert not torch.allclose(other.gradients[INPUT], found.gradients[INPUT])
    torch.testing.assert_close(other.outputs, found.outputs)


class Blind(nn.Module):
    """Passes a gradient on from `seen`, none from `hidden`."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.seen = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)

    def forward(self, x):
        with torch.no_grad():
            a = self.hidden(x)
        return self.seen(a).mean((2, 3))


@pytest.mark.parametrize("name", ["hidden", INPUT])
def test_a_gradient_that_does_not_exist_is_an_error_and_no_zero(name) -> None:
    network = Blind().eval().requires_grad_(False)
    install(network)
    part = Part(_pictures(1), lambda seen: seen.outputs[:, :1])
    (failed,) = trace_parts(Variant("plain", network), Addresses(), [part], Tracing(wrt=(name,)))
    assert isinstance(failed, NotApplicable)
    assert ("the input" if name == INPUT else repr(name)) in failed.detail
    (fine,) = trace_parts(Variant("plain", network), Addresses(), [part], Tracing(wrt=("seen",)))
    assert torch.allclose(fine.gradients["seen"][0, 0, 0], torch.tensor(1 / 900))


class Tokens(nn.Module):
    """A class token and 4 x 4 patches; the outputs read one or the others."""

    def __init__(self, read) -> None:
        super().__init__()
        self.patches, self.norm, self.read = nn.Conv2d(3, 6, 8, 8), nn.LayerNorm(6), read

    def forward(self, x):
        t = self.patches(x).flatten(2).mT
        return self.read(self.norm(torch.cat([t.mean(1, keepdim=True), t], 1)))


ADDRESSES = Addresses(layouts={"norm": Layout("tokens", (4, 4), 1)})


def test_tokens_are_seen_as_maps_and_so_are_their_gradients() -> None:
    network = Tokens(lambda t: t[:, 1:].square().mean(1)).eval().requires_grad_(False)
    install(network)
    x = _pictures(2)
    part = Part(x, lambda seen: seen.outputs[:, :2])
    tracing = Tracing(layers=("norm",), wrt=("norm",))
    (found,) = trace_parts(Variant("plain", network), ADDRESSES, [part], tracing)
    a = network.norm(network.patches(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.activations["norm"], a)
    expected = torch.zeros(2, 2, 6, 4, 4)
    for t in range(2):  # of the mean over 16 places of the square of channel t
        expected[t, :, t] = 2 * a[:, t] / 16
    torch.testing.assert_close(found.gradients["norm"], expected)


def test_a_layer_behind_which_only_the_class_token_is_read_is_refused() -> None:
    network = Tokens(lambda t: t[:, 0]).eval().requires_grad_(False)
    install(network)
    part = Part(_pictures(1), lambda seen: seen.outputs[:, :1])
    (failed,) = trace_parts(Variant("plain", network), ADDRESSES, [part], Tracing(wrt=("norm",)))
    assert isinstance(failed, NotApplicable)
    assert "earlier layer" in failed.detail


class Checkpointed(nn.Module):
    def __init__(self, reentrant) -> None:
        super().__init__()
        self.inner, self.reentrant = tiny.classifier(), reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_blocks_are_differentiated_inside(reentrant) -> None:
    network = Checkpointed(reentrant).eval().requires_grad_(False)
    install(network)
    x = _pictures(1)
    part = Part(x, lambda seen: seen.outputs[:, [3]])
    tracing = Tracing(layers=("inner.conv2",), wrt=("inner.conv2", INPUT))
    (found,) = trace_parts(Variant("plain", network), Addresses(), [part], tracing)
    _, a, at_layer, at_input = _by_hand(network.inner, x, "conv2", (3,))
    torch.testing.assert_close(found.activations["inner.conv2"], a)
    torch.testing.assert_close(found.gradients["inner.conv2"][0], at_layer[0])
    torch.testing.assert_close(found.gradients[INPUT][0], at_input[0])


def test_threads_that_run_blocks_straight_do_not_undo_each_other() -> None:
    inside, go, leave = threading.Event(), threading.Event(), threading.Event()
    before = checkpoints.CheckpointFunction

    def other() -> None:
        with straight():
            inside.set()
            assert leave.wait(60)
        go.set()

    thread = threading.Thread(target=other)
    with straight():
        thread.start()
        assert inside.wait(60)
    assert checkpoints.CheckpointFunction is not before  # the other one is still inside
    leave.set()
    assert go.wait(60)
    thread.join(60)
    assert checkpoints.CheckpointFunction is before


def test_what_is_asked_for_whole_lies_as_in_the_network() -> None:
    network = tiny.tokens().requires_grad_(False)
    install(network)
    addresses = Addresses(layouts={"norm": Layout("tokens", (3, 5), 1)})
    part = Part(_pictures(2), lambda seen: seen.outputs[:, [1]])
    whole, maps = (
        trace_parts(Variant("plain", network), addresses, [part], Tracing(("norm",), ("norm",), whole=whole))[0]
        for whole in (True, False)
    )
    assert whole.activations["norm"].shape == (2, 16, 16)
    assert whole.gradients["norm"].shape == (1, 2, 16, 16)
    layout = addresses.layouts["norm"]
    assert torch.equal(maps.activations["norm"], layout.maps(whole.activations["norm"]))
    assert torch.equal(maps.gradients["norm"][0], layout.maps(whole.gradients["norm"][0]))
