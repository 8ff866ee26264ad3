"""Answers: arrays, pictures, and what notebooks show of them."""

import base64
import io
from html import escape

import numpy as np
import orjson
import pytest
from PIL import Image

from service.client import answers, wire
from service.client.errors import ServerFailed
from tests.api.test_contract import BASE64, METHODS, answer


@pytest.mark.parametrize("encoding", ["json", "base64"])
@pytest.mark.parametrize("method", ["cam", "feature-maps", "saliency"])
def test_values_and_pictures_are_those_of_the_answer(client, method, encoding):
    raw = answer(client, method, output={"array": encoding})
    plain = answer(client, method, output={"array": "json"})
    found = answers.parsed(answers.Explanation, orjson.dumps(raw))
    for one, sent, listed in zip(found.maps, raw["maps"], plain["maps"], strict=True):
        assert one.values.dtype == np.float32
        np.testing.assert_allclose(one.values, np.asarray(listed["array"]["data"], np.float32), atol=1e-5)
        assert bytes(one.heatmap) == base64.b64decode(sent["heatmap"])
        assert Image.open(io.BytesIO(one.picture)).format == "PNG"
        assert one._repr_png_() == one.picture == one.picture._repr_png_()
    assert found.model_dump(mode="json", exclude_unset=True) == raw  # pictures go back to what they were


@pytest.mark.parametrize("method", METHODS)
def test_a_notebook_shows_every_map(client, method):
    found = answers.parsed(answers.Explanation, orjson.dumps(answer(client, method)))
    page = found._repr_html_()
    assert page.count("<img ") == len(found.maps) > 0
    assert all(base64.b64encode(one.picture).decode() in page for one in found.maps)
    assert f"by {method} of" in repr(found) == str(found)


def test_labels_are_text_and_no_markup(client):
    raw = answer(client, "cam")
    raw["maps"][0]["target"]["label"] = '<script>"&'
    page = answers.parsed(answers.Explanation, orjson.dumps(raw))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;&quot;&amp;" in page


def test_predictions_are_shown_with_their_shares(client):
    sent = client.post("/predict", json={"image": BASE64}).content
    found = answers.parsed(answers.Predictions, sent)
    assert found._repr_html_().count("<meter ") == len(found.predictions) == 5
    assert found.predictions[0].label in repr(found)


def test_maps_are_saved(client, tmp_path):
    one = answers.parsed(answers.Explanation, orjson.dumps(answer(client, "cam"))).maps[0]
    one.save(tmp_path / "a.png")
    one.save(tmp_path / "a.npy")
    assert (tmp_path / "a.png").read_bytes() == one.picture
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), one.values)
    bare = one.model_copy(update={"heatmap": None, "overlay": None})
    with pytest.raises(ValueError, match="ask with overlay=True"):
        bare.save(tmp_path / "b.png")


def test_an_answer_may_say_more_than_is_known(client):
    raw = answer(client, "cam")
    raw["later"] = raw["model"]["later"] = raw["usage"]["later"] = raw["maps"][0]["later"] = 1
    assert answers.parsed(answers.Explanation, orjson.dumps(raw)).method == "cam"


@pytest.mark.parametrize("content", [b"<html>", b"{}", b"[]", b'{"method": "cam"}'])
def test_what_is_no_answer_is_said_to_be_none(content):
    with pytest.raises(ServerFailed, match="is it heatlens that answers"):
        answers.parsed(answers.Explanation, content)


def test_a_comparison_keeps_its_maps_and_problems(client):
    explained = answer(client, "cam")
    problem = {"type": "t", "title": "T", "status": 422, "detail": "no <head>", "instance": "/", "error": "T"}
    unknown = wire.Sanity(verdict="not yet tested").model_dump()
    one = {"method": "cam", "params": {}, "details": {}, "sanity": unknown, "cost": None, "problem": None}
    methods = [one | {"maps": explained["maps"]}, one | {"method": "ram", "maps": [], "problem": problem}]
    kept = {name: explained[name] for name in ("id", "model", "predictions", "image", "usage")}
    sent = kept | {"methods": methods, "controls": [], "agreement": []}
    found = answers.parsed(answers.Comparison, orjson.dumps(sent))
    assert found.methods[0].maps[0].values.shape == tuple(explained["maps"][0]["array"]["shape"])
    page = found._repr_html_()
    assert page.count("<img ") == 1
    assert "ram: no &lt;head&gt;" in page


def test_a_comparison_is_shown_with_its_numbers(client):
    """All of them: what is asked for, and why one is missing."""
    body = {
        "image": BASE64,
        "targets": [1],
        "methods": ["cam", "saliency"],
        "metrics": ["sparsity", "completeness", "localisation", "road"],
        "box": [0, 0, 20, 20],
    }
    raw = client.post("/compare", json=body | {"output": {"heatmap": False, "array": "none"}})
    found = answers.parsed(answers.Comparison, raw.content)
    page = found._repr_html_()
    assert page.count("<img ") == 2
    for one in found.methods:
        (shown,) = one.maps
        numbers = [shown.faithfulness.gain.blur, shown.metrics.sparsity, shown.metrics.localisation.energy]
        assert all(f"<td>{number:.3g}</td>" in page for number in numbers if number is not None)
        assert any(number is not None for number in numbers)
        assert all(escape(why) in page for why in shown.metrics.reasons.values())
        assert f"sanity check: {one.sanity.verdict}" in page
        assert f"forwards {one.cost.forwards:,}" in page
    assert f"<td>{found.agreement[0].spearman[0][1]:.3g}</td>" in page
    undrawn = [one.model_copy(update={"overlay": None}) for one in found.methods[0].maps]
    bare = found.methods[0].model_copy(update={"maps": undrawn})._repr_html_()
    assert "<img " not in bare
    assert "sparsity" in bare


def test_a_plot_has_every_map(client):
    """With matplotlib, which nothing else needs."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")

    def drawn(method, **fields):
        found = answers.Explanation.model_validate(answer(client, method, **fields))
        return found, [(axis.get_title(), *axis.images) for axis in found.plot().axes]

    found, (first, second) = drawn("occlusion", targets=[1, 2], params={"window": 8, "stride": 8})
    for one, (title, image) in zip(found.maps, (first, second), strict=True):
        assert title == one.title
        np.testing.assert_array_equal(image.get_array(), one.values)
        low, high = image.get_clim()
        assert low == -high  # they are signed
    pictures, ((_, image), *_) = drawn("filters")
    np.testing.assert_allclose(image.get_array(), pictures.maps[0].values.transpose(1, 2, 0))
    nothing = found.model_copy(update={"maps": []}).plot()
    assert [len(axis.images) for axis in nothing.axes] == [0]
    pyplot.close("all")
