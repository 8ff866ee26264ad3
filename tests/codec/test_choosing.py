"""How many processes decode and draw, and within which limits, the operator says."""

import pytest

from service.codec.choosing import codec_processes, limits
from service.codec.inside import Limits
from service.settings import Settings


@pytest.mark.parametrize(("cores", "count"), [(1, 0), (2, 0), (3, 1), (10, 8), (64, 8)])
def test_two_cores_are_left_to_the_device(monkeypatch: pytest.MonkeyPatch, cores: int, count: int) -> None:
    monkeypatch.setattr("service.codec.choosing.cores", lambda: cores)
    assert codec_processes(Settings(codec_processes=None)) == count
    assert codec_processes(Settings(codec_processes=3)) == 3


def test_limits_are_the_settings() -> None:
    settings = Settings(max_image_bytes=2048, max_image_pixels=5, pictures_mib=3, codec_cpu_s=0.5)
    assert limits(settings) == Limits(2048, 5, 3 * 2**20, 0.5)
