"""Comparisons on the small networks, without a server."""

from collections.abc import Callable
from typing import Any

import pytest

from service.answer import Needs
from service.api.context import Context
from service.comparison.asking import Compare
from service.comparison.comparing import Comparing, Comparison, plan
from service.engine.scheduler.run import Run
from tests.conftest import encoded, photograph

PNG = encoded(photograph("chelsea").resize((61, 40)))
NEEDS = Needs(None)
FEW = ["grad-cam", "saliency", "eigen-cam"]


def compare(tiny: Context, run: Run | None = None, needs: Needs = NEEDS, **fields: Any) -> Comparison:
    """Compare on a photograph."""
    asked = Compare.of({"methods": FEW} | fields, PNG)
    return Comparing(tiny.pipeline, plan(tiny.pipeline, asked), run or Run()).work(needs)


@pytest.fixture(scope="session")
def compared(tiny: Context) -> Callable[..., Comparison]:
    """Compare on the small networks."""
    return lambda **fields: compare(tiny, **fields)
