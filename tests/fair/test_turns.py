"""A ranking whose ranks may rise unseen, and turns by what each has had."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.fair.turns import KEPT, Ranking, Turns

NAMES = st.sampled_from("abcdefgh")


class RankingAgainstSorting(RuleBasedStateMachine):
    """Whatever comes, goes and rises: members are in the order of their ranks, then of coming."""

    def __init__(self):
        super().__init__()
        self.ranks = dict.fromkeys("abcdefgh", 0)
        self.ranking = Ranking(self.ranks.__getitem__)
        self.members = []

    def expected(self):
        return sorted(self.members, key=self.ranks.__getitem__)  # stable: of equals, who came first

    @rule(name=NAMES, rank=st.integers(0, 5))
    def come(self, name, rank):
        if name not in self.members:
            self.ranks[name] = rank
            self.members.append(name)
        self.ranking.add(name)

    @rule(name=NAMES)
    def leave(self, name):
        self.ranking.discard(name)
        self.members = [member for member in self.members if member != name]

    @rule(name=NAMES, by=st.integers(1, 5))
    def rise(self, name, by):
        self.ranks[name] += by

    @precondition(lambda self: self.members)
    @rule(count=st.integers(1, 8))
    def look(self, count):
        ascending = self.ranking.ascending()
        assert [name for name, _ in zip(ascending, range(count), strict=False)] == self.expected()[:count]
        ascending.close()

    @precondition(lambda self: self.members)
    @rule()
    def first(self):
        assert self.ranking.first() == self.expected()[0]

    @invariant()
    def members_are_known(self):
        assert list(self.ranking) == self.members
        assert len(self.ranking) == len(self.members)
        assert all((name in self.ranking) == (name in self.members) for name in "abcdefgh")
        assert len(self.ranking._heap) <= 2 * len(self.members) + 17


RankingAgainstSorting.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRankingAgainstSorting = RankingAgainstSorting.TestCase


def test_an_empty_ranking_has_no_first():
    ranking = Ranking(lambda name: 0)
    with pytest.raises(IndexError):
        ranking.first()
    ranking.add("a")
    ranking.discard("a")
    with pytest.raises(IndexError):
        ranking.first()
    assert list(ranking.ascending()) == []


def test_nothing_is_kept_of_who_has_left():
    ranking = Ranking(lambda name: 0)
    for _ in range(1000):
        member = object()
        ranking.add(member)
        ranking.discard(member)
    assert len(ranking._heap) <= 16
    assert not ranking._tokens
    assert not ranking._members


def _turns(lead=2.0):
    return Turns(dict, lead)


def _play(turns, batches, amount=lambda name: 1.0):
    """Let so many turns be had; return whose they were."""
    found = []
    for _ in range(batches):
        found.append(turns.begin())
        turns.charge(found[-1], amount(found[-1]))
    return found


def test_turns_are_by_what_each_has_had():
    turns = _turns()
    for name in "ab":
        turns.enter(name)
    found = _play(turns, 120, {"a": 1.0, "b": 0.25}.get)
    assert abs(found.count("b") - 4 * found.count("a")) <= 4


def test_of_equals_who_came_first_is_next():
    turns = _turns()
    for name in "bca":
        turns.enter(name)
    turns.enter("b")  # it is there already
    assert _play(turns, 3) == ["b", "c", "a"]


def test_who_comes_back_is_next_at_once_but_has_no_credit():
    turns = _turns()
    turns.enter("a")
    turns.enter("b")
    _play(turns, 2)
    turns.leave("b")
    _play(turns, 50)
    turns.enter("b")
    found = _play(turns, 20)
    assert found[0] == "b"
    assert found.count("b") == 10


def test_who_had_much_still_has_had_it_after_a_while():
    turns = _turns(lead=100.0)
    for name in "ab":
        turns.enter(name)
    turns.charge("a", 10.0)
    turns.leave("a")
    turns.enter("a")
    assert _play(turns, 10) == ["b"] * 10


def test_ever_new_names_do_not_keep_one_from_its_turn():
    turns, mine = _turns(), 0
    turns.enter("mine")
    for i in range(100):
        turns.enter(i)  # a new name for every turn
        name = turns.begin()
        if name == "mine":
            mine += 1
        else:
            turns.leave(name)
        turns.charge(name, 1.0)
    assert mine >= 10


def test_nobody_is_never_charged_and_comes_as_the_equal_of_who_is_next():
    turns = _turns()
    turns.enter("a")
    turns.enter(None)
    assert _play(turns, 4) == ["a", None, None, None]
    turns.leave(None)
    _play(turns, 5)
    turns.enter(None)
    assert turns.begin() is None


def test_what_a_name_holds_is_kept_while_its_time_is():
    turns = _turns()
    turns.enter("a")
    turns["a"]["x"] = 1
    turns.leave("a")
    assert turns["a"] == {"x": 1}


def test_of_many_names_without_work_those_who_had_most_are_remembered():
    turns = _turns()
    turns.enter("present")
    for i in range(10 * KEPT):
        turns.enter(i)
        turns.charge(i, 1000.0 if i == 3 else 1.0)
        turns.leave(i)
    assert len(turns._accounts) <= 2 * KEPT + 2
    assert 3 in turns._accounts
    assert "present" in turns._accounts
    assert list(turns) == ["present"]


def test_a_name_that_is_charged_after_it_left_pays_when_it_comes_back():
    turns = _turns()
    for name in "ab":
        turns.enter(name)
    assert turns.begin() == "a"
    turns.leave("a")
    turns.charge("a", 5.0)
    turns.enter("a")
    assert _play(turns, 4) == ["b"] * 4
