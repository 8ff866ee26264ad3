"""Colour maps: their names, and the colours that a page draws with."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from service.client import wire
from tests.api.test_contract import answer


def test_every_name_that_is_listed_can_be_asked_for(client):
    listed = wire.ColormapList.model_validate(client.get("/colormaps").json())
    names = [one.name for one in listed.colormaps]
    assert len(set(names)) == len(names) > 100
    assert {"sequential", "diverging", "cyclic", "qualitative"} <= {one.category for one in listed.colormaps}
    for name in (listed.positive, listed.signed, *names[::40]):
        found = wire.ColormapInfo.model_validate(client.get(f"/colormaps/{name}").json())
        assert (found.name, len(found.colours)) == (name, 256)


@pytest.mark.parametrize("name", ["inferno", "viridis"])
def test_colours_are_those_that_the_service_draws_with(client, name):
    """Each pixel of a map's own drawing has the colour that the map's value says."""
    colours = client.get(f"/colormaps/{name}").json()["colours"]
    one = answer(client, "cam", output={"colormap": name, "size": "input"})["maps"][0]
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["heatmap"]))).convert("RGB"))
    known = {tuple(bytes.fromhex(colour[1:])) for colour in colours}
    assert {tuple(map(int, pixel)) for row in drawn for pixel in row} <= known
    assert tuple(bytes.fromhex(colours[0][1:])) in {tuple(map(int, pixel)) for row in drawn for pixel in row}


def test_a_signed_map_is_white_in_the_middle(client):
    signed = client.get("/colormaps").json()["signed"]
    middle = client.get(f"/colormaps/{signed}").json()["colours"][128]
    assert min(bytes.fromhex(middle[1:])) > 235


def test_a_name_that_is_none_is_not_found(client):
    response = client.get("/colormaps/virdis")
    assert response.status_code == 404
    assert "did you mean" in response.json()["detail"]
