"""Networks that cannot be served as they are: the message says what to change, not what PyTorch raised."""

from pathlib import Path

import pytest
import torch
from torch import nn

from service.engine.network.places.looking import ROWS
from service.engine.network.resident import Model
from service.errors import CatalogError
from service.images import Transform
from service.models.catalogue import read_catalog
from service.models.networks.remedies import refusal


def refused(folder: Path, factory: str, more: str = "input_size = 32\n") -> str:
    """Load a network as the store does; return why it is refused."""
    (folder / "catalog.toml").write_text(f"[models.m]\nfactory = 'tests.models.nets:{factory}'\n{more}")
    spec = read_catalog(folder / "catalog.toml")[0]["m"]
    network = spec.build()
    try:
        Model(spec, network, torch.device("cpu"))
    except CatalogError as error:
        return str(error)
    except Exception as error:
        return str(spec.refusal(network, error))
    raise AssertionError("served")


CASES = {
    "grey": "it takes 1 channels, and is given 3; set channels = 1",
    "four": "it takes 4 channels, and is given 3; set channels = 4",
    "six": "it takes 6 channels, and pictures have 1, 3 or 4",
    "sized": "it does not take 32 x 32, and takes 96 x 96; set input_size = 96",
    "digits": "it does not take 32 x 32, and takes 28 x 28; set input_size = 28 and channels = 1",
    "squeezes": "use flatten(1)",
    "two": "its forward takes 2 inputs, and one picture is explained; bind 'age' in the factory",
    "last": "it takes channels last; let its forward begin with x = x.permute(0, 2, 3, 1)",
    "film": "it takes five axes, as of films or volumes",
    "casts": "its forward computes in float16, and inputs are float32",
    "casts_to_double": ": x = x.to(self.dtype); leave that cast out, or cast to the type that its weights have",
    "casts_to_bfloat16": "its weights are served in float32, and its forward casts to bfloat16 in nets.py, line ",
    "casts_to_half_for_its_head": ": return self.fc(self.gap(self.features(x)).flatten(1).to(self.dtype)); leave that",
    "double_mean": "it keeps 'mean' in float64, as NumPy makes numbers, and computes in float32; keep it in float32",
    "raises_in_forward": "its forward raises ValueError: a mistake of its author on pictures (2, 3, 32, 32) float32",
    "exported_for_two": "",
    "in_a_dict": "takes a dictionary; wrap it in a module whose forward takes the pictures, and returns self.network({",
    "in_a_list": "its forward takes a list of pictures; wrap it in a module whose forward takes the pictures, and re",
    "by_name": "takes its pictures by name alone; wrap it in a module whose forward takes the pictures, and returns",
    "on_its_own_device": "leave .cuda() and .to(...) out of it, and make tensors with device=x.device",
    "fractions": "it takes values 0 to 1; set mean = 0.0 and std = 1.0",
    "four_at_once": "it takes batches of 4 and no others; write x.shape[0], or -1, where its forward has the number",
    "as_many_as_at_load": "fails on fewer (shape '[",
    "four_traced": "it was exported for batches of 4; export it with dynamic_shapes",
    "two_scripted": "its forward takes 2 inputs, and one picture is explained; bind 'age' in the factory",
    "flat": "it makes 24 rows of 2 pictures of 3 x 56 x 56, and one a picture of 1 x 28 x 28; set input_size = 28 and",
}


@pytest.mark.filterwarnings("ignore")  # that TorchScript is deprecated
@pytest.mark.parametrize("factory", CASES)
def test_the_key_to_change_is_named(tmp_path: Path, factory: str) -> None:
    message = refused(tmp_path, factory, f"input_size = {56 if factory == 'flat' else 32}\n")
    assert message.startswith("model 'm': ")
    assert CASES[factory] in message


def test_an_answer_that_no_input_mends_is_told_as_it_was(tmp_path: Path) -> None:
    assert refused(tmp_path, "whole").startswith(f"model 'm' returned ({ROWS + 1},) int64: whole numbers")


def test_following_the_remedy_serves(tmp_path: Path) -> None:
    for factory, more in (
        ("flat", "input_size = 28\nchannels = 1\n"),
        ("sized", "input_size = 96\n"),
        ("grey", "input_size = 32\nchannels = 1\n"),
    ):
        (tmp_path / "catalog.toml").write_text(f"[models.m]\nfactory = 'tests.models.nets:{factory}'\n{more}")
        spec = read_catalog(tmp_path / "catalog.toml")[0]["m"]
        model = Model(spec, spec.build(), torch.device("cpu"))
        assert model.facts.outputs == (10 if factory == "flat" else 3)
        assert model.facts.input_shape == (len(spec.transform.mean), *spec.transform.crop)


@pytest.mark.parametrize("writes", [False, True])
def test_what_is_said_of_writing_is_tried(writes: bool) -> None:
    """What PyTorch raises of operations in place says nothing of the input."""

    class Scales(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.mul_(2) if writes else x * 2).mean((2, 3))

    transform = Transform(32, (32, 32), (0.5,) * 3, (0.25,) * 3)
    raised = RuntimeError("a variable has been modified by an inplace operation")
    assert ("writes into its own input" in str(refusal("m", transform, Scales(), raised))) == writes
