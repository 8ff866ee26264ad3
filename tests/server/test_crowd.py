"""Lines of several holders: first come, first found, of each."""

import pytest

from service.server.crowd import Crowd


def test_the_first_of_each_is_found_whoever_came_between():
    crowd = Crowd()
    for holder, one in (("a", 1), ("b", 2), ("a", 3), ("a", 1)):
        crowd.add(holder, one)
    assert (list(crowd.holders), crowd.first("a"), crowd.first("b")) == (["a", "b"], 1, 2)
    crowd.drop("a", 1)
    assert crowd.first("a") == 3
    crowd.add("a", 1)  # again, at the end
    assert crowd.first("a") == 3
    crowd.drop("b", 1)  # it is none of theirs
    crowd.drop("c", 1)
    assert crowd.first("b") == 2


def test_who_has_none_left_is_forgotten():
    crowd = Crowd()
    crowd.add("a", 1)
    crowd.drop("a", 1)
    assert list(crowd.holders) == []
    with pytest.raises(KeyError):
        crowd.first("a")
