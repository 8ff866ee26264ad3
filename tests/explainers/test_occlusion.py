import pytest
import torch
from pydantic import ValidationError

from service.explainers.occlusion import Occlusion, starts
from tests import oracles, tiny
from tests.explainers.conftest import assert_within, tiny_input


@pytest.mark.oracle("occlusion")
def test_equals_captum(subject, x):
    found = subject.explain(Occlusion(window=48, stride=36, score="logit"), x, [281]).maps[0]
    assert_within(found.array, oracles.captum_occlusion(subject.plain, x, 281, 48, 36), 2e-5)


@pytest.mark.oracle("occlusion")
@pytest.mark.parametrize("fill", ["mean", "black", "white", "#3366cc"])
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize(("window", "stride"), [(8, 8), (7, 5), (32, 32), (40, 3), (1, 1)])
def test_equals_one_forward_per_window(small, fill, score, window, stride):
    if window == 1 and (fill != "mean" or score != "logit"):
        return
    subject, x = small(tiny.classifier), tiny_input()
    colour = {
        "mean": torch.zeros(3, 1, 1),
        "black": subject.facts.colour((0, 0, 0)),
        "white": subject.facts.colour((1, 1, 1)),
        "#3366cc": subject.facts.colour((0.2, 0.4, 0.8)),
    }[fill]
    found = subject.explain(Occlusion(window=window, stride=stride, fill=fill, score=score), x, [1, 3])
    for i, target in enumerate((1, 3)):
        grid, averaged = oracles.slow_occlusion(subject.plain, x, target, window, stride, colour, score)
        assert_within(torch.tensor(found.details["grid"][i]), grid, 2e-5)
        assert_within(found.maps[i].array, averaged, 2e-5)


def test_blur_hides_detail_only(small):
    subject = small(tiny.classifier)
    flat = torch.full((1, 3, 32, 32), 0.7)
    found = subject.explain(Occlusion(window=8, stride=8, fill="blur", score="logit"), flat, [0])
    assert float(found.maps[0].array.abs().max()) < 1e-5


def test_windows_that_change_nothing_cost_nothing(small):
    subject, x = small(tiny.classifier), tiny_input()
    x[:, :, :16] = 0  # the upper half already shows the model's mean colour
    found = subject.explain(Occlusion(window=8, stride=8, score="logit"), x, [2])
    assert found.details["rows_avoided"] == 8
    _, averaged = oracles.slow_occlusion(subject.plain, x, 2, 8, 8)
    assert_within(found.maps[0].array, averaged, 2e-5)


def test_starts_cover_every_pixel():
    for length, window, stride in [(224, 32, 16), (224, 33, 16), (10, 20, 4), (100, 7, 7), (5, 1, 1)]:
        first = starts(length, window, stride)
        covered = {p for s in first for p in range(s, min(s + window, length))}
        assert covered == set(range(length))
        assert len(first) == 1 or first[-2] + window < length  # and none is superfluous


def test_stride_above_window_is_refused():
    with pytest.raises(ValidationError, match="choose a stride of at most the window"):
        Occlusion(window=8, stride=9)
