"""A library runs rows as long as it is as right as the network, and does not fail."""

import logging
import threading
from dataclasses import replace

import pytest
import torch

from service.engine.network.runtimes import building
from service.engine.network.runtimes.building import NotBuilt
from service.engine.network.runtimes.running import LEAST, TIMES, Runtime, hold, opened
from service.engine.network.variants import Variant
from tests import tiny
from tests.engine.network.runtimes.doubles import Saved


@pytest.fixture
def x():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def here(monkeypatch):
    """Let this process do what another one would."""
    monkeypatch.setattr(building, "_run", lambda work, closing: building.written(work))


def test_rows_go_through_the_library_until_it_fails(x, caplog):
    network = tiny.classifier()
    asked = []

    def rows(given):
        asked.append(len(given))
        if len(given) > 2:
            raise RuntimeError("no such luck")
        return torch.full((len(given), 5), 7.0)

    way = replace(Variant("plain", network), name="some", runtime=Runtime("some", rows))
    with torch.inference_mode():
        assert way.library == "some"
        assert way(x[:2]).eq(7).all()
        with caplog.at_level(logging.WARNING, "heatlens"):
            torch.testing.assert_close(way(x), network(x))
        assert "some fails, and the network runs without it from now on: no such luck" in caplog.text
        assert way.library == "torch"
        torch.testing.assert_close(way(x[:2]), network(x[:2]))
    assert asked == [2, 4]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Saved(off=1e-4), "off what the network answers in float64"),
        (Saved(off=float("nan")), "off what the network answers in float64"),
        (Saved(most=2), "it fails on"),
        (Saved(refuses=True), "NotImplementedError"),
    ],
)
def test_what_answers_otherwise_is_refused(x, here, tmp_path, kind, reason):
    with pytest.raises(NotBuilt, match=reason):
        opened(kind, tiny.classifier(), x, tmp_path / "there" / "made", 1, threading.Event())


def test_what_answers_the_same_is_opened_again_from_where_it_is_kept(x, here, tmp_path, monkeypatch):
    network, folder = tiny.classifier(), tmp_path / "there" / "made"
    first = opened(Saved(), network, x, folder, 1, threading.Event())
    monkeypatch.setattr(building, "_run", None)  # it is not built a second time
    again = opened(Saved(), network, x, folder, 1, threading.Event())
    with torch.inference_mode():
        torch.testing.assert_close(first(x), network(x))
        torch.testing.assert_close(again(x), network(x))
    (folder / "network.pt").write_bytes(b"damaged")
    with pytest.raises(NotBuilt):
        opened(Saved(), network, x, folder, 1, threading.Event())


def test_a_library_may_be_twice_as_far_from_float64_as_the_network():
    """Here the network itself is far off, as one whose last digits cancel is."""
    network, x = torch.nn.Flatten(), torch.ones(2, 1, 1, 4)
    answers = torch.full((2, 4), 1.001, dtype=torch.float64)

    def at(errors):
        """Return a library that is so many times as far off as the network, on the other side where it is negative."""
        return Runtime("some", lambda rows: rows.flatten(1) + 1e-3 * (1 - errors))

    for errors in (-TIMES + 0.01, 0.0, 1.0, TIMES - 0.01):
        hold(at(errors), network, x, answers)
    for errors in (-TIMES - 0.01, TIMES + 0.01):
        with pytest.raises(NotBuilt, match=r"which itself is 1\.0e-03 off"):
            hold(at(errors), network, x, answers)
    exact = torch.ones(2, 4, dtype=torch.float64)
    hold(Runtime("some", lambda rows: rows.flatten(1) + 0.9 * LEAST), network, x, exact)
    with pytest.raises(NotBuilt):
        hold(Runtime("some", lambda rows: rows.flatten(1) + 1.1 * LEAST), network, x, exact)
    with pytest.raises(NotBuilt, match=r"1 times \(3,\) numbers, and the network \(4,\)"):
        hold(Runtime("some", lambda rows: rows.flatten(1)[:, :3]), network, x, exact)
