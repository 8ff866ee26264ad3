"""Memory is given back while work goes on."""

from pathlib import Path

from service.machine.trimming import Trimming, resident_bytes


def test_memory_is_given_back_where_a_process_has_grown_much() -> None:
    """What is left after that is in use: from there it may grow as much again."""
    sizes, released = [100], []

    def release() -> None:
        released.append(sizes[0])
        sizes[0] = min(sizes[0], 140)

    trimming = Trimming(release, 50, lambda: sizes[0])
    for size in (100, 150, 151, 140, 180, 190, 191, 90, 140, 141):
        sizes[0] = size
        trimming.look()
    assert released == [151, 191, 141]
    assert resident_bytes() > 2**24 or not Path("/proc/self/statm").exists()
