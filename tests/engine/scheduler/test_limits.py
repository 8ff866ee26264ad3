"""How many rows a batch may have."""

import pytest
import torch

from service.engine.scheduler.limits import Limits, out_of_memory


def test_before_anything_is_measured_few_rows_are_tried():
    assert Limits(256, 8).of("a") == 8
    assert Limits(4, 8).of("a") == 4
    assert Limits(16).of("a") == 16


def test_what_was_measured_holds_for_its_own_key():
    limits = Limits(64, 8)
    limits.set("a", 24)
    limits.set("b", 1000)
    limits.set("c", 0)
    assert [limits.of(key) for key in "abcd"] == [24, 64, 1, 8]


def test_running_out_of_memory_halves_whatever_was_measured():
    limits = Limits(64)
    limits.set("a", 24)
    limits.too_many("a", 24)
    assert limits.of("a") == 12
    limits.set("a", 32)  # measured again: memory has not become more
    assert limits.of("a") == 12
    limits.too_many("a", 1)
    assert limits.of("a") == 1


def test_as_many_rows_as_memory_allows_and_at_least_one():
    limits = Limits(64, max_bytes=1000)
    assert [limits.fitting(size) for size in (0, 1, 100, 999, 5000)] == [64, 64, 10, 1, 1]


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
