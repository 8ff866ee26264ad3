"""What is asked, what a source knows and what is assumed become one specification."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from service.errors import CatalogError
from service.models.making import broken, make
from service.models.sources import Network, Wish
from service.tasks import TASKS
from tests.models import nets


def known(**more: Any) -> Network:
    given: dict[str, Any] = {
        "source": "test/net",
        "build": lambda said: nets.small(),
        "identity": lambda network: ["test"],
        "preprocessing": {
            "input_size": 32,
            "resize": 32,
            "fit": "crop",
            "interpolation": "bilinear",
            "mean": 0.5,
            "std": 0.5,
        },
        "labels": ("a", "b", "c"),
        "task": "classification",
        "output": "logits",
        "scale": "logits",
    }
    return Network(**(given | more))


def test_what_the_source_knows_is_taken() -> None:
    spec = make("m", known(), Wish(), {}, "words")
    assert (spec.name, spec.source, spec.labels, spec.task.name) == ("m", "words", ("a", "b", "c"), "classification")
    assert (spec.output, spec.scale, spec.task_known, spec.assumed) == ("logits", "logits", True, ())


def test_what_the_user_says_wins() -> None:
    spec = make("m", known(), Wish(), {"task": "regression", "output": 0, "scale": "probabilities", "mean": 0.1}, "")
    assert (spec.task.name, spec.output, spec.scale, spec.labels) == ("regression", 0, "probabilities", ())
    assert spec.transform.mean == (0.1,) * 3


def test_task_that_nobody_says_is_marked() -> None:
    spec = make("m", known(task=None), Wish(), {}, "")
    assert (spec.task.name, spec.task_known) == ("classification", False)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_said_by_either(name: str) -> None:
    assert make("m", known(task=name), Wish(), {}, "").task.name == name
    assert make("m", known(task=None), Wish(), {"task": name}, "").task.name == name


def test_task_that_is_not_served_is_named() -> None:
    with pytest.raises(CatalogError, match=r"^task: the source says 'nothing'; served are .*classification"):
        make("m", known(task="nothing"), Wish(), {}, "")
    with pytest.raises(CatalogError, match=r"^task: Input should be .*; did you mean 'regression'\?"):
        make("m", known(), Wish(), {"task": "regresion"}, "")


def test_what_loading_said_is_of_the_last_loading() -> None:
    def build(said: list[str]) -> nn.Module:
        said.append("from the file")
        return nn.DataParallel(nets.small())

    spec = make("m", known(build=build, said=("assumed",)), Wish(), {}, "")
    for _ in range(2):
        spec.build()
    assert spec.said == ["assumed", "from the file", "DataParallel around the network was taken off"]


def test_labels_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"0": "x", "1": "y", "2": "z"}')
    assert make("m", known(), Wish(folder=tmp_path), {"labels": Path("l.json")}, "").labels == ("x", "y", "z")


def test_only_random_weights_are_changed() -> None:
    torch.manual_seed(0)
    plain = nets.small().state_dict()
    for weights, same in (("default", True), ("random", False)):
        torch.manual_seed(0)
        built = make("m", known(), Wish(weights), {}, "").build().state_dict()
        assert all(torch.equal(value, built[name]) for name, value in plain.items()) == same


def test_broken_says_why_it_does_not_load() -> None:
    spec = broken("m", "models.m: what is wrong")
    assert spec.mistake == "models.m: what is wrong"
    with pytest.raises(CatalogError, match=r"^models\.m: what is wrong$"):
        spec.build()


def test_refusal_is_about_what_the_network_is_given() -> None:
    spec = make("m", known(build=lambda said: nets.grey()), Wish(), {}, "")
    network = spec.build()
    assert "set channels = 1" in str(spec.refusal(network, RuntimeError("x")))
