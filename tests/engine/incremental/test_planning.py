"""Plans: what they are made from, and what they promise."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from service.engine.incremental import Incremental, NotIncremental
from service.engine.incremental.costs import Costs
from service.engine.incremental.planning import arithmetic, best, require_local
from service.engine.incremental.recording.writing import write_down
from service.engine.network.memory import live_bytes
from tests import tiny
from tests.engine.incremental.checks import headed, noise


@torch.inference_mode()
def test_batches_hold_every_rectangle_once_and_save_work():
    layers = [nn.Conv2d(3 if i == 0 else 6, 6, 5, padding=2) for i in range(6)]
    built = Incremental.of(headed((64, 64), *layers), noise(1, 3, 64, 64))
    plan = replace(built.plan((8, 8), 4), switch=built.recording.furthest, rows=16)
    corners = torch.cartesian_prod(torch.arange(0, 57, 4), torch.arange(0, 57, 4))
    batches = built.batches(plan, corners)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(corners)))
    assert max(map(len, batches)) <= 16
    at = corners.numpy()
    single, dealt, together = (arithmetic(built.recording, plan, at, rows) for rows in (1, 16, len(corners)))
    assert single < dealt < together < 1
    reading = [arithmetic(built.recording, plan, at[i : i + 16], 16) for i in range(0, len(corners) - 16, 16)]
    assert dealt < sum(reading) / len(reading)


def test_plans_are_kept_and_larger_windows_save_less():
    built = Incremental.of(tiny.classifier(), noise(1, 3, 32, 32))
    assert built.plan((4, 4)) is built.plan((4, 4))
    found = [built.plan((side, side)).arithmetic for side in (1, 8, 32)]
    assert found[0] < found[1] <= found[2] == 1
    assert best(built.recording, by_macs(built.recording, 1e-10), (32, 32), 1).gain == pytest.approx(1, abs=0.2)


# What plans are made from


def written(network, size=(32, 32)):
    return write_down(network.eval(), noise(1, 3, *size))


def by_macs(recording, copying=0.0):
    """Operators that take a nanosecond a multiplication."""
    return Costs(tuple(node.macs * 1e-9 for node in recording.nodes), copying)


@pytest.mark.parametrize("window", [(1, 1), (5, 9), (16, 30)])
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional])
def test_where_copying_is_free_the_gain_is_that_of_the_arithmetic(network, window):
    recording = written(network())
    plan = best(recording, by_macs(recording), window, 1)
    assert plan.arithmetic < 1
    assert plan.gain == pytest.approx(1 / plan.arithmetic)


def test_where_copying_costs_more_than_all_operators_plain_rows_are_expected_to_be_faster():
    recording = written(tiny.classifier())
    assert best(recording, by_macs(recording, copying=1.0), (4, 4), 1).gain < 0.01


def test_only_the_operators_that_take_time_decide():
    """Of the first convolution's output (3 x 3, a border of 1) a square of 4 in a corner reaches 5 x 5 of 32 x 32."""
    recording = written(tiny.classifier())
    convolution = [node.name for node in recording.nodes].index("conv2d")
    costs = Costs(tuple(float(i == convolution) for i in range(len(recording.nodes))), 0.0)
    assert best(recording, costs, (4, 4), 28).gain == pytest.approx(32 * 32 / 25)


@pytest.mark.parametrize("scale", [1e-3, 7.0])
def test_only_ratios_of_costs_decide(scale):
    """So that costs measured on another machine may serve, where they are in proportion."""
    recording = written(tiny.vgg())
    costs = by_macs(recording, copying=1e-9)
    scaled = Costs(tuple(s * scale for s in costs.operators), costs.copying * scale)
    plan, other = (best(recording, given, (6, 6), 2) for given in (costs, scaled))
    assert other == replace(plan, gain=pytest.approx(plan.gain))


def test_the_dearer_copying_the_earlier_maps_are_whole():
    """Each of five convolutions reaches 4 further to each side, so that of the last map all is computed anyway."""
    recording = written(headed((32, 32), *[nn.Conv2d(3 if i == 0 else 4, 4, 9, padding=4) for i in range(5)]))
    plans = [best(recording, by_macs(recording, copying), (4, 4), 1) for copying in (0, 1e-8, 2e-8, 5e-8, 1e-6)]
    switches, gains = [plan.switch for plan in plans], [plan.gain for plan in plans]
    assert switches[0] >= 5
    assert switches == sorted(switches, reverse=True)
    assert len(set(switches)) > 3
    assert gains == sorted(gains, reverse=True)
    for furthest in range(1, recording.furthest):  # a network whose operators read whole maps earlier gains no more
        limited = best(replace(recording, furthest=furthest), by_macs(recording, 2e-8), (4, 4), 1)
        assert limited.switch <= min(furthest, switches[2])
        assert limited.gain <= gains[2]


def averaged():
    """Most crowded where means are taken."""
    return nn.Sequential(nn.Conv2d(3, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))


@torch.inference_mode()
@pytest.mark.parametrize("copying", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("side", [3, 6, 16])
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional, averaged])
def test_rows_take_the_memory_that_the_plan_says(network, side, copying):
    """Held against what the dispatcher sees made in a batch; in-place operators make it less."""
    recording, image = written(network()), noise(1, 3, 32, 32)
    built = Incremental(recording, by_macs(recording, copying))
    plan = built.plan((side, side), 2)
    corners = 2 * torch.cartesian_prod(*[torch.arange((32 - side) // 2 + 1)] * 2)
    for batch in built.batches(plan, corners):
        rows = Rows(built, plan, built.clean(image, plan), corners[batch])
        patches = noise(len(batch), 3, side, side)
        rows(patches)  # what a layout remembers stays
        taken = live_bytes(rows, patches) / len(batch)
        assert 0.5 * plan.row_bytes <= taken <= 1.1 * plan.row_bytes + 512  # and some values of a channel each


class Rows(nn.Module):
    """Outputs of patches, in whose memory the clean picture's is not counted."""

    def __init__(self, built, plan, clean, corners):
        super().__init__()
        self.built, self.plan, self.clean, self.corners = built, plan, clean, corners
        kept = [*(clean_map.values for clean_map in clean.maps.values()), *clean.means.values()]
        for i, tensor in enumerate(kept):
            self.register_buffer(str(i), tensor)

    def forward(self, patches):
        of = torch.zeros(len(patches), dtype=torch.long)
        return self.built.outputs(self.plan, [self.clean], of, self.corners, patches)


@pytest.mark.parametrize(("behind", "refused"), [(0, False), (4, True)])
def test_a_third_of_the_work_has_to_lie_before_the_first_operator_that_reads_whole_maps(behind, refused):
    """Before it, 27 * 6 multiplications a place; behind it, 54 * 6 for each convolution, and 12 of the head."""
    layers = [nn.Conv2d(3, 6, 3, padding=1), Turned(), *[nn.Conv2d(6, 6, 3, padding=1) for _ in range(behind)]]
    recording = written(headed((32, 32), *layers))
    if refused:
        with pytest.raises(NotIncremental, match="transpose, reads whole maps; 11% of the multiplications come before"):
            require_local(recording)
    else:
        require_local(recording)


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(2, 3)
