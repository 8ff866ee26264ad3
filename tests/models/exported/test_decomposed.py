"""Rules meet in decomposed operators what they meet in the functions that these were."""

import torch

from tests.models.exported.doubles import RULES, Attends, X, served_export, slopes


def test_rules_meet_the_same_once_decomposed() -> None:
    network = Attends(fused=False).eval()
    graph = served_export(network, decomposed=True)
    torch.testing.assert_close(graph(X), network(X))
    for rule in RULES.values():
        torch.testing.assert_close(slopes(graph, rule), slopes(network, rule))
