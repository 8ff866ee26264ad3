"""What is written down can be repeated on other rows; what cannot be followed is named."""

import pytest
import torch
from torch.nn import functional as F

from service.engine.incremental import Incremental, NotIncremental
from service.engine.incremental.recording.writing import write_down
from service.engine.network.variants import EXACT
from tests import tiny
from tests.engine.incremental.checks import Branches, Forward, Head, noise

NETWORKS = {
    **{make.__name__: make for make in (tiny.classifier, tiny.vgg, tiny.functional)},
    **{kind: lambda kind=kind: Head(Branches(kind), (32, 32)) for kind in ("inception", "residual", "dense", "phases")},
}


@torch.inference_mode()
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_repeated_on_other_rows_a_recording_gives_what_the_network_gives(name, overwrite):
    torch.manual_seed(0)
    network, x = NETWORKS[name]().eval(), noise(5, 3, 32, 32)
    recording, values = write_down(network, noise(1, 3, 32, 32, seed=1)), {0: x.clone()}
    for node in recording.nodes[1:]:
        values[node.index] = node.call([values[i] for i in node.inputs], 5, overwrite=overwrite)
        assert values[node.index].shape == (5, *node.shape)
        for i in recording.done_with.get(node.index, ()):
            del values[i]
    (outputs,) = values.values()
    expected = network(x)
    assert (outputs - expected).abs().max() <= EXACT * expected.abs().max()


def test_what_nobody_reads_is_left_out():
    def function(m, x):
        m.group(x).mean((2, 3))  # would read whole maps
        return m.head(x)

    names = [node.name for node in write_down(Forward(function).eval(), noise(1, 3, 16, 16)).nodes]
    assert names == ["input", *["conv2d"] * 4, "mean", "linear"]


# Why rows have to be plain


def _tokens(m, x):
    t = x.flatten(2).transpose(1, 2)
    return m.head(m.attention(t, t, t)[0].transpose(1, 2).reshape(x.shape))


def _viewed(m, x):
    first = x[:, :4]
    x += 1
    return m.head(torch.cat([first, x[:, 4:]], 1))


def _hidden_state(m, x):
    m.calls = getattr(m, "calls", 0) + 1
    return m.head(x) * m.calls


REASONS = {
    "gate": (lambda m, x: m.head(x * torch.sigmoid(x.mean((2, 3), keepdim=True))), "mul, combines maps"),
    "group norm": (lambda m, x: m.head(m.group(x)), "group_norm, reads whole maps"),
    "layer norm": (lambda m, x: m.head(m.layer(x)), "layer_norm, reads whole maps"),
    "instance norm": (lambda m, x: m.head(F.instance_norm(x)), "instance_norm, reads whole maps"),
    "attention": (_tokens, "reads whole maps"),
    "reflection": (lambda m, x: m.head(F.pad(x, (1, 1, 1, 1), mode="reflect")), "pad, reads whole maps"),
    "softmax of places": (lambda m, x: m.head(x.flatten(2).softmax(2).view(x.shape)), "reads whole maps"),
    "turned": (lambda m, x: m.head(x.transpose(2, 3)), "transpose, reads whole maps"),
    "decision": (lambda m, x: m.head(x) if x.sum().item() > 1e9 else m.head(-x), "decision|mixes"),
    "functions": (
        lambda m, x: torch.ops.higher_order.cond(x.sum() > 0, torch.abs, torch.neg, (m.head(x),)),
        "cond is given functions",
    ),
    "batch": (lambda m, x: m.head(x - x.mean(0, keepdim=True)), "mixes the rows"),
    "overwritten view": (_viewed, "overwrites a view"),
    "hidden state": (_hidden_state, "outputs differ"),
    "tuple": (lambda m, x: (m.head(x),), "does not return one"),
    "constant": (lambda m, x: torch.zeros(len(x), 4), "does not return one"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_followed_is_named(name):
    torch.manual_seed(0)
    function, why = REASONS[name]
    with pytest.raises(NotIncremental, match=why):
        Incremental.of(Forward(function).eval(), noise(1, 3, 16, 16))
