"""The wire types need pydantic alone, so that a client without PyTorch has them; who asks is read to the letter."""

import subprocess
import sys

import pytest
from pydantic import BaseModel, ValidationError

from service.client import wire

WIRE = [
    cls
    for cls in vars(wire).values()
    if isinstance(cls, type) and issubclass(cls, BaseModel) and cls.__module__.startswith(wire.__name__)
]


def test_a_client_needs_pydantic_alone() -> None:
    """In a process where nothing else of the service's needs can be imported."""
    program = """
import sys
pydantics = {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top == "service" and name != "service" and not name.startswith("service.client"):
            raise ImportError(name)
        if not top.startswith("_") and top not in {"service", "pydantic", *pydantics, *sys.stdlib_module_names}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from service.client import wire
print(wire.ExplainRequest(targets=[1, "tabby"]).model_dump_json(exclude_defaults=True))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '{"targets":[1,"tabby"]}\n'


def test_all_types_stand_in_one_place() -> None:
    """Whoever has the package has all of them."""
    modules = [value for name, value in vars(wire).items() if isinstance(value, type(sys)) and not name.startswith("_")]
    theirs = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseModel) and value is not BaseModel
    }
    assert len(modules) == 5
    assert theirs == {cls.__name__ for cls in WIRE} <= set(wire.__all__)


ASKED = [cls for cls in WIRE if issubclass(cls, wire.Request) or cls in (wire.OutputOptions, wire.CompareMethod)]


@pytest.mark.parametrize("cls", ASKED, ids=lambda cls: cls.__name__)
def test_nothing_that_is_asked_is_passed_over(cls: type[BaseModel]) -> None:
    """A name that is not known is a mistake of whoever asks."""
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        cls.model_validate({"nothing of that name": 1})


@pytest.mark.parametrize("cls", [cls for cls in WIRE if cls not in ASKED], ids=lambda cls: cls.__name__)
def test_an_answer_may_say_more_than_is_known(cls: type[BaseModel]) -> None:
    """A newer server must not break an older client."""
    assert cls.model_config.get("extra", "ignore") == "ignore"
