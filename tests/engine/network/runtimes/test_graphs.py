"""Recorded forwards answer each picture; batches are filled up to a few sizes."""

import torch

from service.engine.network.runtimes.graphs import Recorded, bucket, buckets
from service.engine.network.variants import EXACT
from tests import tiny


def test_buckets_are_few_and_never_much_too_large():
    sizes = [bucket(rows) for rows in range(1, 257)]
    assert all(rows <= size < 1.5 * rows or size == rows for rows, size in enumerate(sizes, 1))
    assert buckets(256) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert buckets(7) == sorted({bucket(rows) for rows in range(1, 8)}) == [1, 2, 3, 4, 6, 8]


@torch.inference_mode()
def test_forwards_are_recorded_once_a_size_and_answer_each_picture():
    recordings = []

    def record(call):
        """As a graph does it: the result lies in one place, whatever is replayed."""
        found = call()
        recordings.append(found.shape[0])
        return found, lambda: found.copy_(call())

    network = tiny.classifier()
    recorded = Recorded(network, record)
    pictures = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    answers = [(some, recorded(some)) for some in (pictures[:3], pictures[3:6], pictures[6:], pictures[:3])]
    assert recordings == [3, 1]
    for some, answer in answers:  # none was overwritten by a later one
        torch.testing.assert_close(answer, network(some), rtol=EXACT, atol=EXACT)
