import pytest
import torch

from service.engine.known import alike, answer_of


def test_a_network_is_known_by_its_answer(tiny) -> None:  # type: ignore[no-untyped-def]
    model = tiny.store.get("tiny")
    with torch.inference_mode():
        expected = model.module(model.example()[:1]).flatten()
    assert answer_of(model) == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("now", "same"),
    [
        ([1.0, -10.0], True),
        ([1.005, -10.0], True),
        ([1.02, -10.0], False),
        ([1.0], False),
        ([1.0, float("nan")], False),
    ],
)
def test_it_may_differ_by_rounding_alone(now: list[float], same: bool) -> None:
    assert alike([1.0, -10.0], now) is same
