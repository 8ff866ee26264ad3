"""Numbers that are scores are told from those that are none, and from scores in a form that nobody reads."""

import pytest
import torch

from service.errors import CatalogError
from service.tasks.numbers.numbers import Numbers, check_scores

Y = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) * 3
P = Y.softmax(1)
WHOLE = Y.round()

SCORES = {
    "logits": Numbers(Y),
    "probabilities": Numbers(P),
    "log-probabilities": Numbers(P.log()),
    "one logit": Numbers(Y[:, :1]),
    "whole numbers that a gradient passes by": Numbers(WHOLE),
    "decisions": Numbers((P > 0.5).float(), differentiable=False),
    "a linear map's that add up to 100": Numbers(P * 100, ending="linear"),
    "large ones": Numbers(Y.abs() * 100),
    "all 1 of a sigmoid": Numbers(torch.ones(8, 5), ending="sigmoid"),
}
OTHERS = {
    "ranks": (Numbers(P.sort(1)[0], ending="ranks"), "a column is a rank"),
    "all 1": (Numbers(torch.ones(8, 5), ending="softmax"), "over the pictures of a batch"),
    "one 1": (Numbers(torch.ones(8, 1), ending="softmax"), "over one output"),
    "whole numbers": (Numbers(WHOLE, differentiable=False), "whole numbers"),
    "a class's number": (Numbers(torch.zeros(8, 1), differentiable=False), "whole numbers"),
    "percentages": (Numbers(P * 100), "are percentages"),
    "percentages as seen": (Numbers(Y.sigmoid() * 100, times=100.0), "are percentages"),
    "losses": (Numbers(-P.log()), "negative logarithms"),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_pass(name) -> None:
    check_scores(SCORES[name], None)


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_refused_with_the_remedy(name) -> None:
    numbers, why = OTHERS[name]
    with pytest.raises(CatalogError, match=why) as raised:
        check_scores(numbers, None)
    assert "; " in str(raised.value)


@pytest.mark.parametrize("name", ["percentages", "losses"])
def test_whoever_says_what_they_are_has_them_so(name) -> None:
    check_scores(OTHERS[name][0], "logits")
