"""State dicts in every wrapper: read, averages first, and nothing of it in silence."""

import argparse
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from service.errors import CatalogError
from service.models.weights.reading import WRAPPERS, averaged
from tests.models import nets
from tests.models.weights.saved import asked, file, holds, trained

# Wrappers


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_usual_wrapper(tmp_path: Path, wrapper: str) -> None:
    file(tmp_path, {wrapper: trained(), "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}})
    spec = asked(tmp_path)
    assert holds(spec.build(), trained())
    assert spec.said == []


AVERAGES = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "params_ema", "ema", "model_ema_state_dict"),
    *("ema_net", "ema_weights", "ema_state", "swa_state_dict", "shadow", "modelEMA", "averaged_model", "EMA"),
)


@pytest.mark.parametrize("key", AVERAGES)
@pytest.mark.parametrize("beside", ["model", "state_dict", "anything"])
def test_every_average_comes_first_and_is_said(tmp_path: Path, key: str, beside: str) -> None:
    file(tmp_path, {beside: trained(1), key: trained(2), "ema_optimizer": trained(3), "swa_epoch": 5})
    spec = asked(tmp_path)
    assert holds(spec.build(), trained(2))
    assert spec.said == [f"the weights are the averaged ones of the file ({key!r}), not the last step's"]


def test_average_with_its_shadow_is_said(tmp_path: Path) -> None:
    file(tmp_path, {"state_dict": trained(1), "ema": {"decay": 0.999, "shadow": trained(2)}})
    spec = asked(tmp_path)
    assert holds(spec.build(), trained(2))
    assert spec.said == ["the weights are the averaged ones of the file ('ema.shadow'), not the last step's"]


def test_average_of_parameters_alone_takes_the_last_steps_buffers(tmp_path: Path) -> None:
    parameters = dict(nets.Small().named_parameters())
    average = {key: value for key, value in trained(2).items() if key in parameters}
    file(tmp_path, {"model": trained(1), "model_ema": average})
    spec = asked(tmp_path)
    assert holds(spec.build(), trained(1) | average)
    assert "6 entries that are not averaged are those of 'model'" in spec.said[0]


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ({"ema": {"shadow_params": [torch.ones(3)], "decay": 0.9}}, "'ema'"),
        ({"callbacks": {"EMA": {"weights": trained(2)}}}, "'callbacks.EMA'"),
    ],
)
def test_average_in_another_form_is_not_passed_over_in_silence(tmp_path: Path, where: Any, name: str) -> None:
    file(tmp_path, {"state_dict": trained(1)} | where)
    spec = asked(tmp_path)
    assert holds(spec.build(), trained(1))
    assert spec.said == [f"averaged weights under {name} are in no form that is read: the others are taken"]


@pytest.mark.parametrize("key", ["semantic", "schema", "themes", "swag", "avgpool"])
def test_letters_within_a_word_make_no_average(key: str) -> None:
    assert not averaged(key)


WRAPPED: Mapping[str, Callable[[], Any]] = {
    "by name, as nobody else does": lambda: {"my_weights": trained(), "epoch": 3},
    "two deep": lambda: {"checkpoint": {"model": trained()}, "args": None},
    "ema with its shadow": lambda: {"ema": {"decay": 0.99, "shadow": trained()}, "model": trained(2)},
    "a tuple with the optimiser": lambda: (trained(), {"param_groups": [], "state": {}}),
    "options of argparse": lambda: {"model": trained(), "args": argparse.Namespace(lr=0.1, name="x", path=Path("a"))},
    "a numpy scalar": lambda: {"state_dict": trained(), "best": np.float64(0.5), "n": np.int64(3)},
    "a numpy array": lambda: {"state_dict": trained(), "losses": np.arange(3.0)},
    "numbers among the weights": lambda: trained() | {"epoch": 3, "best": np.float32(0.5)},
    "parameters": lambda: {k: nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in trained().items()},
    "arrays": lambda: {k: v.numpy() for k, v in trained().items()},
    "an ordered dict": lambda: OrderedDict(trained()),
    "half precision": lambda: (
        {k: v.to(torch.float16).to(torch.float32).half() for k, v in trained().items() if v.ndim}
        | {k: v for k, v in trained().items() if not v.ndim}
    ),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrapped(tmp_path: Path, how: str) -> None:
    file(tmp_path, WRAPPED[how]())
    found = asked(tmp_path).build().state_dict()
    for key, value in trained().items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-3)
        assert found[key].dtype == value.dtype


def test_several_networks_in_one_file_are_named(tmp_path: Path) -> None:
    file(tmp_path, {"generator": trained(1), "discriminator": trained(2)})
    with pytest.raises(CatalogError, match="several state dicts, under 'generator', 'discriminator'; save the one"):
        asked(tmp_path).build()


@pytest.mark.parametrize("key", ["best_state_dict", "net"])
def test_others_of_the_same_names_are_not_passed_over_in_silence(tmp_path: Path, key: str) -> None:
    file(tmp_path, {"model": trained(1), key: trained(2), "optimizer": {"state": {0: torch.ones(2)}}})
    spec = asked(tmp_path)
    assert holds(spec.build(), trained(1))
    assert f"the weights are those under 'model'; others of the same names, {key!r}, were left out" in spec.said


# Files


def test_safetensors_under_another_name_and_the_other_way_round(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "w.bin")
    assert holds(asked(tmp_path, weights="w.bin").build(), trained())
    file(tmp_path, trained(), "w.safetensors")
    assert holds(asked(tmp_path, weights="w.safetensors").build(), trained())


def test_old_archive_of_pytorch(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert holds(asked(tmp_path).build(), trained())


def test_whole_module_only_by_permission(tmp_path: Path) -> None:
    network = nets.Small()
    network.load_state_dict(trained())
    file(tmp_path, network)
    with pytest.raises(CatalogError, match="allow_pickle = true for a file that you trust"):
        asked(tmp_path).build()
    assert holds(asked(tmp_path, more="allow_pickle = true\n").build(), trained())
