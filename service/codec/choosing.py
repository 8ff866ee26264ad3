"""How pictures are decoded and drawn, by the operator's settings."""

from service.codec.inside import Limits
from service.machine.cores import cores
from service.settings import Settings

_MOST = 8  # by default


def limits(settings: Settings) -> Limits:
    """Return what a picture may take."""
    return Limits(
        settings.max_image_bytes, settings.max_image_pixels, settings.pictures_mib * 2**20, settings.codec_cpu_s
    )


def codec_processes(settings: Settings) -> int:
    """Return how many processes decode and draw: none where the device has hardly a core besides."""
    wanted = settings.codec_processes
    return min(_MOST, max(0, cores() - 2)) if wanted is None else wanted
