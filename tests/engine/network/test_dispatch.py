"""The dispatcher is watched without PyTorch's compiler."""

import subprocess
import sys
import threading

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from service.engine.network.dispatch import Dispatch


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


def test_one_thread_at_a_time_watches() -> None:
    """PyTorch would think of itself as watched for ever after two threads at once."""
    waits, ended = threading.Event(), threading.Event()

    def other() -> None:
        waits.set()
        with Names():
            torch.ones(2)
        ended.set()

    thread = threading.Thread(target=other)
    with Names():
        thread.start()
        assert waits.wait(60)
        assert not ended.is_set()
        assert is_in_torch_dispatch_mode()
    assert ended.wait(60)
    thread.join(60)
    assert not is_in_torch_dispatch_mode()


def test_the_compiler_is_not_imported() -> None:
    script = (
        "import sys, torch; from service.engine.network.memory import live_bytes; "
        "assert live_bytes(torch.nn.ReLU(), torch.zeros(1, 8)) >= 32; print('torch._dynamo' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]
