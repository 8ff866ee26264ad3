"""Every kind of map can be drawn, alone and over a picture, in the shape that its kind promises."""

from typing import get_args

import numpy as np
import pytest
import torch

from service.client import wire
from service.contract import Completeness, Explanation, Interpolation, Kind, Map
from service.images import Transform, prepare
from service.rendering import Heat, OutputOptions, heatmap, overlay
from tests.conftest import photograph

SHAPES = {"positive": (4, 6), "signed": (4, 6), "grid": (5, 4, 6), "picture": (3, 24, 36), "rgb": (3, 24, 36)}
SHAPES |= {"regions": (24, 36)}
PICTURE = prepare(photograph("chelsea"), Transform(24, (24, 36), (0, 0, 0), (1, 1, 1)))


def test_every_kind_has_a_shape():
    assert set(get_args(Kind)) == SHAPES.keys()
    assert get_args(wire.Kind) == get_args(Kind)  # on the wire, too
    assert get_args(wire.Interpolation) == get_args(Interpolation)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_every_kind_is_drawn(kind, interpolation):
    array = torch.rand(SHAPES[kind], generator=torch.Generator().manual_seed(0))
    m = Map("map", array, kind, interpolation=interpolation)
    heat = Heat(m.array.numpy(), m.kind, m.interpolation, m.patch)
    alone = np.asarray(heatmap(heat, PICTURE, OutputOptions()))
    assert len(np.unique(alone.reshape(-1, 3), axis=0)) > 10  # it shows something
    over = overlay(heat, PICTURE, OutputOptions())
    assert (over is None) == (kind not in ("positive", "signed", "regions"))


def test_an_explanation_is_exact_and_costs_nothing_unless_it_says_so():
    one, other = Explanation([]), Explanation([])
    assert (one.exact, one.avoided, one.outputs) == (True, 0, None)
    assert one.details is not other.details


def test_maps_say_how_nearly_they_add_up() -> None:
    found = Explanation([Map("a", torch.ones(2, 2)), Map("b", torch.ones(2, 2))])
    told = found.adding_up("its sum is f(x)", [3.5, 4.0], [0.5, 0.0])
    assert [one.completeness for one in told.maps] == [
        Completeness("its sum is f(x)", 3.5, 0.5),
        Completeness("its sum is f(x)", 4.0, 0.0),
    ]
    assert found.maps[0].completeness is None
    with pytest.raises(ValueError, match="zip"):
        found.adding_up("its sum is f(x)", [1.0], [0.0])
