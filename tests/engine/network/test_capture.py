"""What is kept of a forward is what the layer answered, whatever is done to it later; the network keeps no trace."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.engine.network.capture import Done, Tape, install, recording, uninstall
from tests import tiny


def _installed(network):
    install(network)
    return network


def test_what_is_kept_is_not_what_a_later_function_in_place_makes_of_it() -> None:
    network = _installed(tiny.classifier())
    x = torch.randn(2, 3, 32, 32)
    tape = Tape({"bn1", "relu1"})
    with torch.no_grad(), recording(tape):
        network(x)
        expected = network.bn1(network.conv1(x))
    assert float(expected.min()) < 0
    assert torch.equal(tape.kept["bn1"], expected)
    assert torch.equal(tape.kept["relu1"], expected.relu())


def test_calls_of_one_module_are_told_apart() -> None:
    network = _installed(tiny.functional())
    x = torch.randn(1, 3, 32, 32)
    tape = Tape({"conv2#1", "conv2#2"}, repeated={"conv2", "relu6"})
    with torch.no_grad(), recording(tape):
        network(x)
        first = network.conv2(network.relu6(F.max_pool2d(network.conv1(x), 2)))
        second = network.conv2(network.relu6(first.clone()))
    assert torch.equal(tape.kept["conv2#1"], first)
    assert torch.equal(tape.kept["conv2#2"], second)


def test_a_tape_stops_the_forward_once_every_layer_has_answered() -> None:
    network = _installed(tiny.classifier())
    met = []
    network.fc.register_forward_pre_hook(lambda *_: met.append(1))
    with pytest.raises(Done), recording(Tape({"conv1", "conv2"}, stop=True)):
        network(torch.randn(1, 3, 32, 32))
    assert not met


def test_without_a_tape_hooks_change_nothing_and_are_taken_off_again() -> None:
    plain = tiny.classifier()
    network = _installed(copy.deepcopy(plain))
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(x), plain(x))
    assert not any(child._forward_hooks for child in uninstall(network).modules())


def test_tapes_do_not_outlive_their_block() -> None:
    network = _installed(tiny.classifier())
    tape = Tape({"conv1"})
    with recording(tape):
        pass
    network(torch.randn(1, 3, 32, 32))
    assert not tape.kept


def test_of_a_tuple_the_first_tensor_is_kept() -> None:
    network = _installed(tiny.tokens())
    tape = Tape({"mix"})
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), recording(tape):
        outputs = network(x)
    torch.testing.assert_close(outputs, network(x))
    t = network.patches(x).flatten(2).mT
    torch.testing.assert_close(tape.kept["mix"], network.mix(t, t, t, need_weights=False)[0])


class Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scripted = torch.jit.script(tiny.classifier())
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.scripted(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_compiled_parts_have_no_inside_and_are_let_be() -> None:
    network = _installed(Compiled())
    tape = Tape({"scripted", "fc"})
    with torch.no_grad(), recording(tape):
        outputs = network(torch.randn(1, 3, 32, 32))
    assert set(tape.kept) == {"fc"}
    assert torch.equal(tape.kept["fc"], outputs)
