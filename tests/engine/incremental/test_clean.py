"""Of a picture only what rows need is kept."""

from dataclasses import replace

import pytest
import torch

from service.engine.incremental import Incremental
from tests import tiny
from tests.engine.incremental.checks import Branches, Head, noise


def branches():
    return Head(Branches("inception"), (32, 32))


@torch.inference_mode()
def test_memory_is_counted_and_only_what_the_plan_needs_is_kept():
    image = noise(1, 3, 32, 32)
    built = Incremental.of(tiny.classifier(), image)
    plan = built.plan((4, 4))
    clean = built.clean(image, replace(plan, switch=built.recording.furthest))
    # The picture with its border, the first map without one, the pooled map with its border, the last one, outputs.
    kept = [3 * 34 * 34, 8 * 32 * 32, 8 * 18 * 18, 12 * 16 * 16]
    assert clean.nbytes == 4 * (sum(kept) + 12 + 5)
    assert built.clean(image, replace(plan, switch=1)).nbytes == 4 * (3 * 32 * 32 + 5)


@torch.inference_mode()
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional, branches])
def test_its_bytes_are_known_before(network):
    image = noise(1, 3, 32, 32)
    built = Incremental.of(network().eval(), image)
    for switch in range(1, built.recording.furthest + 1):
        plan = replace(built.plan((4, 4)), switch=switch)
        assert built.clean_bytes(plan) == built.clean(image, plan).nbytes
