"""The wire types need pydantic alone, so that a client without PyTorch has them; what the server sends fits them."""

from typing import Any, get_args

import httpx
import orjson
import pytest

from service.api import formats
from service.client import wire
from service.images.decoding import FORMATS
from service.rendering import OutputOptions
from tests.api.test_contract import METHODS, PNG, answer


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_is_what_its_type_reads(client: httpx.Client, method: str) -> None:
    raw = answer(client, method)
    read = wire.ExplainResponse.model_validate(raw)
    assert read.model_dump(mode="json", exclude_unset=True) == raw
    assert wire.ExplainResponse.model_validate_json(read.model_dump_json()) == read


def test_a_prediction_is_what_its_type_reads(client: httpx.Client) -> None:
    raw = client.post("/predict", files={"image": PNG}).json()
    assert wire.PredictResponse.model_validate(raw).model_dump(mode="json", exclude_unset=True) == raw


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
