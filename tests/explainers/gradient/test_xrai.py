import numpy as np
import pytest
import torch
from pydantic import ValidationError
from skimage.morphology import dilation, disk
from torch import Tensor

from service.errors import InvalidParameter
from service.explainers.gradient.integrated_gradients import IntegratedGradients
from service.explainers.gradient.xrai import XRAI, grown, ranked
from service.explainers.segments import cut, squares
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_integrated_gradients import attributions
from tests.oracles import Case

# Rounding decides which ReLU is open, and at times which of two segments that are alike comes first.
TOLERANCE = 1e-2


def masks(case: Case) -> list[np.ndarray]:
    """Return each segment, (H, W), grown by scikit-image."""
    how = {"segments": "slic", "counts": (16, 32, 64, 128, 256), "growth": 5, **case.params}
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (case.mean, case.std))
    found = []
    for count in how["counts"]:
        labels = cut(case.x[0] * std + mean, how["segments"], count).numpy()
        found += [dilation(labels == label, disk(how["growth"])) for label in range(labels.max() + 1)]
    return found


def joined(attribution: np.ndarray, segments: list[np.ndarray], smallest: int) -> Tensor:
    """Algorithm 1 of the paper: every step counts every segment that is left anew."""
    found = np.full(attribution.shape, np.nan)
    left = list(segments)
    while True:
        new = [segment & np.isnan(found) for segment in left]
        large = [(part, segment) for part, segment in zip(new, left, strict=True) if part.sum() >= smallest]
        if not large:
            break
        means = [attribution[part].mean() for part, _ in large]
        best = int(np.argmax(means))
        found[large[best][0]] = means[best]
        left = [segment for i, (_, segment) in enumerate(large) if i != best]
    rest = np.isnan(found)
    found[rest] = attribution[rest].mean() if rest.any() else 0
    return torch.from_numpy(found).float()


def oracle(case: Case) -> Tensor:
    """Integrated gradients of both baselines, the largest over the colours, joined segment by segment."""
    of = Case(case.network, case.x, "", case.target, {"baseline": "black+white", **case.params}, case.mean, case.std)
    return joined(attributions(of).amax(0).numpy(), masks(case), case.params.get("smallest", 50))


@pytest.mark.oracle("xrai")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.tokens])
@pytest.mark.parametrize(
    "params",
    [
        {"steps": 4, "counts": (4, 16), "smallest": 10},
        {"steps": 3, "counts": (9, 30), "growth": 2, "segments": "squares", "smallest": 1, "baseline": "mean"},
        {"steps": 2, "counts": (2, 5), "growth": 0, "smallest": 300},
    ],
)
def test_equals_the_algorithm(small, network, params):
    subject, x = small(network), tiny_input()
    found = subject.explain(XRAI(**params), x, [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, x, target=target, params=params)), 1e-4)


@pytest.mark.oracle("xrai")
@pytest.mark.parametrize("smallest", [1, 20, 200])
def test_sums_that_are_kept_are_those_that_are_counted_anew(smallest):
    random = np.random.default_rng(0)
    attribution = random.normal(size=(40, 56))
    cuts = [squares((40, 56), count).numpy() for count in (6, 20, 60)]
    segments = [dilation(labels == label, disk(3)) for labels in cuts for label in range(labels.max() + 1)]
    found, steps = ranked(attribution, [np.flatnonzero(mask) for mask in segments], smallest)
    expected = joined(attribution, segments, smallest)
    assert_close(found, expected, 1e-7)
    assert len(found.unique()) - steps == (smallest > 1)  # what is left over is a region, too


@pytest.mark.parametrize("growth", [0, 1, 5])
@pytest.mark.parametrize("size", [(40, 56), (7, 9)])
def test_segments_grow_as_scikit_images_do(growth, size):
    labels = squares(size, 12)
    found = grown(labels, growth)
    assert len(found) == int(labels.max()) + 1
    for label, pixels in enumerate(found):
        expected = dilation((labels == label).numpy(), disk(growth))
        assert np.array_equal(pixels, np.flatnonzero(expected))


def test_each_region_has_one_value_and_the_best_comes_first(small):
    subject, x = small(tiny.classifier), tiny_input()
    params = {"steps": 3, "counts": (9,), "growth": 0, "segments": "squares", "smallest": 1, "baseline": "black"}
    found = subject.explain(XRAI(**params), x, [1])
    exact = subject.explain(IntegratedGradients(steps=3, baseline="black", colours="keep"), x, [1])
    largest = exact.maps[0].array.amax(0)
    labels = squares((32, 32), 9)
    for label in range(9):
        values = found.maps[0].array[labels == label]
        assert len(values.unique()) == 1
        assert_close(values[0], largest[labels == label].mean(), 1e-5)
    assert found.details["segments"] == 9
    assert found.details["joined"] == [9]
    for key in ("change", "completeness_residual"):
        assert found.details[key] == pytest.approx(exact.details[key], abs=1e-6)


@pytest.mark.parametrize("counts", [(), (1,), (513,), (4,) * 9])
def test_cuts_have_bounds(counts):
    with pytest.raises(ValidationError, match="counts"):
        XRAI(counts=counts)


def test_segments_that_are_all_too_small_are_refused(small):
    subject = small(tiny.classifier)
    with pytest.raises(InvalidParameter, match=r"no segment .* 1025 pixels.* choose at most") as caught:
        subject.explain(XRAI(smallest=1025, steps=2), tiny_input(), [1])
    assert caught.value.errors[0].pointer == "/params/smallest"
