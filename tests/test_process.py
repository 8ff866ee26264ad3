"""The cores are the device thread's, whatever else runs in the process; freed memory waits for the next forward."""

import platform
import subprocess
import sys

import pytest
import torch

from service.app import build, close
from service.engine.scheduler.device import Device
from service.process import ALL_THREADS, SEARCHES, SWITCH_INTERVAL_S, out_of_memory
from service.settings import Settings
from tests.conftest import CATALOG


def test_only_the_device_thread_runs_on_several_cores() -> None:
    context = build(Settings(catalog=CATALOG, device="cpu", tune=False))
    try:
        context.store.start()
        context.store.wait()
        for pool in (context.pool, context.long_pool, context.health_pool):
            assert pool.submit(torch.get_num_threads).result() == 1
        assert context.device.call(torch.get_num_threads) == ALL_THREADS
    finally:
        close(context)


def test_the_number_of_threads_of_a_forward_can_be_chosen() -> None:
    device = Device(torch.device("cpu"), threads=ALL_THREADS + 1)
    try:
        assert device.call(torch.get_num_threads) == ALL_THREADS + 1
    finally:
        device.close()


def test_a_process_that_serves_keeps_one_team_of_threads() -> None:
    # In a process of its own: what a main thread has set stays.
    code = (
        "import gc, sys, threading, torch; from service.process import ALL_THREADS, prepare_process; "
        "prepare_process(); prepare_process(); "  # as several commands in one process do
        "from service.engine.scheduler.device import Device; "
        "device = Device(torch.device('cpu')); "
        "print(torch.get_num_threads(), device.call(torch.get_num_threads) == ALL_THREADS); device.close(); "
        "print(gc.get_threshold()[2], sys.getswitchinterval(), "
        "sum(thread.name == 'heatlens-memory' for thread in threading.enumerate()) <= 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True", str(SEARCHES), str(SWITCH_INTERVAL_S), "True"]


MEMORY = """
import psutil, torch
from service.process import keep_freed_memory, release_freed_memory

assert keep_freed_memory()
held, process = [], psutil.Process()

def mib():
    held.append(process.memory_info().rss / 2**20)

mib()
torch.ones(64, 2**20)  # 256 MiB
mib()
release_freed_memory()
mib()
print(*held)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such options")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    before, kept, released = map(float, done.stdout.split())
    assert kept - before > 200
    assert released - before < 80


HEAPS = """
import ctypes, tempfile, threading
import service.server.server
from service.cli import main

class Served:
    def __init__(self, *_):
        pass

    def run(self):
        asking = [threading.Thread(target=bytearray, args=(2**20,)) for _ in range(8)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        with tempfile.NamedTemporaryFile() as file:
            told = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
            libc.malloc_info(0, told)
            libc.fclose(told)
            print(file.read().count(b"<heap "))

    def leave(self):
        pass

service.server.server.Server = Served
main(["serve", "--device", "cpu"], standalone_mode=False)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other heaps")
def test_a_server_has_one_heap_whose_end_is_given_back() -> None:
    # A thread that begins before the allocator is set up makes a second one, and of that the end is never given back.
    done = subprocess.run([sys.executable, "-c", HEAPS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("HIP out of memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),  # somebody's own words
    ],
)
def test_every_device_says_in_its_own_way_that_memory_ran_out(error, is_one):
    assert out_of_memory(error) is is_one
