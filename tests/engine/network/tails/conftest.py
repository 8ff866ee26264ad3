"""Networks that are there twice, resident and plain, as methods are tested on."""

from tests.explainers.conftest import device, small

__all__ = ["device", "small"]
