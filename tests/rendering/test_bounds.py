import threading

import pytest

from service.errors import InvalidParameter
from service.rendering.bounds import Bounds, Together


def test_what_answers_take_adds_up_wherever_they_are_made() -> None:
    together = Together()

    def take() -> None:
        for _ in range(1000):
            together.plan(1)
            together.add(1, 2, 3)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert together.plan(0) == 4000
    assert together.add(0, 0, 0) == (4000, 8000, 12000)


@pytest.mark.parametrize("more", [(1, 0, 0), (0, 2, 0), (0, 0, 1)])
def test_answers_together_are_bounded_as_one_is(more: tuple[int, int, int]) -> None:
    bounds, together = Bounds(values=10, pixels=100, pictures=3), Together()
    for _ in range(2):
        bounds.plan(5, together)
        bounds.check(5, 1, 50, together)
    bounds.check(*more)
    with pytest.raises(InvalidParameter, match="fewer pictures or methods in one request"):
        bounds.check(*more, together)
    bounds.plan(1)
    with pytest.raises(InvalidParameter, match="fewer pictures or methods in one request"):
        bounds.plan(1, together)
