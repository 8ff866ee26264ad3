"""Rules are values: traces that follow equal ones share a forward."""

import pytest

from service.contract import Relevance, Rescale, Rule, Share, Tracing


@pytest.mark.parametrize("make", [lambda: Rule("guided"), Rescale, lambda: Relevance(Share("box", low=(0.0,)))])
def test_equal_rules_make_equal_tracings(make):
    assert make() == make()
    assert hash(Tracing(rule=make())) == hash(Tracing(rule=make()))


def test_other_rules_make_other_tracings():
    rules = [
        None,
        Rule("guided"),
        Rule("linear"),
        Rescale(),
        Relevance(),
        Relevance(Share("gamma")),
        Relevance(Share("gamma", gamma=1.0)),
        Relevance(first=Share("flat")),
        Relevance(positive=True),
    ]
    assert len({Tracing(rule=rule) for rule in rules}) == len(rules)
