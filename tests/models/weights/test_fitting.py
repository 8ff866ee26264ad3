"""State dicts under every prefix, and what training puts around parts: fitted, or refused with what does not fit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torchvision import models as torchvision_models

from service.errors import CatalogError
from service.models.catalogue import requested
from service.models.networks import holding
from service.models.weights import State as Kept
from service.models.weights import fit, read_weights
from tests.models import nets
from tests.models.weights.saved import State, asked, file, holds, prefixed, trained

# Prefixes


@pytest.mark.parametrize(
    ("factory", "prefix"),
    [
        ("small", "module."),
        ("small", "_orig_mod."),
        ("small", "module._orig_mod."),
        ("small", "_orig_mod.module."),
        ("small", "model."),
        ("small", "net."),
        ("small", "backbone.encoder."),
        ("parallel", "module."),
        ("parallel", ""),
        ("parallel", "module.module."),
        ("swa", "module."),
        ("swa", ""),
        ("compiled", "_orig_mod."),
        ("compiled", ""),
        ("compiled", "module."),
    ],
)
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_prefixes_on_either_side(tmp_path: Path, factory: str, prefix: str, kind: str) -> None:
    if kind == "pth":
        file(tmp_path, prefixed(prefix))
    else:
        save_file(prefixed(prefix), tmp_path / "w.safetensors")
    spec = asked(tmp_path, factory, f"w.{kind}")
    assert holds(spec.build(), trained())  # what training put around the network is taken off


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
def test_attribute_that_is_called_module(tmp_path: Path, prefix: str) -> None:
    state = prefixed("module.")
    file(tmp_path, prefixed(prefix, state))
    assert holds(asked(tmp_path, "own").build(), state)


def test_averaged_model(tmp_path: Path) -> None:
    network = nets.Small()
    network.load_state_dict(trained())
    file(tmp_path, torch.optim.swa_utils.AveragedModel(network).state_dict())
    for factory in ("small", "swa"):
        assert holds(asked(tmp_path, factory).build(), trained())


def test_parts_that_are_wrapped_on_both_sides(tmp_path: Path) -> None:
    state = trained(1, nets.Inside)
    file(tmp_path, state)
    plain = {key.replace("_orig_mod.", "").replace("module.", ""): value for key, value in state.items()}
    assert holds(asked(tmp_path, "inside").build(), plain)


def test_lightning_with_its_loss(tmp_path: Path) -> None:
    state = prefixed("model.") | {"criterion.weight": torch.ones(3)}
    file(
        tmp_path, {"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.4", "hyper_parameters": {"lr": 0.1}}
    )
    spec = asked(tmp_path)
    assert holds(spec.build(), trained())
    assert any("1 entries of the file" in line and "'criterion.weight'" in line for line in spec.said)


def test_average_under_a_prefix_comes_first(tmp_path: Path) -> None:
    file(tmp_path, {"state_dict": prefixed("model.", trained(1)) | prefixed("ema_model.", trained(2))})
    spec = asked(tmp_path)
    assert holds(spec.build(), trained(2))
    assert any("'ema_model.'" in line for line in spec.said)


def test_student_and_teacher_are_not_guessed_between(tmp_path: Path) -> None:
    file(tmp_path, prefixed("student.", trained(1)) | prefixed("teacher.", trained(2)))
    with pytest.raises(CatalogError, match=r"several networks of this kind, under the prefixes '(student|teacher)\.'"):
        asked(tmp_path).build()


def test_compiled_part(tmp_path: Path) -> None:
    """`_orig_mod.` stands in the middle of names where a part was compiled."""
    state = {key.replace("conv2.", "conv2._orig_mod."): value for key, value in trained().items()}
    file(tmp_path, state)
    assert holds(asked(tmp_path).build(), trained())


# PyTorch's own loading


def test_old_batch_norms_without_counters(tmp_path: Path) -> None:
    old = {key: value for key, value in trained().items() if "num_batches" not in key}
    file(tmp_path, old)
    save_file(old, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        found = asked(tmp_path, weights=name).build().state_dict()
        assert all(torch.equal(found[key], value) for key, value in old.items())


@pytest.mark.parametrize("kind", ["pth", "safetensors", "module."])
def test_versions_of_modules_are_kept(tmp_path: Path, kind: str) -> None:
    """MNASNet reads its version from the file, and from no other place."""
    network = torchvision_models.mnasnet0_5()
    state = network.state_dict()
    if kind == "safetensors":
        save_file(dict(state), tmp_path / "w.safetensors")
    else:
        torch.save(nn.DataParallel(network).state_dict() if kind == "module." else state, tmp_path / "w.pth")
    path = next(tmp_path.glob("w.*"))
    spec = requested((f"mnasnet0_5={path}",), None)[0]["mnasnet0_5"]
    assert holds(spec.build(), state)


def test_names_that_differ_in_dots_alone() -> None:
    network = nn.ModuleDict({"norm1": nn.BatchNorm2d(3), "conv1": nn.Conv2d(3, 3, 1)})
    state = {key.replace("1.", ".1."): value for key, value in trained(1, lambda: network).items()}
    said = fit(network, Kept(Path("w.pth"), state))
    assert said == ""
    assert torch.equal(network["norm1"].weight, state["norm.1.weight"])


def test_extra_state(tmp_path: Path) -> None:
    file(tmp_path, nets.extra(5).state_dict())
    assert asked(tmp_path, "extra").build().secret == 5


def test_empty_network_on_the_meta_device_takes_a_file(tmp_path: Path) -> None:
    file(tmp_path, trained())
    assert holds(asked(tmp_path, "meta").build(), trained())


def test_lazy_layers_take_a_file(tmp_path: Path) -> None:
    network = nets.lazy()
    network(torch.zeros(1, 3, 32, 32))
    file(tmp_path, network.state_dict())
    assert holds(asked(tmp_path, "lazy").build(), network.state_dict())


# What does not fit


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda s: s | {"fc.weight": torch.zeros(7, 16)},
            r"\('fc.weight' is \(7, 16\) in the file and \(3, 16\) in the",
        ),
        (
            lambda s: s | {"fc.weight": torch.zeros(7, 16)},
            "where these are classes, the network's arguments set how many",
        ),
        (lambda s: {k: v for k, v in s.items() if "running" not in k}, "4 missing"),
        (lambda s: prefixed("a.", s) | {"a.head.x": torch.ones(1)}, "unexpected"),
    ],
)
def test_misfits(tmp_path: Path, change: Callable[[State], State], says: str) -> None:
    file(tmp_path, change(trained()))
    with pytest.raises(CatalogError, match=says):
        asked(tmp_path).build()


def _quantised(state: State, kind: torch.dtype) -> State:
    return {key: (value * 50).to(kind) if value.is_floating_point() else value for key, value in state.items()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: _quantised(s, torch.int8), "holds int8: it is quantised"),
        (lambda s: {"state_dict": _quantised(s, torch.uint8), "scales": [1.0]}, "holds uint8: it is quantised"),
        (lambda s: prefixed("module.", _quantised(s, torch.bool)), "holds bool: it is quantised"),
        (lambda s: s | {"fc.weight": s["fc.weight"] + 1j}, "'fc.weight' holds complex numbers"),
        (lambda s: s | {"fc.weight": s["fc.weight"].to(torch.float8_e4m3fn)}, "'fc.weight' holds float8_e4m3fn"),
        (lambda s: s | {"fc.weight": s["fc.weight"].to(torch.float8_e5m2)}, "'fc.weight' holds float8_e5m2"),
        (lambda s: s | {"fc.weight": s["fc.weight"].to_sparse()}, r"'fc.weight' is sparse; .* value.to_dense\(\)"),
        (lambda s: s | {"fc.weight": s["fc.weight"].to("meta")}, "'fc.weight' has no numbers"),
    ],
)
def test_numbers_of_another_kind_are_no_weights(tmp_path: Path, change: Callable[[State], State], says: str) -> None:
    file(tmp_path, change(trained()))
    with pytest.raises(CatalogError, match=says):
        asked(tmp_path).build()


# What training puts around parts, and weights that are tied


AROUND = {
    "data parallel inside, as ImageNet's examples save VGG": ("conv", "conv{}.module"),
    "sharded inside": ("bn", "bn{}._fsdp_wrapped_module"),
    "checkpointed inside": ("conv", "conv{}._checkpoint_wrapped_module"),
    "compiled and sharded": ("bn", "bn{}._fsdp_wrapped_module._orig_mod"),
}


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("how", AROUND)
def test_what_stands_around_parts_counts_for_nothing(tmp_path: Path, how: str, prefix: str) -> None:
    part, written = AROUND[how]
    state = trained()
    for number in "12":
        state = {key.replace(f"{part}{number}", written.format(number)): value for key, value in state.items()}
    file(tmp_path, prefixed(prefix, state))
    assert holds(asked(tmp_path).build(), trained())


def test_versions_are_those_of_the_parts_inside(tmp_path: Path) -> None:
    """MNASNet reads its version from the file: of a part's wrapper it is under the wrapper's name."""
    network = torchvision_models.mnasnet0_5()
    state = network.state_dict()
    network.layers = nn.DataParallel(network.layers)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert holds(requested((f"mnasnet0_5={tmp_path / 'w.pth'}",), None)[0]["mnasnet0_5"].build(), state)


class Tied(nets.Small):
    """Two names of one matrix."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self.again = self.fc


@pytest.mark.parametrize("name", ["fc", "again"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_tied_weights_that_a_file_holds_once(name: str, prefix: str) -> None:
    state = trained(1, Tied)
    state |= {key.replace("fc.", "again."): value for key, value in state.items() if key.startswith("fc.")}
    kept = {key: value for key, value in state.items() if not key.startswith("again." if name == "fc" else "fc.")}
    network = Tied()
    fit(network, Kept(Path("w.safetensors"), prefixed(prefix, kept)))
    assert holds(network, state)


def test_tied_weights_as_safetensors_saves_a_model(tmp_path: Path) -> None:
    saved = Tied()
    save_model(saved, str(tmp_path / "w.safetensors"))
    network = Tied()
    fit(network, read_weights(tmp_path / "w.safetensors"))
    assert holds(network, saved.state_dict())


def test_what_a_file_lacks_of_tied_weights_is_told_once(tmp_path: Path) -> None:
    state = {key: value for key, value in trained().items() if key != "fc.bias"}
    with pytest.raises(CatalogError, match=r"keys 2 missing \(such as 'again\.bias'\)"):
        fit(Tied(), Kept(tmp_path / "w.pth", state))


@pytest.mark.parametrize("prefix", ["semantic.", "schema.", "module_a."])
def test_letters_within_a_word_make_no_average(tmp_path: Path, prefix: str) -> None:
    file(tmp_path, prefixed(prefix, trained(1)) | prefixed("instance.", trained(2)))
    with pytest.raises(CatalogError, match="several networks of this kind"):
        asked(tmp_path).build()


@pytest.mark.parametrize("value", [None, 3.0, [1.0, 2.0]])
def test_what_is_no_tensor_is_told_with_its_kind(tmp_path: Path, value: object) -> None:
    file(tmp_path, {**trained(), "fc.bias": value})
    with pytest.raises(
        CatalogError, match=f"'fc.bias' is a {type(value).__name__} in the file and a Tensor in the netw"
    ):
        asked(tmp_path).build()


class OwnLoading(nets.Small):
    """Overrides PyTorch's loading as it was once."""

    def load_state_dict(self, state_dict, strict=True):  # type: ignore[no-untyped-def,override]
        return super().load_state_dict(state_dict, strict=strict)


def test_a_network_may_load_in_a_way_of_its_own(tmp_path: Path) -> None:
    network = OwnLoading()
    assert fit(network, read_weights(file(tmp_path, trained()))) == ""
    assert holds(network, trained())


class Lenient(nets.Small):
    """Loads what fits, says nothing of the rest, and keeps less than it has."""

    def load_state_dict(self, state_dict, strict=True):  # type: ignore[no-untyped-def,override]
        return super().load_state_dict(state_dict, strict=False)

    def state_dict(self, path):  # type: ignore[no-untyped-def,override]
        raise AssertionError("not asked")

    def parameters(self, groups):  # type: ignore[no-untyped-def,override]
        raise AssertionError("not asked")


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_a_network_that_says_nothing_of_what_does_not_fit(tmp_path: Path, prefix: str) -> None:
    network = Lenient()
    fit(network, read_weights(file(tmp_path, prefixed(prefix))))
    assert all(torch.equal(held, trained()[name]) for name, held in holding.state(network).items())


def test_what_a_network_takes_nothing_of_is_refused(tmp_path: Path) -> None:
    strangers = {f"other{i}": value for i, value in enumerate(trained().values())}
    with pytest.raises(CatalogError, match=r"does not fit the network: keys .* missing"):
        fit(Lenient(), read_weights(file(tmp_path, strangers)))


def test_what_a_network_of_its_own_way_leaves_out_is_told(tmp_path: Path) -> None:
    body = {name: value for name, value in trained().items() if not name.startswith("fc.")}
    network = Lenient()
    said = fit(network, read_weights(file(tmp_path, body)))
    assert "left 2 of its tensors as they were (such as 'fc.weight')" in said
    assert torch.equal(network.conv1.weight, body["conv1.weight"])


class Elsewhere(nets.Small):
    """Its loading is for the files of its own training."""

    def load_state_dict(self, path):  # type: ignore[no-untyped-def,override]
        raise FileNotFoundError(path)


def test_a_loading_of_another_meaning_is_not_needed(tmp_path: Path) -> None:
    network = Elsewhere()
    said = fit(network, read_weights(file(tmp_path, trained())))
    assert "PyTorch's own load_state_dict() was used" in said
    assert holds(network, trained())
