"""The wire types need pydantic alone, so that a client without PyTorch has them; what the server sends fits them."""

import subprocess
import sys
from typing import Any, get_args

import httpx
import orjson
import pytest
from pydantic import BaseModel, ValidationError

from service.api import formats
from service.client import wire
from service.images.decoding import FORMATS
from service.rendering import OutputOptions
from tests.api.test_contract import METHODS, PNG, answer

WIRE = [
    cls
    for cls in vars(wire).values()
    if isinstance(cls, type) and issubclass(cls, BaseModel) and cls.__module__ == wire.__name__
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


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_is_what_its_type_reads(client: httpx.Client, method: str) -> None:
    raw = answer(client, method)
    read = wire.ExplainResponse.model_validate(raw)
    assert read.model_dump(mode="json", exclude_unset=True) == raw
    assert wire.ExplainResponse.model_validate_json(read.model_dump_json()) == read


@pytest.mark.parametrize(
    ("path", "cls"),
    [
        ("/methods", wire.MethodList),
        ("/models", wire.ModelList),
        ("/models/tiny", wire.ModelInfo),
        ("/models/tiny/layers", wire.LayerList),
        ("/health/live", wire.Live),
        ("/health/ready", wire.Ready),
        ("/nothing", wire.Problem),
    ],
)
def test_other_answers_are_what_their_types_read(client: httpx.Client, path: str, cls: type[BaseModel]) -> None:
    raw = client.get(path).json()
    assert cls.model_validate(raw).model_dump(mode="json", exclude_unset=True) == raw


def test_a_prediction_is_what_its_type_reads(client: httpx.Client) -> None:
    raw = client.post("/predict", files={"image": PNG}).json()
    assert wire.PredictResponse.model_validate(raw).model_dump(mode="json", exclude_unset=True) == raw


@pytest.mark.parametrize("cls", [cls for cls in WIRE if cls is not wire.Problem], ids=lambda cls: cls.__name__)
def test_nothing_is_passed_over(cls: type[BaseModel]) -> None:
    """A name that is not known is a mistake, on either side; a problem may have members of its own (RFC 9457, 3.2)."""
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        cls.model_validate({"nothing of that name": 1})


def test_boxes_have_one_order() -> None:
    for cls, field in ((wire.Geometry, "box"), (wire.MapWire, "patch")):
        assert (cls.model_fields[field].description or "").startswith("x0, y0, x1, y1")


def test_the_server_draws_by_the_wires_options() -> None:
    assert issubclass(OutputOptions, wire.OutputOptions)
    assert OutputOptions.model_fields.keys() == wire.OutputOptions.model_fields.keys()
    schemas: list[dict[str, Any]] = [cls.model_json_schema() for cls in (OutputOptions, wire.OutputOptions)]
    assert schemas[0] == schemas[1]


def test_accepted_pictures_are_named() -> None:
    said = (wire.IMAGE.description or "").upper()
    assert [kind for kind in FORMATS if kind not in said] == []


def test_literals_are_those_of_the_code() -> None:
    assert set(get_args(wire.Precision)) == {"auto", "fp32", "bf16", "fp16"}
    assert orjson.loads(formats.dumps({"a": (1, 2)})) == {"a": [1, 2]}
