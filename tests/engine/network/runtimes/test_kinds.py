"""Each library that is installed answers what the network answers, for any number of rows."""

import pytest
import torch

from service.engine.network.runtimes.kinds import KINDS
from tests import tiny
from tests.explainers.conftest import assert_close

NETWORKS = {"classifier": tiny.classifier, "vgg": tiny.vgg, "tokens": tiny.tokens}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request):
    if not request.param.installed():
        pytest.skip(f"{request.param.name} is not installed")
    return request.param


def test_names_are_those_of_the_extras():
    import tomllib

    from tests.openapi import ROOT

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert {kind.name for kind in KINDS} <= extras.keys()
    assert all(any(line.startswith(kind.name) for line in extras[kind.name]) for kind in KINDS)


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_the_same_in_a_library(kind, name, tmp_path):
    network = NETWORKS[name]()
    rows = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        kind.export(network, rows[:2], tmp_path)
        run = kind.open(tmp_path, 1)
        first = run(rows)
        for count in (1, 2, 5):
            assert_close(run(rows[:count]), network(rows[:count]), 1e-5)
        assert_close(first, network(rows), 1e-5)  # and is not overwritten
    assert kind.release
