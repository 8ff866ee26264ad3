"""The cores that a process may use are those of its container, on every system."""

import pytest
import torch

from service.machine.cores import cores, quota, reachable
from service.process import ALL_THREADS


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "1000 100000"}, 1),
        ({"cpu.max": "9000000 100000"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_cores_are_those_of_the_container(tmp_path, monkeypatch, files, expected) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(tmp_path) == expected
    assert 1 <= ALL_THREADS <= max(cores(), torch.get_num_threads())


@pytest.mark.parametrize(("text", "expected"), [("max 100000", None), ("150000 100000", 1.5), ("1 0", None)])
def test_a_quota_is_a_share_of_time(tmp_path, text, expected) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert quota(tmp_path) == expected


def test_other_systems_have_no_affinity(tmp_path, monkeypatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert reachable() == cores(tmp_path) == 6
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert cores(tmp_path) == 1
