"""How much one caller may hold: something is always left for who comes next, and never more is held than there is."""

from hypothesis import given
from hypothesis import strategies as st

from service.fair.portions import Portions


@given(
    st.integers(1, 200),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-3, 3)), max_size=200),
)
def test_all_is_bounded_and_callers_leave_something(total: int, times: int, wishes: list[tuple[str, int]]) -> None:
    portions, held = Portions(total, times), dict.fromkeys("abcdef", 0)
    for caller, size in wishes:
        if size < 0:
            size = min(-size, held[caller])
            held[caller] -= size
            portions.give(caller, size)
        elif portions.allows(caller, size):
            assert held[caller] == 0 or held[caller] < times * (total - sum(held.values()))
            held[caller] += size
            portions.take(caller, size)
        else:
            assert size > total - sum(held.values()) or held[caller] > 0
        assert portions.held == sum(held.values()) <= total
        assert portions.free == total - portions.held
        assert portions.by == {caller: size for caller, size in held.items() if size}


def _filled(callers: str, total: int, times: int) -> dict[str, int]:
    portions, more = Portions(total, times), True
    while more:
        more = False
        for caller in callers:
            if portions.allows(caller):
                portions.take(caller)
                more = True
    return dict(portions.by)


def test_what_some_callers_get_of_all() -> None:
    assert _filled("a", 400, 3) == {"a": 300}
    assert _filled("ab", 700, 3) == {"a": 300, "b": 300}
    assert _filled("abcdefgh", 1000, 3) == dict.fromkeys("abcdefgh", 120)
    assert _filled("abcdefgh", 90, 1) == dict.fromkeys("abcdefgh", 10)
    assert _filled("a", 2, 1) == {"a": 1}


def test_nobody_in_particular_is_bounded_by_all_alone() -> None:
    portions = Portions(10)
    portions.take("", 10)
    assert not portions.allows("")
    portions.take(None, 5)  # what has to be
    assert portions.free == -5
    assert portions.within("b")
    assert not portions.fits(1)
    portions.give("", 10)
    assert portions.allows("", 5)
    assert not portions.allows("", 6)
