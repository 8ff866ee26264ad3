import pytest
import torch
from torch import Tensor, nn

from service.explainers.features.filters import Filters
from tests import oracles, tiny
from tests.explainers.conftest import assert_close
from tests.oracles import Case

# Steps are scaled to one length, however small the gradient: its rounding is magnified with each.
TOLERANCE = 1e-2


def oracle(case: Case) -> Tensor:
    """Gradient ascent on one picture with autograd through all of it at once: decoding, shift, network, penalties."""
    how = {"steps": 48, "step_size": 0.05, "jitter": 4, "seed": 0, "l2": 0.0, "total_variation": 0.0, **case.params}
    channel, fourier = how["channels"][0], how.get("parametrisation", "fourier") == "fourier"
    network, inner = oracles.isolated(case.network, case.layer)
    met: list[Tensor] = []
    inner.register_forward_hook(lambda _module, _inputs, output: met.append(output))
    height, width = case.x.shape[2:]
    black, white = case.colour(0), case.colour(1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (case.mean, case.std))

    def decoded(parameters: Tensor) -> Tensor:
        if not fourier:
            return parameters.clamp(black, white)
        rgb = torch.einsum(
            "nahw,ac->nchw", torch.fft.irfft2(parameters * power, (height, width), norm="ortho"), colours
        )
        # In another order a blank picture differs in its last bit, and with it the winners of its max pools' ties.
        return (rgb.sigmoid() - mean) / std

    # Power falls with the frequency. Axes of colour: brightness, red against blue, green against magenta.
    rows = torch.arange(height).minimum(height - torch.arange(height)) / height
    frequency = (rows[:, None].square() + (torch.arange(width // 2 + 1) / width).square()).sqrt()
    power = 1 / frequency.clamp(min=1 / max(height, width))
    power = power / power.square().mean().sqrt()
    colours = torch.tensor([[0.577, 0.577, 0.577], [0.354, 0.0, -0.354], [-0.102, 0.204, -0.102]])
    shape = (1, 3, height, width // 2 + 1) if fourier else (1, 3, height, width)
    parameters = torch.zeros(shape, dtype=torch.complex64 if fourier else torch.float32)
    dice = torch.Generator().manual_seed(how["seed"])
    for _ in range(how["steps"]):
        parameters.requires_grad_()
        with torch.enable_grad():
            x = decoded(parameters)
            shift = torch.randint(-how["jitter"], how["jitter"] + 1, (2,), generator=dice).tolist()
            network(x.roll(shift, (2, 3)))
            variation = x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()
            penalty = how["l2"] * x.square().mean() + how["total_variation"] * variation
            (g,) = torch.autograd.grad(met[-1][0, channel].mean() - penalty, parameters)
        real = torch.view_as_real(g) if fourier else g
        parameters = parameters.detach() + how["step_size"] * g / real.square().mean().sqrt()
        if not fourier:
            parameters = decoded(parameters)
    return ((decoded(parameters) - black) / (white - black))[0].detach()


@pytest.mark.oracle("filters")
@pytest.mark.parametrize("parametrisation", ["pixel", "fourier"])
@pytest.mark.parametrize("regulariser", [{}, {"l2": 0.5}, {"total_variation": 0.5}])
def test_paints_what_gradient_ascent_paints(small, parametrisation, regulariser):
    subject = small(tiny.classifier)
    params = {"steps": 4, "channels": (3, 5), "parametrisation": parametrisation, "seed": 2, **regulariser}
    found = subject.explain(Filters(layer="conv2", **params), None).maps
    for m in found:
        case = Case(subject.plain, torch.empty(1, 3, 32, 32), "conv2", params={**params, "channels": (m.channel,)})
        assert_close(m.array, oracle(case), 1e-4)


@pytest.mark.oracle("filters")
def test_a_linear_filters_optimum_is_the_filter_itself(small):
    def whole() -> nn.Module:
        """One kernel as large as the input: its response is a scalar product with the picture."""
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 31), nn.Flatten(), nn.Linear(16, 2)).eval()

    with torch.random.fork_rng():
        subject = small(whole)
    params = Filters(layer="0", channels=(0, 2), steps=1, step_size=0.1, jitter=0, parametrisation="pixel")
    found = subject.explain(params, None)
    black, white = subject.facts.colour((0, 0, 0)), subject.facts.colour((1, 1, 1))
    for m in found.maps[:2]:
        painted = (black + m.array * (white - black)).flatten()
        # The response is the mean over 2 x 2 positions, so the optimum is the filter averaged over them.
        kernel = nn.functional.pad(subject.plain[0].weight[m.channel], (0, 1, 0, 1))
        optimum = sum(kernel.roll((dy, dx), (1, 2)) for dy in (0, 1) for dx in (0, 1)).flatten()
        cosine = nn.functional.cosine_similarity(painted, optimum, dim=0)
        assert float(cosine) == pytest.approx(1, abs=1e-4)


@pytest.mark.oracle("filters")
@pytest.mark.parametrize("parametrisation", ["pixel", "fourier"])
def test_response_rises_far_above_blank_and_random_pictures(subjects, parametrisation):
    subject = subjects("efficientnet_lite0")
    params = Filters(layer="blocks.5", channels=(0, 3), steps=24, parametrisation=parametrisation)
    details = subject.explain(params, None).details
    for painted, blank, noise in zip(*(details[k] for k in details), strict=True):
        assert painted > 3 * abs(blank)
        assert painted > 1.5 * noise


def test_fixed_seed_repeats_and_another_does_not(small):
    subject = small(tiny.classifier)
    pictures = [subject.explain(Filters(layer="conv2", steps=4, seed=s), None).maps[0].array for s in (1, 1, 2)]
    torch.testing.assert_close(pictures[0], pictures[1], rtol=1e-4, atol=1e-5)
    assert oracles.relative_error(pictures[2], pictures[0]) > 1e-2


def test_pictures_do_not_depend_on_their_neighbours(small):
    subject = small(tiny.classifier)
    together = subject.explain(Filters(layer="conv2", channels=tuple(range(10)), steps=4), None).maps
    alone = subject.explain(Filters(layer="conv2", channels=(9,), steps=4), None).maps
    assert oracles.relative_error(together[9].array, alone[0].array) <= 1e-4


def test_a_response_dead_behind_its_relu_comes_alive(small):
    subject = small(tiny.classifier)
    subject.model.module.conv2.bias[3] = -0.2
    details = subject.explain(Filters(layer="relu2", channels=(3,), steps=40, step_size=0.3), None).details
    assert details["response_blank"] == [0.0]
    assert details["response"][0] > 0


@pytest.mark.parametrize("regulariser", [{"l2": 5.0}, {"total_variation": 5.0}, {"blur": 1.5}])
def test_regularisers_smooth_the_picture(small, regulariser):
    subject = small(tiny.classifier)
    plain = {"layer": "conv2", "channels": (1,), "steps": 16, "parametrisation": "pixel", "jitter": 0}
    rough, smooth = (subject.explain(Filters(**plain, **extra), None).maps[0].array for extra in ({}, regulariser))
    measure = (lambda p: (p - 0.45).square().mean()) if "l2" in regulariser else (lambda p: p.diff(dim=2).abs().mean())
    assert float(measure(smooth)) < 0.9 * float(measure(rough))


def test_first_layer_kernels_are_shown(small):
    subject = small(tiny.classifier)
    maps = subject.explain(Filters(layer="conv1", channels=(2, 5), steps=1), None).maps
    assert [m.name for m in maps[2:]] == ["kernel conv1 channel 2", "kernel conv1 channel 5"]
    assert torch.equal(maps[3].array, subject.plain.conv1.weight[5])


def test_three_channels_of_another_layer_are_no_colours(small):
    def network() -> nn.Module:
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()

    maps = small(network).explain(Filters(layer="2", channels=(0,), steps=1), None).maps
    assert [m.name for m in maps] == ["filter 2 channel 0"]
