"""Outputs that were computed before, bounded in bytes."""

import torch

from service.engine.scheduler.cache import ScoreCache


def _outputs(floats):
    return torch.zeros(floats)


def test_the_least_recently_used_goes_first():
    cache = ScoreCache(100)
    for key in "abc":
        cache.put(key, _outputs(8))  # 32 bytes
    assert cache.get("a") is not None
    cache.put("d", _outputs(8))
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]
    assert (len(cache), cache.bytes) == (3, 96)


def test_what_is_too_large_alone_drives_nothing_out():
    cache = ScoreCache(100)
    cache.put("a", _outputs(8))
    cache.put("b", _outputs(26))
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_what_is_put_again_counts_once():
    cache = ScoreCache(100)
    cache.put("a", _outputs(8))
    cache.put("a", _outputs(16))
    assert (len(cache), cache.bytes) == (1, 64)
    assert len(cache.get("a")) == 16
