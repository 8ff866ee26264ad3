"""The shipped lesion counter counts, and its RAM is where the lesions are, on pictures it has never seen."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from service.models.embedded.lesion_count import INPUT_SIZE, WEIGHTS, LesionCount, lesion_count
from tests.training import lesion_count as script
from tests.training.lesion_count import (
    COLUMNS,
    MOST,
    SIDES,
    Figures,
    Painted,
    Region,
    evaluate,
    normalised,
    paint,
    paint_many,
    photograph,
    train,
)

pytest.importorskip("skimage", reason="the fundus photograph is in scikit-image")

HELD_OUT_SEED = 20_170_301
"""Neither the training's seed nor the one that its printed figures are measured with."""


@pytest.fixture(scope="module")
def model() -> LesionCount:
    """The network with the shipped weights, loaded strictly."""
    model = lesion_count()
    model.load_state_dict(load_file(WEIGHTS), strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def pictures() -> list[Painted]:
    """Held-out pictures."""
    return paint_many(240, "held-out", HELD_OUT_SEED)


@pytest.fixture(scope="module")
def figures(model: LesionCount, pictures: list[Painted]) -> Figures:
    """The figures of the shipped weights."""
    return evaluate(model, pictures)


def test_weights_are_small_finite_float32() -> None:
    """Below 1 MB, float32 but for the batch counters."""
    assert WEIGHTS.stat().st_size < 1_000_000
    for name, tensor in load_file(WEIGHTS).items():
        assert tensor.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32), name
        assert tensor.isfinite().all(), name


def test_last_map_is_what_is_pooled(model: LesionCount) -> None:
    """`features` ends in the very map that is averaged."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        model.features[-1].register_forward_hook(lambda m, args, out: seen.update(last=out)),
        model.pool.register_forward_pre_hook(lambda m, args: seen.update(pooled=args[0])),
    ]
    with torch.no_grad():
        output = model(torch.zeros(2, 3, INPUT_SIZE, INPUT_SIZE))
    for hook in hooks:
        hook.remove()
    assert output.shape == (2, 1)
    assert seen["last"].shape == (2, 64, 40, 40)
    assert torch.equal(seen["last"], seen["pooled"])
    assert all(not m.inplace for m in model.modules() if isinstance(m, nn.ReLU))


def test_counts_held_out_lesions(figures: Figures) -> None:
    """Counts are right up to 5 % of their variance."""
    assert figures.r2 >= 0.95


def test_ram_energy_is_in_the_lesions(figures: Figures) -> None:
    """Share of positive RAM inside the lesions, over their share of the area: both ways of averaging."""
    assert figures.energy_pooled >= 5
    assert figures.energy_mean >= 5


def test_ram_points_at_a_lesion(figures: Figures) -> None:
    """RAM's maximum, upsampled to the picture, is inside a mask."""
    assert figures.pointing >= 0.8


def test_mean_of_ram_and_bias_are_the_count(figures: Figures) -> None:
    """RAM is complete: nothing but the bias is outside of it."""
    assert figures.completeness <= 1e-5


def test_figures_agree_with_a_plain_computation(model: LesionCount, pictures: list[Painted]) -> None:
    """The same figures, one picture at a time and in numpy."""
    some = pictures[:40]
    figures = evaluate(model, some)
    inside = total = area = 0.0
    ratios, hits, predicted = [], [], []
    for painted in some:
        with torch.no_grad():
            maps = model.features(normalised(torch.from_numpy(painted.picture[None])))
            predicted.append(model.head(maps.mean((2, 3))).item())
            small = (model.head.weight[0][:, None, None] * maps).sum(1, keepdim=True)
            large = nn.Upsample((INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)(small)
        heat = large[0, 0].double().numpy()
        positive = np.maximum(heat, 0)
        if painted.count:
            ratios.append(positive[painted.mask].sum() / positive.sum() / painted.mask.mean())
            hits.append(painted.mask[np.unravel_index(heat.argmax(), heat.shape)])
            inside += positive[painted.mask].sum()
            total += positive.sum()
            area += painted.mask.mean()
    counts = np.array([p.count for p in some])
    assert figures.r2 == pytest.approx(1 - ((counts - predicted) ** 2).mean() / counts.var(), abs=1e-5)
    assert figures.mae == pytest.approx(np.abs(counts - predicted).mean(), abs=1e-4)
    assert figures.energy_mean == pytest.approx(np.mean(ratios), rel=1e-4)
    assert figures.energy_pooled == pytest.approx(inside / total / (area / len(ratios)), rel=1e-4)
    assert figures.pointing == pytest.approx(np.mean(hits))


def test_untrained_network_does_not_pass(pictures: list[Painted]) -> None:
    """The bounds above are no gift: random weights meet none of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        figures = evaluate(lesion_count().eval(), pictures[:48])
    assert figures.r2 < 0
    assert figures.energy_pooled < 3
    assert figures.energy_mean < 3
    assert figures.pointing < 0.5


@pytest.mark.parametrize("region", ["train", "held-out"])
def test_every_painted_lesion_is_counted_once(region: Region) -> None:
    """The mask has as many separate parts as the count says, all inside the picture."""
    measure = pytest.importorskip("skimage.measure")
    for painted in paint_many(40, region, seed=5):
        assert painted.picture.shape == (INPUT_SIZE, INPUT_SIZE, 3)
        assert painted.picture.dtype == np.uint8
        assert 0 <= painted.count <= MOST
        assert measure.label(painted.mask, connectivity=2).max() == painted.count
        border = np.ones_like(painted.mask)
        border[2:-2, 2:-2] = False
        assert not (painted.mask & border).any()


@pytest.mark.parametrize("region", ["train", "held-out"])
def test_crops_read_only_their_own_columns(monkeypatch: pytest.MonkeyPatch, region: Region) -> None:
    """Blank the other region's pixels: not one painted pixel may change."""
    before = paint_many(30, region, seed=6)
    first, last = COLUMNS[region]
    other = photograph().clone()
    other[..., :first] = 0
    other[..., last + 1 :] = 0
    monkeypatch.setattr(script, "photograph", lambda: other)
    for a, b in zip(before, paint_many(30, region, seed=6), strict=True):
        assert np.array_equal(a.picture, b.picture)


def test_regions_share_no_column() -> None:
    """Training and measuring split the photograph, and even the largest crop fits the narrower part."""
    assert COLUMNS["train"][1] < COLUMNS["held-out"][0]
    assert SIDES[1] * 2**0.5 < COLUMNS["held-out"][1] - COLUMNS["held-out"][0]


def test_painting_is_seeded() -> None:
    """A picture depends on its seed alone."""
    one, same = (paint(np.random.default_rng(7), "train") for _ in range(2))
    other = paint(np.random.default_rng(8), "train")
    assert np.array_equal(one.picture, same.picture)
    assert not np.array_equal(one.picture, other.picture)


def test_training_is_reproducible() -> None:
    """Two trainings with one seed give equal weights, another seed gives others."""
    one, same, other = (train(3, seed, pictures=6, batch=2).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_training_leaves_the_random_state_alone() -> None:
    """The seeds are the training's own."""
    before = torch.get_rng_state()
    train(1, 0, pictures=2, batch=2)
    assert torch.equal(before, torch.get_rng_state())


def test_script_prints_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step from the command line."""
    monkeypatch.setattr(script, "PICTURES", 8)
    out = tmp_path / "weights.safetensors"
    result = CliRunner().invoke(script.main, ["--steps", "1", "--held-out", "8", "--out", str(out)])
    assert result.exit_code == 0, result.output
    for name in Figures._fields:
        assert f"{name}: " in result.output
    lesion_count().load_state_dict(load_file(out), strict=True)


def test_missing_scikit_image_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The photograph is only in the `test` extra."""
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(RuntimeError, match="pip install"):
        photograph.__wrapped__()
