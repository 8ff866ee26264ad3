import pytest

from service.sanity.verdict import Pairs, verdict


@pytest.mark.parametrize(
    ("permuted", "low", "expected"),
    [
        ([0.1] * 8, [0.2] * 8, "passes"),
        ([-0.1, 0.1] * 4, None, "passes"),
        ([0.6] * 8, [0.2] * 8, "fails"),
        ([-0.6] * 8, [0.2] * 8, "fails"),  # turned over is the same map
        ([0.1] * 8, [-0.95] * 8, "fails"),
        ([0.4] * 8, [0.2] * 8, "depends"),
        ([0.1] * 8, [0.8] * 8, "depends"),
        ([0.1] * 3 + [None] * 5, [0.2] * 8, "fails"),
        ([0.1] * 4 + [None] * 4, [0.2] * 8, "passes"),
        ([None] * 8, None, "fails"),
        ([0.1] * 8, [None] * 6 + [0.1] * 2, "fails"),
    ],
)
def test_verdicts(permuted, low, expected) -> None:  # type: ignore[no-untyped-def]
    found = verdict(Pairs(permuted, [0.5] * 8, low))
    assert found.verdict == expected
    assert (found.reason is not None) == (expected == "fails")
    assert found.pictures == 8


def test_numbers_are_means_of_what_is_there() -> None:
    found = verdict(Pairs([0.2, -0.4, None], [0.1, 0.3, None], [0.5, None, -0.7], [(0.5, [0.2, -0.2], [0.4, 0.6])]))
    assert (found.mprt, found.random_logit) == pytest.approx((0.3, 0.6))
    assert found.flat == 1
    assert [(one.share, one.spearman, one.ssim) for one in found.stages] == [
        pytest.approx((0.5, 0.0, 0.5)),
        pytest.approx((1.0, -0.1, 0.2)),
    ]
