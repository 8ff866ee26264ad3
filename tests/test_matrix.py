"""The table of methods and networks says what is so, and finds what is not."""

from dataclasses import replace

import pytest
import torch

from service.engine.probe import ModelProbe
from service.explainers.base import registry
from tests import matrix, oracles, tiny
from tests.matrix import Cell, Holding


@pytest.fixture(scope="module")
def holding():
    held = Holding("resnet18", tiny.classifier, tiny.SIZE)
    yield held
    held.close()


@pytest.mark.parametrize("name", ["cam", "recipro-cam", "saliency", "rise", "filters", "lrp"])
def test_what_holds_is_said_to_hold(holding, name):
    cell = holding.cell(registry()[name])
    assert (cell.mark, cell.reason) == ("=", "")
    assert cell.error <= matrix.TOLERANCE


@pytest.mark.parametrize("name", ["deconvnet", "feature-maps"])
def test_a_channel_is_looked_at_that_is_alive(name):
    def half_dead():
        network = tiny.classifier()
        with torch.no_grad():
            network.conv2.weight[1::2] = 0
            network.conv2.bias[1::2] = -1
        return network

    held = Holding("resnet18", half_dead, tiny.SIZE)
    try:
        cell = held.cell(registry()[name])
    finally:
        held.close()
    assert (cell.mark, cell.reason) == ("=", "")


@pytest.mark.parametrize("name", ["ram", "attention"])
def test_true_reasons_are_told_from_others(holding, monkeypatch, name):
    assert holding.cell(registry()[name]).mark == "-"
    monkeypatch.setattr(matrix, "_REASONS", {words: lambda one: False for words in matrix._REASONS})
    cell = holding.cell(registry()[name])
    assert cell.mark == "!"
    assert "untrue" in cell.reason


def test_faults_are_found(holding, monkeypatch):
    saliency = registry()["saliency"]
    explain = saliency.explain

    def wrong(self, probe, image, targets):
        found = explain(self, probe, image, targets)
        factor = 1.0 if isinstance(probe, matrix.PlainProbe) else 1.01
        return replace(found, maps=[replace(m, array=factor * m.array) for m in found.maps])

    def changing(self, probe, image, targets):
        with torch.no_grad():
            holding.model.module.fc.bias += 0.01
        return explain(self, probe, image, targets)

    def none(self, probe, image, targets):
        found = explain(self, probe, image, targets)
        return replace(found, maps=[replace(m, array=m.array / 0) for m in found.maps])

    def empty(self, probe, image, targets):
        found = explain(self, probe, image, targets)
        return replace(found, maps=[replace(m, array=0 * m.array) for m in found.maps])

    for broken, said in (
        (wrong, "off by"),
        (none, "a number is none"),
        (empty, "nothing is compared"),
        (changing, "the model is not what it was"),
    ):
        monkeypatch.setattr(saliency, "explain", broken)
        cell = holding.cell(saliency)
        assert cell.mark == "!"
        assert said in cell.reason


def test_a_wrong_score_is_found_where_nearly_equal_weights_cancel(monkeypatch):
    """What all weights have in common adds up to nothing there, and what two of them differ by to a map of its own."""
    held, scores = Holding("resnet18", tiny.centred, tiny.SIZE), ModelProbe.scores

    def exchanged(self, rows, *, sketch=None):
        found = scores(self, rows).clone()
        found[[5, 6]] = found[[6, 5]]
        return found

    try:
        assert held.facts.default_layer == "norm"
        cell = held.cell(registry()["score-cam"])
        assert (cell.mark, cell.reason) == ("=", "")
        monkeypatch.setattr(ModelProbe, "scores", exchanged)
        cell = held.cell(registry()["score-cam"])
    finally:
        held.close()
    assert cell.mark == "!"
    assert "off by" in cell.reason


def test_what_rounding_alone_moves_is_proved_in_double(holding, monkeypatch):
    saliency = registry()["saliency"]
    explain = saliency.explain

    def rounded(self, probe, image, targets):
        found = explain(self, probe, image, targets)
        single = isinstance(probe, ModelProbe) and next(probe._model.module.parameters()).dtype == torch.float32
        return replace(found, maps=[replace(m, array=m.array * (1.01 if single else 1.0)) for m in found.maps])

    monkeypatch.setattr(saliency, "explain", rounded)
    cell = holding.cell(saliency)
    assert (cell.mark, cell.reason) == ("~", "")
    assert cell.error > matrix.TOLERANCE


def test_a_head_of_zeros_is_woken_so_that_maps_are_of_something():
    network = tiny.classifier()
    torch.nn.init.zeros_(network.fc.weight)
    with torch.no_grad():
        outputs = oracles.lively(network, size=tiny.SIZE)(oracles.photograph("chelsea", tiny.SIZE))
    assert float(outputs.std()) > 0.1


def test_the_table_has_a_line_for_each_method_and_says_what_is_wrong():
    cells = {"cam": Cell("=", error=1e-7), "ram": Cell("-", reason="ram needs a regression model"), "lrp": Cell("!")}
    shown = matrix.table({"resnet18": {**cells, "rise": Cell("!", reason="a number is none")}})
    lines = shown.splitlines()
    assert len([line for line in lines if line.split(" ")[0] in registry()]) == len(registry())
    assert "! a number is none\n    rise on resnet18" in shown
    assert "METHOD needs a regression model\n    ram on resnet18" in shown
    assert lines[-1] == "1 =, 0 ~, 1 -, 2 !"
