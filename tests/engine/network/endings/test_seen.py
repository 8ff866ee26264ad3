"""What a forward gives its functions, and what it orders, is seen."""

import pytest
import torch

from service.engine.network.endings.seen import Endings, Taken

Z = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))


def test_what_a_call_is_given_is_kept() -> None:
    with Taken(2) as taken:
        (Z.sigmoid() * 3).softmax(dim=1).round()
    torch.testing.assert_close(taken.given, Z.sigmoid() * 3)
    torch.testing.assert_close(taken.result, (Z.sigmoid() * 3).softmax(1))
    with Taken(3) as taken:
        Z.sigmoid()
    assert taken.given is None


@pytest.mark.parametrize(
    "ranks",
    [
        lambda p: torch.topk(p, 3).values,
        lambda p: p.topk(3)[0],
        lambda p: p.sort(1, descending=True)[0],
        lambda p: p.max(1).values,
        lambda p: torch.max(p, dim=1)[0],
        lambda p: p.amax(1),
    ],
)
def test_columns_that_are_ranks_are_known(ranks) -> None:
    with Endings() as endings:
        answer = ranks(Z.softmax(1))
    assert endings.of(answer).name == "ranks"


def test_the_largest_of_each_map_is_no_rank() -> None:
    with Endings() as endings:
        answer = torch.rand(1, 5, 4, 4).softmax(1).amax((2, 3))
    assert endings.of(answer) is None


def test_rows_of_results_are_found_from_the_last_on() -> None:
    with Endings() as endings:
        torch.rand(2, 5, 5).softmax(2)
        first, second = Z.softmax(1), Z.sigmoid()
    assert [one.name for one in endings.kin()] == ["sigmoid", "softmax"]
    assert endings.kin()[0].result is second
    assert endings.kin()[1].result is first


@pytest.mark.parametrize(
    ("beside", "kind"),
    [
        (lambda z: z.softmax(1), "softmax"),
        (lambda z: z.log_softmax(-1), "softmax"),
        (lambda z: z.sigmoid(), "sigmoid"),
        (lambda z: torch.nn.functional.logsigmoid(z), "sigmoid"),
        (lambda z: z.softmax(0), None),
        (lambda z: (z.softmax(1), z.sigmoid()), None),
        (lambda z: (z * 2).sigmoid(), None),
    ],
)
def test_what_a_forward_makes_of_its_answer(beside, kind) -> None:
    with Endings() as endings:
        answer = Z * 1
        beside(answer)
    assert endings.becomes(answer) == kind
