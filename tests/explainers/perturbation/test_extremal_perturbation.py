import functools

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.errors import InvalidParameter
from service.explainers.perturbation.extremal_perturbation import ExtremalPerturbation, Spread, _excess
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
    """Return what rounding may do: each step's gradient passes rectifiers that it may open or close.

    A pixel that it puts on the other side of the area's edge is pushed the other way; in pictures of some size
    there are thousands near it.
    """
    return (2e-4 if case.x.shape[-1] <= 32 else 1e-2) * case.params.get("steps", 300) / 10


@functools.cache
def kernels(height: int, width: int, grain: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the kernels around a grid's cells and around those beside it, and how far they reach: one a cell."""
    reach = int(1 - (-sigma // grain))
    y, x = (torch.arange(-reach * grain, (n + reach) * grain) for n in (height, width))
    y, x = y[:, None], x[None]
    found, there = [], []
    for i in range(-2 * reach, height + 2 * reach):
        for j in range(-2 * reach, width + 2 * reach):
            distance = ((y - (i + 0.5) * grain) ** 2 + (x - (j + 0.5) * grain) ** 2).sqrt()
            found.append(torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2))
            there.append(((y // grain - i).abs() <= reach) & ((x // grain - j).abs() <= reach))
    return torch.stack(found), torch.stack(there)


def spread_of(p: Tensor, grain: int, sigma: float) -> Tensor:
    """Return the smooth maximum of the kernels around a grid's cells, as far as they reach."""
    around = 2 * int(1 - (-sigma // grain))  # cells of zeros on each side
    each, near = kernels(*p.shape, grain, sigma)
    s = each * functional.pad(p, (around,) * 4).reshape(-1, 1, 1)
    weights = torch.where(near, torch.exp(20 * s), 0)
    return (s * weights).sum(0) / weights.sum(0)


def within(mask: Tensor, size: tuple[int, int], grain: int, sigma: float) -> Tensor:
    """Return what of a mask lies on the picture."""
    first = int(1 - (-sigma // grain)) * grain
    return mask[first:, first:][: size[0], : size[1]]


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
        for step in range(how["steps"]):
            with torch.enable_grad():
                whole = spread_of(p, how["grain"], how["smoothness"])
                mask = within(whole, size, how["grain"], how["smoothness"])
                shown = mask * case.x + (1 - mask) * filling
                if how["mirror"] and step % 2 == 0:
                    shown = shown.flip(3)
                score = oracles.score_of(case.network, shown, case.target, how["score"])[0]
                # The area is that of all of the mask, also where the border cuts it.
                wanted = (area * mask.numel() - torch.arange(whole.numel())).clamp(0, 1)
                values = whole.flatten().sort(descending=True).values
                # Of pixels that are equal none is before another.
                equal = (values.detach() - values.detach()[wanted > 0][-1]).abs() < 1e-5
                wanted[equal] = wanted[equal].mean()
                excess = ((values - wanted) ** 2).mean()
                ascent.zero_grad()
                (score - 300 * 1.0035 ** (800 * step / how["steps"]) * excess).backward()
            ascent.step()
            with torch.no_grad():
                p.clamp_(0, 1)
        whole = spread_of(p.detach(), how["grain"], how["smoothness"])
        masks.append(within(whole, size, how["grain"], how["smoothness"]))
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
    params = {"steps": 10, "grain": 9, "smoothness": 9.0}
    found = subject.explain(ExtremalPerturbation(**params), x, [281])
    case = Case(subject.plain, x, target=281, params=params)
    assert_close(found.maps[0].array, oracle(case), tolerance(case))


@pytest.mark.oracle("extremal-perturbation")
def test_a_mask_of_the_area_asked_for_keeps_more_than_any_of_thirty_random_ones(subjects):
    subject, x = subjects("efficientnet_lite0"), oracles.photograph("chelsea", 128)
    method = ExtremalPerturbation(steps=60, smoothness=10.0)
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
        others.append(torch.zeros(64).index_fill(0, chosen, 1).view(1, 8, 8))
    squares = torch.stack(others).repeat_interleave(16, 2).repeat_interleave(16, 3)
    with torch.no_grad():
        assert kept > float(subject.plain(squares * x + (1 - squares) * dull)[:, 281].max())
    assert kept > 0.3 * found.details["clean"][0] > found.details["hidden"][0]


@pytest.mark.parametrize(("size", "grain", "sigma"), [((32, 32), 7, 21.0), ((20, 33), 5, 4.0), ((9, 12), 3, 1.0)])
def test_masks_are_smooth_maxima_of_kernels(size, grain, sigma):
    spread = Spread(size, grain, sigma, torch.device("cpu"))
    p = torch.rand(*spread.grid, generator=torch.Generator().manual_seed(0))
    smooth, expected = spread(p), spread_of(p, grain, sigma)
    assert_close(smooth.mask, expected, 1e-5)
    assert torch.equal(spread.seen(smooth.mask), within(smooth.mask, size, grain, sigma))
    assert spread(torch.zeros_like(p)).mask.eq(0).all()
    assert 0 <= float(smooth.mask.min()) <= float(smooth.mask.max()) <= 1
    at_mask = torch.randn(smooth.mask.shape, generator=torch.Generator().manual_seed(1))
    leaf = p.clone().requires_grad_()
    (expected,) = torch.autograd.grad((spread_of(leaf, grain, sigma) * at_mask).sum(), leaf)
    assert_close(spread.gradient(p, smooth, at_mask), expected, 1e-5)
    ones = torch.ones(size)
    assert torch.equal(spread.seen(spread.widened(ones)), ones)
    assert spread.widened(ones).shape == smooth.mask.shape
    assert float(spread.widened(ones).sum()) == ones.numel()


def test_a_spot_costs_the_same_wherever_it_lies():
    """Were only what is seen of a spot paid for, masks would lie in the corners, whatever the network says."""
    spread = Spread((70, 70), 7, 14.0, torch.device("cpu"))
    areas = []
    for y, x in ((0, 0), (0, 5), (9, 9), (5, 5)):
        p = torch.zeros(spread.grid)
        p[y, x] = 1
        areas.append(float(spread(p).mask.sum()))
        assert (float(spread.seen(spread(p).mask).sum()) < 0.7 * areas[-1]) == (not 0 < y < 9)
    assert areas == pytest.approx([areas[0]] * 4, rel=1e-4)


def test_pixels_that_are_equal_are_drawn_alike():
    masks, sorted_to = (
        torch.tensor([0.5, 0.9, 0.5, 0.1, 0.5, 0.5]).view(1, 2, 3),
        torch.tensor([[0.0, 0, 0, 0.5, 1, 1]]),
    )
    found = _excess(masks, sorted_to).flatten()
    # Four are equal, of which one and a half are wanted.
    expected = (torch.tensor([0.5, 0.9, 0.5, 0.1, 0.5, 0.5]) - torch.tensor([0.375, 1, 0.375, 0, 0.375, 0.375])) / 3
    torch.testing.assert_close(found, expected)


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


def test_a_pixel_is_made_of_a_bounded_number_of_cells():
    assert ExtremalPerturbation(grain=7, smoothness=42).smoothness == 42
    with pytest.raises(ValidationError, match="smoothness 100 is more than 6 times grain 2"):
        ExtremalPerturbation(grain=2, smoothness=100)


def test_cells_larger_or_wider_than_the_input_are_refused(small):
    subject = small(tiny.classifier)
    with pytest.raises(InvalidParameter, match=r"a cell of 33 pixels .* choose at most 32") as caught:
        subject.explain(ExtremalPerturbation(grain=33, steps=10), tiny_input(), [1])
    assert caught.value.errors[0].pointer == "/params/grain"
    with pytest.raises(InvalidParameter, match=r"cells are 33 pixels wide .* choose at most 32") as caught:
        subject.explain(ExtremalPerturbation(smoothness=33, steps=10), tiny_input(), [1])
    assert caught.value.errors[0].pointer == "/params/smoothness"
