"""What all of these tests share."""

import pytest
import torch

pytest.register_assert_rewrite("tests.engine.incremental.checks")


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks as small as these only wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
