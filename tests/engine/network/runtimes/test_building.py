"""Another process writes a network for a library, into a folder that is there whole or not at all."""

import threading

import pytest
import torch
from torch import nn

from service.engine.network.capture import install
from service.engine.network.runtimes.building import NotBuilt, build, expected
from tests import tiny
from tests.engine.network.runtimes.doubles import Saved


def _inputs():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_it_is_written_with_what_the_network_answers_in_float64(tmp_path):
    network, x = tiny.classifier(), _inputs()
    install(network)
    build(Saved(), network, x, tmp_path / "made", threading.Event())
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    given, answers = expected(tmp_path / "made")
    assert torch.equal(given, x)
    with torch.inference_mode():
        torch.testing.assert_close(answers, tiny.classifier().double()(x.double()), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(Saved().open(tmp_path / "made", 1)(x), network(x), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_leaves_nothing_and_says_why(tmp_path, monkeypatch):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho an operator; echo that nobody knows >&2; exit 3\n")
    failing.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(failing))
    with pytest.raises(NotBuilt, match="ended with 3: that nobody knows"):
        build(Saved(), tiny.classifier(), _inputs(), tmp_path / "made", threading.Event())
    assert list(tmp_path.iterdir()) == [failing]


def test_what_cannot_be_handed_over_leaves_nothing(tmp_path):
    class Local(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    with pytest.raises(NotBuilt, match="cannot be handed to another process"):
        build(Saved(), Local(), _inputs(), tmp_path / "made", threading.Event())
    assert list(tmp_path.iterdir()) == []


def test_closing_ends_it(tmp_path):
    closing = threading.Event()
    closing.set()
    with pytest.raises(NotBuilt, match="closing"):
        build(Saved(), tiny.classifier(), _inputs(), tmp_path / "made", closing)
    assert list(tmp_path.iterdir()) == []
