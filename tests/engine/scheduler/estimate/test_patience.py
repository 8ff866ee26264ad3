"""How patient callers are, in bounded memory."""

from service.engine.scheduler.estimate.patience import Patience


def test_the_patience_of_callers_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr("service.engine.scheduler.estimate.patience._CALLERS", 2)
    patience = Patience()
    for caller in "abc":
        patience.count_read(caller, 7.0, now=1.0)
    assert [patience.longest_s(caller, 1.0) for caller in "abc"] == [float("inf"), 7, 7]
    patience.count_read("b", None, now=2.0)
    patience.count_read("d", 5.0, now=2.0)
    assert [patience.longest_s(caller, 2.0) for caller in "bcd"] == [float("inf"), float("inf"), 5]
    assert patience.longest_s("d", 12.0) == float("inf")
    assert not patience.count_refused("unheard of")
