"""The client for everybody, against a live server."""

import os
import threading

import numpy as np
import pytest

from service.app import create_app
from service.client import Client, Explanation, InvalidRequest, NotFound
from service.settings import Settings
from tests.api.test_contract import METHODS, PHOTO, PNG, QUICK, answer
from tests.conftest import CATALOG
from tests.tiny import model_of


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_asked(hl, client, method):
    params = QUICK.get(method, {})
    found = hl.explain(method, None if method == "filters" else PNG, model=model_of(method), **params)
    served = answer(client, method)
    assert found.method == method
    for one, sent in zip(found.maps, served["maps"], strict=True):
        expected = np.asarray(sent["array"]["data"], np.float32)
        np.testing.assert_allclose(one.values, expected, atol=1e-3 * max(1.0, float(np.abs(expected).max())))
        assert one.heatmap is None
        assert (one.picture is None) == (sent["overlay"] is None)


def test_a_picture_may_be_an_array_or_an_open_picture(hl):
    expected = hl.explain("cam", PNG).maps[0].values
    for given in (np.asarray(PHOTO.convert("RGB")), PHOTO):
        np.testing.assert_allclose(hl.explain("cam", given).maps[0].values, expected, atol=1e-5)


def test_what_is_served_can_be_asked(hl):
    assert [one.name for one in hl.methods()] == METHODS
    assert "tiny" in [one.name for one in hl.models()]
    assert hl.model("tiny").default_layer == "relu2"
    assert hl.layers("tiny")[0].path == "conv1"
    assert hl.labels("tiny")[:2] == ["apple", "banana"]
    assert "bids:viridis" in hl.colormaps()
    assert hl.version().name == "heatlens"
    assert len(hl.predict(PNG, top_k=2).predictions) == 2
    assert hl.ready()
    assert hl.ready("tiny-vgg")
    for ask in (hl.model, hl.layers, hl.labels, hl.ready):
        with pytest.raises(NotFound, match="none"):
            ask("none")


def test_methods_are_held_against_each_other(hl):
    asked = ["cam", {"method": "occlusion", "params": {"window": 8, "stride": 8}}, "ram"]
    found = hl.compare(asked, PNG, targets=[1], metrics=["sparsity"])
    assert [one.method for one in found.methods] == ["cam", "occlusion", "ram"]
    assert [one.problem is None for one in found.methods] == [True, True, False]
    assert found.methods[1].params["window"] == 8
    assert found.methods[1].maps[0].values.shape == (32, 32)
    assert found._repr_html_().count("<img ") == 2


def test_a_watch_tells_how_far_it_is(hl):
    with hl.watch("occlusion", PNG, window=8, stride=1, model="tiny") as run:
        told = [(one.rows_done, one.rows_total) for one in run]
        found = run.result
    assert told == sorted(told)
    assert isinstance(found, Explanation)
    with hl.watch("cam", PNG) as run:
        assert run.finish().method == "cam"
    with hl.watch("cam", PNG, windw=1) as run, pytest.raises(InvalidRequest, match="unknown field"):
        run.finish()
    with pytest.raises(RuntimeError, match="enter it first"):
        next(hl.watch("cam", PNG))


def test_many_pictures_are_taken_in_the_callers_thread(hl):
    threads = set()

    def pictures():
        for i in range(20):
            threads.add(threading.get_ident())
            yield PNG if i else b"no picture"

    found = list(hl.explain_many("cam", pictures(), concurrency=4))
    assert threads == {threading.get_ident()}
    assert sorted(type(one).__name__ for _, one in found) == ["Explanation"] * 19 + ["InvalidRequest"]
    for _, one in hl.explain_many("cam", [PNG] * 3):  # leaving early is fine
        assert isinstance(one, Explanation)
        break


def test_an_application_needs_no_server(client, monkeypatch):
    monkeypatch.setattr("service.api.running._PROGRESS_S", 0.0)
    app = create_app(Settings(catalog=CATALOG, device="cpu", model="tiny"))
    with Client(app=app) as hl:
        hl.ready()
        assert app.state.context.store.wait(60)
        found = hl.explain("cam", PNG, targets=[1])
        with hl.watch("occlusion", PNG, window=8, stride=1) as run:
            next(run)
    served = answer(client, "cam", targets=[1])
    np.testing.assert_allclose(found.maps[0].values, served["maps"][0]["array"]["data"], atol=1e-5)


def test_it_works_in_threads_after_a_close_and_refuses_to_wait_for_itself(hl):
    found = []
    threads = [threading.Thread(target=lambda: found.append(hl.predict(PNG).model.name)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hl.close()
    assert [*found, hl.predict(PNG).model.name] == ["tiny"] * 5

    async def inside(client):
        return hl.ready()

    with pytest.raises(RuntimeError, match="use AsyncClient"):
        hl._portal.run(inside)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_it_works_in_a_forked_process(hl):
    assert hl.ready()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # whose copy of the loop's thread does not run
        os.write(writing, b"%d" % hl.ready())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        assert said.read() == b"1"
    os.waitpid(child, 0)
