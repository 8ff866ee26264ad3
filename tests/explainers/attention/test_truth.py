"""A tiny transformer that was trained to tell stripes apart: its attention is held against where they were painted."""

import functools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from service.explainers.base import registry
from service.images import decode, prepare, to_input
from service.models.catalogue import requested
from tests.conftest import encoded
from tests.explainers.conftest import Subject
from tests.training.tiny_vit import CLASSES, SIDE, WEIGHTS, Painted, accuracy, paint, picture, tiny_vit

PICTURES = 48
# How much of a map lies on the stripes, in units of their area; about 10 is all of it.
LEAST = {"attention": 2.5, "attention-rollout": 1.6, "attention-relevance": 3.0, "attn-lrp": 6.0}


@pytest.fixture(scope="module")
def painted() -> Painted:
    """Pictures that no training has seen."""
    return paint(PICTURES, torch.Generator().manual_seed(1_000_003))


@pytest.fixture(scope="module")
def subjects(device):  # type: ignore[no-untyped-def]
    """Make the network as it was trained, or untrained."""

    @functools.cache
    def make(trained: bool) -> Subject:
        build = tiny_vit if trained else functools.partial(tiny_vit, None)
        return Subject("tiny-vit", build(), build(), SIDE, device, "classification")

    return make


def _maps(subject: Subject, method: str, painted: Painted) -> Tensor:
    """Return a method's map of each picture's own class at the pictures' size, what is below zero left out."""
    found = [
        subject.explain(registry()[method](), painted.x[i : i + 1], [int(painted.target[i])]).maps[0].array
        for i in range(PICTURES)
    ]
    return interpolate(torch.stack(found)[:, None].clamp(min=0), SIDE)[:, 0]


def _times_its_area(maps: Tensor, mask: Tensor) -> Tensor:
    """Return how much of each map lies within a mask, in units of what would lie there by its area alone."""
    share = (maps * mask).sum((1, 2)) / maps.sum((1, 2))
    return share / mask.float().mean((1, 2))


def test_it_has_learned_to_tell_stripes_apart():
    assert accuracy(tiny_vit(), 256) > 0.95
    assert accuracy(tiny_vit(None), 256) < 2 / len(CLASSES)


def test_the_picture_for_people_shows_it_its_class():
    """As the catalogue beside it serves it, which README's picture is drawn with."""
    (spec,) = requested((), WEIGHTS.with_suffix(".toml"))[0].values()
    assert tuple(spec.labels) == CLASSES
    image, target = picture()
    x = to_input(prepare(decode(encoded(image), max_bytes=2**24, max_pixels=2**24), spec.transform), spec.transform)
    assert x.shape == (1, 3, SIDE, SIDE)
    assert int(tiny_vit()(x).argmax()) == target


@pytest.mark.parametrize(("method", "least"), LEAST.items())
def test_the_map_lies_on_the_stripes(subjects, painted, method, least):
    maps = _maps(subjects(True), method, painted)
    on_stripes, on_the_other = (_times_its_area(maps, mask) for mask in (painted.mask, painted.other))
    assert float(on_stripes.mean()) > least
    assert float(on_stripes.mean()) > 2 * float(on_the_other.mean())


@pytest.mark.parametrize("method", LEAST)
def test_an_untrained_networks_map_does_not(subjects, painted, method):
    maps = _maps(subjects(False), method, painted)
    assert float(_times_its_area(maps, painted.mask).mean()) < min(2, LEAST[method] - 0.4)


def test_relevance_points_at_the_stripes(subjects, painted):
    peaks = _maps(subjects(True), "attn-lrp", painted).flatten(1).argmax(1)
    assert bool(painted.mask.flatten(1).gather(1, peaks[:, None]).all())
