"""The table of methods is the registry's, and is told without PyTorch."""

import json
import subprocess
import sys

import pytest

from service.errors import UnknownMethod
from service.explainers.base import registry
from service.methods import table as methods
from tests.openapi import methods_file


def test_the_table_is_up_to_date() -> None:
    assert methods.FILE.read_text("utf-8") == methods_file(), "run python -m tests.openapi"


def test_it_says_all_that_classes_say() -> None:
    assert list(methods.table()) == list(registry())
    for name, cls in registry().items():
        known = methods.entry(name)
        assert known["parameters"] == json.loads(json.dumps(cls.model_json_schema()))
        assert (known["family"], known["cost"], known["requirement"]) == (cls.family, cls.cost, cls.requirement)
        assert known["summary"]
        assert known["description"].startswith(known["summary"])
        properties = known["parameters"].get("properties", {})
        assert properties.keys() == cls.model_fields.keys()
        assert all(field["description"] and "default" in field for field in properties.values())


def test_what_is_not_there_is_told_with_what_is_near() -> None:
    with pytest.raises(UnknownMethod, match="did you mean 'occlusion'") as raised:
        methods.entry("oclusion")
    assert "grad-cam" in raised.value.detail


@pytest.mark.parametrize("words", [["--help"], ["methods"], ["methods", "occlusion"], ["serve", "--help"]], ids=str)
def test_it_is_told_without_what_takes_long_to_import(words) -> None:
    script = (
        "import sys; sys.argv[1:] = sys.argv[1].split(); from service.cli import main; main(standalone_mode=False); "
        "print(sorted({'torch', 'numpy', 'pydantic', 'fastapi', 'torchvision'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", script, " ".join(words)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_no_method_needs_torchvision_or_the_compiler_to_be_served() -> None:
    """Each takes as long to import as PyTorch itself."""
    script = (
        "import sys; from service.app import create_app; from service.models.catalogue import requested; "
        "create_app(); specs, default = requested((), None); "
        "import torch; from service.engine.network.resident import Model; from service.engine.settling import settle; "
        "spec = specs['lesion-count']; model = Model(spec, spec.build(), torch.device('cpu')); settle(model); "
        "print(sorted({'torchvision', 'torch._dynamo', 'timm', 'transformers'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
