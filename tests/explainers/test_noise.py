import torch

from service.explainers.noise import gaussian, noisy
from tests.explainers.conftest import tiny_input


def test_noise_is_standard_normal_and_each_sample_has_its_own():
    drawn = torch.stack([gaussian((3, 64, 64), seed=5, sample=i) for i in range(8)])
    for one in drawn:
        assert abs(float(one.mean())) < 0.03  # three deviations of the mean of 12,288
        assert abs(float(one.std()) - 1) < 0.02
    correlation = torch.corrcoef(drawn.flatten(1)) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.05


def test_noise_is_told_by_seed_and_sample_alone():
    before = gaussian((3, 4), seed=2**63 - 1, sample=7)
    torch.manual_seed(1)
    assert torch.equal(gaussian((3, 4), seed=2**63 - 1, sample=7), before)
    # Neither a sum nor a sequence: these are neighbours in every simple way of joining the two numbers.
    others = [gaussian((3, 4), seed, sample) for seed, sample in ((2**63 - 1, 8), (2**63 - 2, 8), (8, 7), (7, 8))]
    assert len({tuple(one.flatten().tolist()) for one in [before, *others]}) == 5


def test_copies_do_not_depend_on_how_they_are_cut():
    x = tiny_input()
    rows = noisy(x, 5, 0.2, seed=3)
    assert (rows.count, rows.key) == (5, None)
    whole = rows.build(0, 5)
    assert torch.equal(whole, torch.cat([rows.build(0, 2), rows.build(2, 3), rows.build(3, 5)]))
    share = (whole - x).std() / (x.max() - x.min())
    assert abs(float(share) - 0.2) < 0.01


def test_no_noise_is_the_picture():
    x = tiny_input()
    assert torch.equal(noisy(x, 2, 0.0, seed=0).build(0, 2), x.repeat(2, 1, 1, 1))
