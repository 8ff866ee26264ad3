"""The dispatcher is watched without PyTorch's compiler."""

import subprocess
import sys

import torch

from service.engine.network.dispatch import Dispatch, storage


class Names(Dispatch):
    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.met.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_every_operator_is_met() -> None:
    with Names() as names:
        found = torch.ones(2) + torch.zeros(2)
    assert names.met == ["ones", "zeros", "add"]
    assert found.tolist() == [1, 1]
    torch.ones(2)
    assert len(names.met) == 3


def test_the_compiler_is_not_imported() -> None:
    script = (
        "import sys, torch; from service.engine.network.memory import live_bytes; "
        "assert live_bytes(torch.nn.ReLU(), torch.zeros(1, 8)) >= 32; print('torch._dynamo' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]


def test_memory_is_told_of_what_has_any() -> None:
    x = torch.ones(4)
    view, sparse = storage(x[1:]), storage(torch.eye(3).to_sparse())
    assert view is not None
    assert view.data_ptr() == x.data_ptr()
    assert sparse is None
