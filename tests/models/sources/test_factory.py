"""The user's own code: functions, classes and their methods; what it raises is told as its own."""

import sys
from pathlib import Path

import pytest
import torch

from service.errors import CatalogError
from service.models.catalogue import read_catalog, requested
from service.models.networks.forms import BlackBox
from service.models.spec import ModelSpec
from tests.models import nets


def entry(folder: Path, text: str) -> ModelSpec:
    (folder / "catalog.toml").write_text(f"[models.m]\n{text}")
    return read_catalog(folder / "catalog.toml")[0]["m"]


@pytest.mark.parametrize("key", ["factory", "source"])
@pytest.mark.parametrize(
    ("address", "outputs"),
    [("tests.models.nets:small", 3), ("tests.models.nets:Small", 3), ("tests.models.nets:Small.wide", 7)],
)
def test_functions_classes_and_methods(tmp_path: Path, key: str, address: str, outputs: int) -> None:
    built = entry(tmp_path, f"{key} = '{address}'\n").build()
    assert built(torch.zeros(1, 3, 32, 32)).shape == (1, outputs)
    assert not built.training


def test_after_model_as_in_a_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "beside_the_user.py").write_text("from torch import nn\ndef net(): return nn.Linear(2, 3)\n")
    torch.save({"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, "w.pth")
    specs, default = requested(("beside_the_user:net=w.pth",), None)
    assert default == "net"
    assert torch.equal(specs["net"].build().weight, torch.ones(3, 2))


def test_random_weights_are_lively_and_default_ones_untouched(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = nets.small().state_dict()
    default = entry(tmp_path, "factory = 'tests.models.nets:small'\ninput_size = 32\n").build().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in default.items())
    random = entry(tmp_path, "factory = 'tests.models.nets:small'\ninput_size = 32\nweights = 'random'\n").build()
    assert not torch.equal(random.bn1.running_mean, expected["bn1.running_mean"])


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("tests.models.nets:raises", "raised RuntimeError: no such thing; call it with the same arguments in Python"),
        ("tests.models.nets:bag", r"returned a Bag, not an nn\.Module; its attribute 'model' is one: return that"),
        ("builtins:dict", r"returned a dict, not an nn\.Module; return the network itself"),
        ("tests.models.nets:state", r"not an nn\.Module; it holds weights"),
    ],
)
def test_what_goes_wrong_while_building(tmp_path: Path, address: str, says: str) -> None:
    with pytest.raises(CatalogError, match=says):
        entry(tmp_path, f"factory = '{address}'\n").build()


@pytest.mark.filterwarnings("ignore")  # that TorchScript is deprecated
def test_what_pytorch_loads_a_network_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = nets.small().eval()
    torch.manual_seed(0)
    (tmp_path / "m.ts").write_bytes(nets.saved(nets.scripted()))
    network = entry(tmp_path, f"factory = 'torch.jit:load'\narguments = {{f = '{tmp_path / 'm.ts'}'}}\n").build()
    assert isinstance(network, BlackBox)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(x), expected(x))
    torch.export.save(nets.export(), tmp_path / "m.pt2")
    exported = entry(tmp_path, f"factory = 'torch.export:load'\narguments = {{f = '{tmp_path / 'm.pt2'}'}}\n")
    with pytest.raises(CatalogError, match=r"returned a ExportedProgram.*name its file as the source"):
        exported.build()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("tests.models.nets:Small.nothing", r"cannot be imported \(AttributeError"),
        ("tests.models.nets:X", "cannot be imported"),
        ("tests.models.nets:smal", r"has no attribute 'smal'\); did you mean 'small'"),
        ("tests.models.nets:Small.wid", "did you mean 'wide'"),
        ("besides_me:make", "did you mean 'beside_me'"),
        ("beside_me.py:make", "did you mean 'beside_me:make'"),
        ("resnet50:random", "did you mean 'resnet50=random'"),
        ("timm:resnet50", "did you mean 'timm/resnet50'"),
        ("torchvision:resnet18", "did you mean 'torchvision/resnet18'"),
        ("beside_me:make", "; install 'no_such_thing', which it imports"),
        ("tests.tiny:SIZE", "is a int; it has to be callable"),
        ("ends_the_process:net", r"cannot be imported \(SystemExit: 7\)"),
    ],
)
def test_addresses_that_lead_nowhere(tmp_path: Path, address: str, says: str) -> None:
    (tmp_path / "ends_the_process.py").write_text("import sys\nsys.exit(7)\n")
    (tmp_path / "beside_me.py").write_text("import no_such_thing\n")
    with pytest.raises(CatalogError, match=says):
        entry(tmp_path, f"factory = '{address}'\n")


def test_a_factory_that_reads_the_command_line_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "reads_the_command_line.py").write_text(
        "import argparse\ndef net():\n    argparse.ArgumentParser(exit_on_error=True).parse_args(['--unknown'])\n"
    )
    spec = entry(tmp_path, "factory = 'reads_the_command_line:net'\ninput_size = 32\n")
    with pytest.raises(CatalogError, match=r"ends the process \(SystemExit\(2\)\).*give them as `arguments`"):
        spec.build()


@pytest.mark.parametrize("when", ["import", "build"])
def test_what_a_script_sets_for_the_process_is_taken_back(tmp_path: Path, when: str) -> None:
    name = f"sets_defaults_at_{when}"
    sets = "torch.set_default_dtype(torch.float64); torch.set_default_device('meta'); torch.set_grad_enabled(False)"
    build = f"def net():\n    n = nn.Linear(2, 3)\n    {sets if when == 'build' else 'pass'}\n    return n\n"
    (tmp_path / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{sets * (when == 'import')}\n{build}")
    try:
        built = entry(tmp_path, f"factory = '{name}:net'\ninput_size = 32\n").build()
        assert (torch.zeros(1).dtype, torch.zeros(1).device.type) == (torch.float32, "cpu")
        assert torch.get_default_device().type == "cpu"
        assert torch.is_grad_enabled()
        assert built.weight.device.type == "cpu"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)


def test_network_of_a_module_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "instance", nets.small().half(), raising=False)
    address = "factory = 'tests.models.nets:instance'\n"
    built = entry(tmp_path, address).build()
    assert built.fc.weight.dtype == torch.float32
    assert nets.instance.fc.weight.dtype == torch.float16  # which stays as it was
    torch.testing.assert_close(built.fc.weight, nets.instance.fc.weight.float())
    for more in ("weights = 'random'\n", "arguments = {classes = 2}\n"):
        with pytest.raises(CatalogError, match="is a network with its weights"):
            entry(tmp_path, address + more)


def test_argument_that_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"arguments: the factory .* takes no 'clases'; did you mean 'classes'"):
        entry(tmp_path, "factory = 'tests.models.nets:small'\narguments = {clases = 2}\n").build()


def test_preprocessing_is_assumed_and_said(tmp_path: Path) -> None:
    spec = entry(tmp_path, "factory = 'tests.models.nets:small'\ninput_size = 32\nmean = 0.5\n")
    assert spec.assumed == (
        "resize = 32",
        'interpolation = "bilinear"',
        "std = [0.229, 0.224, 0.225]",
        'fit = "crop"',
    )
    assert not spec.task_known


def test_a_module_that_another_one_hides_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "code.py").write_text("from torch import nn\ndef net(): return nn.Linear(2, 3)\n")
    with pytest.raises(
        CatalogError, match=r"'code.py' beside the catalogue is hidden by .*code.py, which has its name"
    ):
        entry(tmp_path, "factory = 'code:net'\n")
    (tmp_path / "code.py").unlink()
    with pytest.raises(CatalogError, match=r"has no attribute 'net'.*it has "):
        entry(tmp_path, "factory = 'code:net'\n")
