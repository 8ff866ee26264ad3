"""Rows that start at a layer: those of several requests share a batch, and each reads its own answers."""

import pytest
import torch

from service.contract import At
from service.engine.scheduler.at import AtWork
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from tests.engine.scheduler.doubles import together


class Tails:
    """A network whose answer is the sum of the maps and of the picture; it notes what it is asked."""

    def __init__(self):
        self.prefixes, self.batches = [], []

    def prefix(self, layer, image):
        self.prefixes.append((layer, float(image.sum())))
        return float(image.sum())

    def outputs(self, layer, pieces):
        self.batches.append([len(maps) for _, maps in pieces])
        return torch.cat([maps.sum((2, 3))[:, :1] + own for own, maps in pieces])


def work_of(tails, value, count, shared=None, layer="layer"):
    image = torch.full((1, 1, 1, 1), float(value))
    rows = At(count, lambda i, j: torch.arange(float(i), j).view(-1, 1, 1, 1), None, image, layer)
    return AtWork(tails, tails, rows, shared)


@pytest.fixture
def device():
    device = Device(torch.device("cpu"), max_batch_rows=16)
    yield device
    device.close()


def test_rows_of_several_pictures_share_a_batch_and_each_runs_its_prefix_once(device):
    tails = Tails()
    found = together(device, [(work_of(tails, 100, 20), Run()), (work_of(tails, 200, 3), Run())])
    assert found[0].flatten().tolist() == [100.0 + i for i in range(20)]
    assert found[1].flatten().tolist() == [200.0, 201, 202]
    assert sorted(tails.prefixes) == [("layer", 100.0), ("layer", 200.0)]
    assert any(len(batch) == 2 for batch in tails.batches)
    assert sum(sum(batch) for batch in tails.batches) == 23


def test_works_of_another_layer_or_another_picture_that_is_not_shared_stay_apart(device):
    tails = Tails()
    works = [
        work_of(tails, 1, 2, "one"),
        work_of(tails, 2, 2, "other"),
        work_of(tails, 1, 2, "one"),
        work_of(tails, 1, 2, "one", layer="another"),
    ]
    assert works[0].key == works[2].key
    assert len({work.key for work in works}) == 3
    found = together(device, [(work, Run()) for work in works])
    assert [one.flatten().tolist() for one in found] == [[1, 2], [2, 3], [1, 2], [1, 2]]
    assert [2, 2] in tails.batches
    assert all(len(batch) <= 2 for batch in tails.batches)


def test_what_is_held_of_the_picture_is_let_go_of(device):
    tails = Tails()
    work = work_of(tails, 5, 2)
    device.submit(work, Run())
    assert work.prefix is None


def test_a_readout_makes_a_table_of_its_own_rows(device):
    class Twice:
        key = "twice"

        def __call__(self, raw):
            return torch.cat([raw, 2 * raw], 1)

    tails = Tails()
    image = torch.zeros(1, 1, 1, 1)
    rows = At(3, lambda i, j: torch.arange(float(i), j).view(-1, 1, 1, 1), None, image, "layer")
    found = device.submit(AtWork(tails, tails, rows, None, readout=Twice()), Run())
    assert found.tolist() == [[0, 0], [1, 2], [2, 4]]
