"""Memory is given back while work goes on."""

from itertools import count
from pathlib import Path

from service.machine.trimming import Trimming, resident_bytes


def test_memory_is_given_back_where_a_process_has_grown_much() -> None:
    """What is left after that is in use: from there it may grow as much again."""
    sizes, released = [100], []

    def release() -> None:
        released.append(sizes[0])
        sizes[0] = min(sizes[0], 140)

    trimming = Trimming(release, 50, lambda: sizes[0], map(float, count()).__next__)
    for size in (100, 150, 151, 140, 180, 190, 191, 90, 140, 141):
        sizes[0] = size
        trimming.look()
    assert released == [151, 191, 141]
    assert resident_bytes() > 2**24 or not Path("/proc/self/statm").exists()


def test_what_the_next_forward_takes_again_is_not_given_back_all_the_time() -> None:
    """What a forward takes at a time is more than the step: its pages are cleared in a fiftieth of the time."""
    rest, need, now, released = 800 * 2**20, 200 * 2**20, [0.0], []
    sizes = [rest]

    def release() -> None:
        released.append(now[0])
        sizes[0] = rest

    trimming = Trimming(release, 160 * 2**20, lambda: sizes[0], lambda: now[0])
    for tick in range(500):  # 100 s of batches, each of which takes the same again
        now[0] = tick / 5
        sizes[0] = rest + need
        trimming.look()
    cost_s = len(released) * 0.6 * need / 2**30
    assert len(released) >= 2
    assert cost_s <= 0.02 * 100 + 0.6 * need / 2**30


def test_what_grows_beyond_what_was_given_back_is_given_back_at_once() -> None:
    """So that a process is never larger than what it has in use and two steps."""
    now, sizes, released = [0.0], [800], []

    def release() -> None:
        released.append(sizes[0])
        sizes[0] = 800

    trimming = Trimming(release, 100, lambda: sizes[0], lambda: now[0])
    for size in (1000, 1000, 1001, 1000, 9000, 1000, 1001):
        now[0] += 1e-9
        sizes[0] = size
        trimming.look()
    assert released == [1000, 1001, 9000, 1001]
