"""How the process uses the machine: memory that a forward frees is kept for the next one, cores are the device's."""

import ctypes
import functools
import gc
import sys
import threading
from contextlib import suppress

import torch

from service.machine.cores import cores
from service.machine.trimming import Trimming

# Every system call of the event loop gives Python's lock away, and takes it back from a thread that computes only after
# this time. By default that is 5 ms, and a request has ten of them.
SWITCH_INTERVAL_S = 0.0005

# Searches of what is young after which, at the earliest, all that lives is searched for garbage; Python's number is 10.
# Beside thousands of connections this takes a fifth of a second, in which nobody gets anything, and finds little:
# what requests and connections leave is freed by counting references.
SEARCHES = 1000

# As PyTorch starts: the machine's cores, or OMP_NUM_THREADS. More threads than the container has cores are throttled.
ALL_THREADS = min(torch.get_num_threads(), cores())

# Of <malloc.h>, for mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> bool:
    """Set up glibc's allocator for tensors; return whether it took it. To be called before threads start.

    By default each large activation is mapped when it is made and unmapped when it is freed, and the kernel clears
    its pages anew every time: that took a third of the time of a forward on a CPU. Kept in one heap they are used
    again, at the price that the process does not shrink below its largest need. Other C libraries have no such
    option, or need none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Older versions take no more than 32 MiB as the size from which memory is mapped.
    mapped = any(mallopt(_MMAP_THRESHOLD, size) for size in (1 << 30, 32 << 20))
    others = [mallopt(_TRIM_THRESHOLD, (1 << 31) - 1), mallopt(_TOP_PAD, 64 << 20), mallopt(_ARENA_MAX, 1)]
    return mapped and all(others)


def release_freed_memory() -> None:
    """Give memory that was freed, and kept, back to the system: after work that needed more than what follows will."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any kind of device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))


def leave_cores_to_the_device() -> None:
    """Let PyTorch use one core in the calling thread. To be called first in every thread but the device's.

    GNU's OpenMP keeps a team of threads for every thread that ever ran a parallel loop. With more of them than cores,
    it sends them to sleep after each loop at once, whoever is idle: forwards of small batches then took more than
    twice as long. Where all other threads use one core, there is one team only, that of the device thread.
    """
    use_threads(1)


def use_threads(count: int) -> None:
    """Let PyTorch use so many cores in the calling thread."""
    torch.get_num_threads()  # first: a thread's first use takes over what was last set anywhere, and would undo ours
    torch.set_num_threads(count)


@functools.cache
def _trim_all_the_time() -> None:
    """Begin to give freed memory back; once a process, however many commands run in it."""
    threading.Thread(target=Trimming(release_freed_memory).run, name="heatlens-memory", daemon=True).start()


def prepare_process() -> None:
    """Keep freed memory in bounds, leave the cores to the device's thread, and Python's lock to the event loop.

    To be called before threads start; again, it changes nothing.
    """
    if keep_freed_memory():
        _trim_all_the_time()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*gc.get_threshold()[:2], SEARCHES)
    leave_cores_to_the_device()
