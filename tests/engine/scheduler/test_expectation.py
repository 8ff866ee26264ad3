from service.engine.scheduler.expectation import Expectation


def test_what_nothing_is_known_of_may_need_all_that_it_can():
    assert Expectation().passes("some", 1282) == 1282


def test_what_similar_requests_needed_is_expected():
    known = Expectation()
    known.learn("some", 1000, 400)
    assert known.passes("some", 1000) == 400
    assert known.passes("some", 2000) == 800
    assert known.passes("other", 1000) == 1000
    assert known.passes("some", 1) == 1


def test_the_mean_follows_what_comes():
    known = Expectation()
    known.learn("some", 1000, 400)
    told = []
    for _ in range(60):
        known.learn("some", 1000, 800)
        told.append(known.passes("some", 1000))
    assert told == sorted(told)
    assert 400 < told[0] < 500
    assert 790 <= told[-1] <= 800


def test_more_than_was_possible_is_all_of_it():
    known = Expectation()
    known.learn("some", 10, 25)
    assert known.passes("some", 10) == 10


def test_only_so_many_kinds_are_remembered():
    known = Expectation()
    for kind in range(2000):
        known.learn(kind, 10, 5)
    assert known.passes(0, 10) == 10
    assert known.passes(1999, 10) == 5
