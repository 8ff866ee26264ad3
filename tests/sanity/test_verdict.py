import pytest

from service.sanity.verdict import Pairs, verdict


@pytest.mark.parametrize(
    ("permuted", "low", "empty", "expected"),
    [
        ([0.1] * 8, [0.2] * 8, 0, "passes"),
        ([-0.1, 0.1] * 4, None, 0, "passes"),
        ([0.6] * 8, [0.2] * 8, 0, "fails"),
        ([-0.6] * 8, [0.2] * 8, 0, "fails"),  # turned over is the same map
        ([0.1] * 8, [-0.95] * 8, 0, "fails"),
        ([0.4] * 8, [0.2] * 8, 0, "depends"),
        ([0.1] * 8, [0.8] * 8, 0, "depends"),
        ([0.1] * 3 + [None] * 5, [0.2] * 8, 5, "fails"),
        ([0.1] * 4 + [None] * 4, [0.2] * 8, 4, "passes"),
        ([None] * 8, None, 8, "fails"),
        # The network that has learnt nothing, or the class that is not there, has no map.
        ([0.1] * 3 + [None] * 5, [0.2] * 8, 0, "depends"),
        ([0.9] * 3 + [None] * 5, None, 2, "depends"),
        ([None] * 8, None, 0, "depends"),
        ([0.1] * 8, [None] * 6 + [0.1] * 2, 0, "depends"),
    ],
)
def test_verdicts(permuted, low, empty, expected) -> None:  # type: ignore[no-untyped-def]
    found = verdict(Pairs(permuted, [0.5] * 8, low, empty=empty))
    assert found.verdict == expected
    assert (found.reason is not None) == (expected == "fails" or found.flat > 4)
    assert found.pictures == 8


def test_numbers_are_means_of_what_is_there() -> None:
    found = verdict(Pairs([0.2, -0.4, None], [0.1, 0.3, None], [0.5, None, -0.7], [(0.5, [0.2, -0.2], [0.4, 0.6])]))
    assert (found.mprt, found.random_logit) == pytest.approx((0.3, 0.6))
    assert found.flat == 1
    assert [(one.share, one.spearman, one.ssim) for one in found.stages] == [
        pytest.approx((0.5, 0.0, 0.5)),
        pytest.approx((1.0, -0.1, 0.2)),
    ]
