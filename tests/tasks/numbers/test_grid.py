"""The step that numbers were rounded to is found, and numbers that were not have none."""

import pytest
import torch

from service.tasks.numbers.grid import step_of

P = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).mul(2).softmax(1)


@pytest.mark.parametrize("parts", [2, 10, 100, 128, 255, 1000, 10000])
def test_the_step_is_found(parts) -> None:
    assert step_of(torch.round(P * parts) / parts) == pytest.approx(1 / parts, rel=1e-3)


def test_a_step_that_is_never_met_alone_is_found() -> None:
    assert step_of(torch.tensor([0.0, 0.2, 0.5])) == pytest.approx(0.1)


@pytest.mark.parametrize("numbers", [P, P.sqrt(), torch.zeros(3), torch.full((4,), 0.3)])
def test_other_numbers_have_none(numbers) -> None:
    assert step_of(numbers) is None
