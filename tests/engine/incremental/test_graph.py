"""Nodes can be called for other rows and other sizes of maps."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.engine.incremental.recording.graph import Ref, Window, refs
from service.engine.incremental.recording.writing import write_down
from tests import tiny
from tests.engine.incremental.checks import noise


class Written(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x).mean((2, 3))


FUNCTIONS = {
    "relu": lambda x: F.relu(x),
    "views": lambda x: x.unflatten(1, (1, 3)).flatten(1, 2),
    "one of several": lambda x: x.split([1, 2], 1)[1],
    "several inputs": lambda x: torch.cat([x, 2 * x], 1),
    "keywords": lambda x: x.clamp(min=-0.5, max=0.5),
    "layout": lambda x: x.contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_calls_give_the_operators_value_for_other_rows_and_sizes(name):
    recording, x = write_down(Written(FUNCTIONS[name]), noise(1, 3, 8, 8)), noise(5, 3, 2, 4)
    values = [x]
    for node in recording.nodes[1:-1]:  # the last one is the mean
        values.append(node.call([values[i] for i in node.inputs], 5, (2, 4)))
    assert torch.equal(values[-1], FUNCTIONS[name](x))


def test_arguments_are_found_by_name_with_their_defaults():
    recording = write_down(Written(lambda x: F.avg_pool2d(x, 2, padding=1)), noise(1, 3, 8, 8))
    node = next(node for node in recording.nodes if node.name == "avg_pool2d")
    assert node.argument("kernel_size") == [2, 2]
    assert node.argument("count_include_pad") is True
    assert node.argument("divisor_override") is None
    with pytest.raises(ValueError, match="not in list"):
        node.argument("dilation")


def test_references_are_found_however_deep():
    assert refs([1, Ref(3), [Ref(2), {"a": (Ref(5), None)}], "x"]) == [3, 2, 5]


def test_windows_that_read_one_value_are_pointwise():
    def run(x, _):
        return x

    assert Window((1, 1), (1, 1), (0, 0), 0.0, run).pointwise
    for reach, stride, before in [((1, 2), (1, 1), (0, 0)), ((1, 1), (2, 1), (0, 0)), ((1, 1), (1, 1), (0, -1))]:
        assert not Window(reach, stride, before, 0.0, run).pointwise


def test_what_is_read_beyond_a_switch_and_what_nobody_reads_any_more():
    recording = write_down(Written(lambda x: x * 2 + (x * 3).relu()), noise(1, 3, 8, 8))
    assert [node.name for node in recording.nodes] == ["input", "mul", "mul", "relu", "add", "mean"]
    assert [recording.crossing(switch) for switch in range(1, 7)] == [[0], [0, 1], [1, 2], [1, 3], [4], []]
    assert {reader: set(read) for reader, read in recording.done_with.items()} == {2: {0}, 3: {2}, 4: {1, 3}, 5: {4}}


def test_multiplications_are_those_of_convolutions_and_linear_layers():
    """A 3 x 3 convolution of 3 to 8 channels at 32 x 32, one of 8 to 12 at 16 x 16, and a linear layer of 12 to 5."""
    recording = write_down(tiny.classifier(), noise(1, 3, 32, 32))
    assert recording.macs == 27 * 8 * 32**2 + 72 * 12 * 16**2 + 12 * 5
