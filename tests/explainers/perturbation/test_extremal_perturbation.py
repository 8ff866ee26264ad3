import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.explainers.perturbation.extremal_perturbation import ExtremalPerturbation, Spread
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.perturbation.test_partition_shap import blurred
from tests.oracles import Case

DEFAULTS = {
    "score": "logit",
    "areas": (0.1,),
    "steps": 300,
    "grain": 7,
    "smoothness": 21.0,
    "mirror": True,
    "hidden": "blur",
}


def tolerance(case: Case) -> float:
    """Return what rounding may do: each step's gradient passes rectifiers that it may open or close."""
    return 2e-4 * case.params.get("steps", 300) / 10


def spread_of(p: Tensor, size: tuple[int, int], grain: int, sigma: float) -> Tensor:
    """Return the smooth maximum of the kernels around a grid's cells, one cell after the other."""
    reach = 1 - (-sigma // grain)
    y, x = torch.arange(size[0])[:, None], torch.arange(size[1])[None]
    values, there = [], []
    for i in range(-int(reach), p.shape[0] + int(reach)):
        for j in range(-int(reach), p.shape[1] + int(reach)):
            distance = ((y - (i + 0.5) * grain) ** 2 + (x - (j + 0.5) * grain) ** 2).sqrt()
            kernel = torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2)
            inside = 0 <= i < p.shape[0] and 0 <= j < p.shape[1]  # around the grid lie zeros
            values.append(kernel * (p[i, j] if inside else 0))
            there.append(((y // grain - i).abs() <= reach) & ((x // grain - j).abs() <= reach))
    s, near = torch.stack(values), torch.stack(there)
    weights = torch.where(near, torch.exp(20 * s), 0)
    return (s * weights).sum(0) / weights.sum(0)


def oracle(case: Case) -> Tensor:
    """The mean over areas of the masks that an optimiser of PyTorch finds, by the gradient of all of it at once."""
    how, size = {**DEFAULTS, **case.params}, tuple(case.x.shape[2:])
    filling = blurred(case.x) if how["hidden"] == "blur" else torch.zeros_like(case.x)
    masks = []
    for area in how["areas"]:
        p = torch.ones(-(-size[0] // how["grain"]), -(-size[1] // how["grain"]), requires_grad=True)
        ascent = torch.optim.SGD([p], lr=0.01, momentum=0.9, dampening=0.9, maximize=True)
        velocity_starts_small = torch.zeros_like(p)  # the library's first step takes the gradient whole
        ascent.state[p]["momentum_buffer"] = velocity_starts_small
        wanted = torch.tensor([min(max(area * p.new_zeros(size).numel() - i, 0), 1) for i in range(size[0] * size[1])])
        for step in range(how["steps"]):
            with torch.enable_grad():
                mask = spread_of(p, size, how["grain"], how["smoothness"])
                shown = mask * case.x + (1 - mask) * filling
                if how["mirror"] and step % 2 == 0:
                    shown = shown.flip(3)
                score = oracles.score_of(case.network, shown, case.target, how["score"])[0]
                excess = ((mask.flatten().sort(descending=True).values - wanted) ** 2).mean()
                ascent.zero_grad()
                (score - 300 * 1.0035 ** (800 * step / how["steps"]) * excess).backward()
            ascent.step()
            with torch.no_grad():
                p.clamp_(0, 1)
        masks.append(spread_of(p.detach(), size, how["grain"], how["smoothness"]))
    return torch.stack(masks).mean(0)


@pytest.mark.oracle("extremal-perturbation")
@pytest.mark.parametrize(
    "how",
    [
        {"areas": (0.1, 0.4)},
        {"areas": (0.25,), "mirror": False, "hidden": "mean", "score": "probability"},
        {"grain": 9, "smoothness": 12.0, "steps": 21},
    ],
)
def test_equals_an_optimiser_on_the_whole_of_it(small, how):
    subject, x = small(tiny.vgg), tiny_input()
    params = {"steps": 10, **how}
    found = subject.explain(ExtremalPerturbation(**params), x, [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        case = Case(subject.plain, x, target=target, params=params)
        assert_close(m.array, oracle(case), tolerance(case))


@pytest.mark.oracle("extremal-perturbation")
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_equals_an_optimiser_on_real_networks(subjects, name):
    subject, x = subjects(name), oracles.photograph("chelsea", 64)
    params = {"steps": 10}
    found = subject.explain(ExtremalPerturbation(**params), x, [281])
    case = Case(subject.plain, x, target=281, params=params)
    assert_close(found.maps[0].array, oracle(case), tolerance(case))


@pytest.mark.oracle("extremal-perturbation")
def test_a_mask_of_the_area_asked_for_keeps_more_than_any_of_thirty_random_ones(subjects):
    subject, x = subjects("efficientnet_lite0"), oracles.photograph("chelsea", 128)
    method = ExtremalPerturbation(steps=40)
    found = subject.explain(method, x, [281])
    ((area,),), ((kept,),) = found.details["areas"], found.details["kept"]
    assert area == pytest.approx(0.1, abs=0.04)
    assert float(found.maps[0].array.mean()) == pytest.approx(area, abs=1e-5)
    mask, dull = found.maps[0].array, blurred(x)
    with torch.no_grad():
        again = float(subject.plain(mask * x + (1 - mask) * dull)[0, 281])
    assert kept == pytest.approx(again, rel=1e-3)
    random, others = torch.Generator().manual_seed(0), []
    for _ in range(30):  # squares of 16 pixels a side, together as large
        chosen = torch.randperm(64, generator=random)[: round(area * 64)]
        other = torch.zeros(64).index_fill(0, chosen, 1).view(8, 8).repeat_interleave(16, 0).repeat_interleave(16, 1)
        with torch.no_grad():
            others.append(float(subject.plain(other * x + (1 - other) * dull)[0, 281]))
    assert kept > max(others)
    assert kept > 0.3 * found.details["clean"][0] > found.details["hidden"][0]


@pytest.mark.parametrize(("size", "grain", "sigma"), [((32, 32), 7, 21.0), ((20, 33), 5, 4.0), ((9, 12), 3, 1.0)])
def test_masks_are_smooth_maxima_of_kernels(size, grain, sigma):
    spread = Spread(size, grain, sigma, torch.device("cpu"))
    p = torch.rand(*spread.grid, generator=torch.Generator().manual_seed(0))
    smooth = spread(p)
    assert_close(smooth.mask, spread_of(p, size, grain, sigma), 1e-5)
    assert spread(torch.zeros_like(p)).mask.eq(0).all()
    assert 0 <= float(smooth.mask.min()) <= float(smooth.mask.max()) <= 1
    at_mask = torch.randn(size, generator=torch.Generator().manual_seed(1))
    leaf = p.clone().requires_grad_()
    (expected,) = torch.autograd.grad((spread_of(leaf, size, grain, sigma) * at_mask).sum(), leaf)
    assert_close(spread.gradient(p, smooth, at_mask), expected, 1e-5)


def test_targets_and_areas_search_each_for_itself(small):
    subject, x = small(tiny.vgg), tiny_input()
    both = subject.explain(ExtremalPerturbation(steps=10, areas=(0.1, 0.5)), x, [1, 3])
    for i, target in enumerate((1, 3)):
        alone = [subject.explain(ExtremalPerturbation(steps=10, areas=(a,)), x, [target]) for a in (0.1, 0.5)]
        mean = torch.stack([one.maps[0].array for one in alone]).mean(0)
        torch.testing.assert_close(both.maps[i].array, mean, rtol=1e-3, atol=1e-5)
        kept = torch.tensor([one.details["kept"][0][0] for one in alone])
        torch.testing.assert_close(torch.tensor(both.details["kept"][i]), kept, rtol=1e-3, atol=1e-5)


def test_passes_are_known_beforehand(small):
    subject, run = small(tiny.classifier), Run()
    method = ExtremalPerturbation(steps=10, areas=(0.1, 0.2))
    found = method.explain(subject.probe(run), tiny_input(), Targets(subject.facts, [1, 2, 3]))
    assert run.usage.forwards == 2 + 6 * 11
    assert run.usage.backwards == 60
    assert method.passes(subject.facts, 3) == run.usage.forwards + 2 * run.usage.backwards
    assert all(0 <= float(m.array.min()) <= float(m.array.max()) <= 1 for m in found.maps)


@pytest.mark.parametrize("areas", [(), (0.0,), (1.0,), (0.1,) * 9])
def test_areas_are_shares_of_the_picture(areas):
    with pytest.raises(ValidationError):
        ExtremalPerturbation(areas=areas)
