"""Every method on odd inputs: tiny, oblong, grey ones, ones with opacity; flat pictures; several targets."""

import json
from collections.abc import Callable, Sequence

import pytest
import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from service.contract import Explanation, Target, Targets
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.explainers.base import registry
from service.images import Transform
from service.models.spec import ModelSpec
from service.pipeline import applicability
from service.tasks import task
from tests.parity import few
from tests.plain import PlainProbe

INPUTS = {  # (C, H, W)
    "plain": (3, 16, 16),
    "tiny": (3, 5, 7),
    "grey and high": (1, 26, 12),
    "wide, with opacity": (4, 12, 26),
}
SMALL = {"xrai": {"counts": (4, 8), "smallest": 4}, "extremal-perturbation": {"grain": 4}}  # of pictures so small
OF_TARGETS = [name for name, cls in registry().items() if cls.takes_targets and cls.family != "attention"]


def network(channels: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(channels, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


@pytest.fixture(scope="module")
def asked(device) -> Callable[..., tuple[Explanation, Explanation]]:
    """Explain with a method that does as little as it can, by the engine and plainly: (input, method, x, targets)."""
    loaded: dict[str, Model] = {}

    def ask(
        given: str, name: str, x: Tensor, targets: Sequence[Target | int], *, plainly: bool = True, **params: object
    ) -> tuple[Explanation, Explanation]:
        channels, *size = INPUTS[given]
        if given not in loaded:
            half = (0.5,) * channels
            transform = Transform((size[0], size[1]), (size[0], size[1]), half, half, fit="squash")
            ours = network(channels)
            spec = ModelSpec(given, lambda: ours, transform, task("classification"))
            loaded[given] = device.call(lambda: Model(spec, ours, device.device))
        model, cls = loaded[given], registry()[name]
        if applicability(model.facts)[name]:
            pytest.skip("does not apply")
        params = few(cls) | SMALL.get(name, {}) | params
        if "count" in params and "samples" in params:
            params["samples"] = 2 * params["count"]
        explainer, plain = cls(**params), PlainProbe(network(channels).requires_grad_(False), model.facts)
        shown = x if cls.needs_image else x[:0]
        wanted = Targets(model.facts, targets)
        found = explainer.explain(ModelProbe(model, device, Run()), shown, wanted)
        return found, explainer.explain(plain, shown, wanted) if plainly else found

    return ask


def agree(found: Explanation, expected: Explanation) -> None:
    """Hold explanations against each other, and against what answers may hold."""
    assert [m.array.shape for m in found.maps] == [m.array.shape for m in expected.maps]
    json.dumps(found.details, allow_nan=False)
    for ours, plain in zip(found.maps, expected.maps, strict=True):
        assert torch.isfinite(ours.array).all()
        scale = max(float(plain.array.abs().max()), 1e-6)  # below it there is rounding alone
        torch.testing.assert_close(ours.array, plain.array, rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize("given", [*INPUTS][1:])
@pytest.mark.parametrize("name", registry())
def test_inputs_of_any_shape_are_explained(asked, name, given):
    x = torch.randn(1, *INPUTS[given], generator=torch.Generator().manual_seed(3))
    agree(*asked(given, name, x, [0, 2]))


@pytest.mark.parametrize("colour", ["mean", "black"])
@pytest.mark.parametrize("name", registry())
def test_flat_pictures_are_explained(asked, name, colour):
    x = torch.full((1, *INPUTS["plain"]), {"mean": 0.0, "black": -1.0}[colour])
    agree(*asked("plain", name, x, [0, 2]))


@pytest.mark.parametrize("name", OF_TARGETS)
def test_a_target_s_map_does_not_hang_on_what_else_is_asked(asked, name):
    x = torch.randn(1, *INPUTS["plain"], generator=torch.Generator().manual_seed(3))
    contrast = Target(1, ((1, 1.0), (2, -1.0)))
    together, _ = asked("plain", name, x, [Target(0), contrast], plainly=False)
    alone, _ = asked("plain", name, x, [contrast], plainly=False)
    found, expected = together.maps[1].array, alone.maps[0].array
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * max(float(expected.abs().max()), 1e-6))


@pytest.mark.parametrize("params", [{"fill": "blur"}, {"fill": "blur", "window": 3, "stride": 2}])
def test_a_square_may_show_the_blur_of_a_picture_that_is_smaller_than_it(asked, params):
    x = torch.randn(1, *INPUTS["tiny"], generator=torch.Generator().manual_seed(3))
    agree(*asked("tiny", "occlusion", x, [0, 2], **params))


@pytest.mark.parametrize("given", [*INPUTS][1:])
@pytest.mark.parametrize("name", [name for name, cls in registry().items() if "colours" in cls.model_fields])
def test_a_map_adds_up_to_what_it_promises_whatever_it_shows_of_colours(asked, name, given):
    x = torch.randn(1, *INPUTS[given], generator=torch.Generator().manual_seed(3))
    for colours in ("sum", "absmax", "keep"):
        (one,) = asked(given, name, x, [0], plainly=False, colours=colours)[0].maps
        if one.completeness is not None:
            told, added = one.completeness.change + one.completeness.residual, float(one.array.double().sum())
            promised = one.completeness.promises.startswith("its sum")
            assert promised == (abs(added - told) < 1e-3 * max(1, abs(told))), colours
            assert promised or colours != "sum"


def numbers() -> list[tuple[str, str, float]]:
    """Return each method's parameters that may be any number within bounds, each with its least and largest value."""
    found = []
    for name, cls in registry().items():
        for field, info in cls.model_fields.items():
            bounds = {type(one): one for one in info.metadata}
            if info.annotation is float and field != "smoothness":  # which takes time alone
                least = bounds[Ge].ge if Ge in bounds else 1e-300
                found += [(name, field, least), (name, field, bounds[Le].le if Le in bounds else 1 - 2**-53)]
    return found


@pytest.mark.parametrize(("name", "field", "value"), numbers())
def test_numbers_at_the_ends_of_their_bounds_have_answers(asked, name, field, value):
    for x in (torch.zeros(1, *INPUTS["plain"]), torch.randn(1, *INPUTS["plain"])):
        found, _ = asked("plain", name, x, [0, 2], plainly=False, **{field: value})
        assert all(torch.isfinite(m.array).all() for m in found.maps)
        json.dumps(found.details, allow_nan=False)
