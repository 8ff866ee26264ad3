"""The contract: one document that says all that is answered, in few words, and never anything else."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import pytest

from service import errors
from service.api import documentation, formats
from service.app import create_app
from service.client import wire
from service.explainers.base import families, registry
from service.tasks import TASKS
from tests import openapi

METHODS = sorted(registry())


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app().openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, verb, one) for path, item in document["paths"].items() for verb, one in item.items()]


def test_openapi_is_up_to_date() -> None:
    assert openapi.PATH.read_text("utf-8") == openapi.as_yaml(), "run python -m tests.openapi"


def test_tables_of_the_readme_are_up_to_date() -> None:
    text = openapi.README.read_text("utf-8")
    assert text == openapi.as_readme(text), "run python -m tests.openapi"
    assert openapi.as_readme(openapi.as_readme(text)) == text
    for name in METHODS:
        assert f"| `{name}` |" in text
    for status, kinds in errors.by_status():
        assert all(f"| {status} | `{kind.type}` |" in text for kind in kinds)
    with pytest.raises(ValueError, match="<!-- statuses -->"):
        openapi.as_readme(text.replace("<!-- statuses -->", ""))


def test_drift_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["openapi", "--check"])
    openapi.main()
    cls = next(iter(registry().values()))
    monkeypatch.setattr(cls, "cost", "2 forwards more")
    with pytest.raises(SystemExit, match=r"2 forwards more(.|\n)*run python -m tests.openapi"):
        openapi.main()


def test_the_contract_is_short() -> None:
    lines = openapi.as_yaml().count("\n")
    assert lines <= 1300 + 110 * len(METHODS)


def test_openapi_types_each_method(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()

    def resolved(schema: dict[str, Any]) -> dict[str, Any]:
        return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]

    paths = {path for path in document["paths"] if path.startswith("/explain/")}
    assert paths == {f"/explain/{name}" for name in METHODS}
    for name, cls in registry().items():
        operation = document["paths"][f"/explain/{name}"]["post"]
        bodies = operation["requestBody"]["content"]
        request = resolved(bodies["application/json"]["schema"])
        assert set(request["properties"]) == set(wire.ExplainRequest.model_fields)
        params = resolved(request["properties"]["params"])
        assert set(params.get("properties", {})) == set(cls.model_fields)
        assert params["additionalProperties"] is False
        parts = bodies["multipart/form-data"]["schema"]["properties"]
        assert set(parts) == ({"image", "pictures", "request"} if cls.needs_image else {"request"})
        explained = document["components"]["responses"]["Explained"]
        assert operation["responses"]["200"] == {"$ref": "#/components/responses/Explained"}
        assert {"application/json", "image/png", "application/x-npy"} <= set(explained["content"])
        assert {"400", "404", "413", "415", "422", "503", "504"} <= set(operation["responses"])


def test_forms_take_what_the_server_takes(document: dict[str, Any]) -> None:
    """Of further pictures as many as JSON may have, wherever JSON has them."""
    forms = 0
    for _, _, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        if "multipart/form-data" not in content:
            continue
        forms += 1
        sent = document["components"]["schemas"][content["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        parts = content["multipart/form-data"]["schema"]["properties"]
        assert ("pictures" in parts) == ("image" in parts and "pictures" in sent["properties"])
        if "pictures" in parts:
            (most,) = re.findall(r"max_length=(\d+)", str(wire.Pictured.model_fields["pictures"].metadata))
            assert parts["pictures"]["maxItems"] == int(most)
    assert forms == len(METHODS) + 2


def test_lists_are_bounded_by_items_and_texts_by_letters(document: dict[str, Any]) -> None:
    def walk(schema: Any) -> Iterator[dict[str, Any]]:
        if isinstance(schema, dict):
            yield schema
            schema = list(schema.values())
        for one in schema if isinstance(schema, list) else ():
            yield from walk(one)

    wrong = [one for one in walk(document) if one.get("type") == "array" and {"minLength", "maxLength"} & one.keys()]
    assert wrong == []


def test_routes_of_methods_are_grouped_by_family(document: dict[str, Any]) -> None:
    for name, cls in registry().items():
        assert document["paths"][f"/explain/{name}"]["post"]["tags"] == [cls.family]
    assert document["tags"] == [{"name": name, "description": about} for name, about in families().items()]
    assert set(families()) <= set(get_args(wire.Family))
    assert all(families().values())


def test_every_refusal_is_said_once(document: dict[str, Any]) -> None:
    shared = document["components"]["responses"]
    assert set(shared) == {f"Problem{status}" for status, _ in errors.by_status()} | {"Explained"}
    for status, kinds in errors.by_status():
        one = shared[f"Problem{status}"]
        assert all(f"`{kind.type}`" in one["description"] for kind in kinds)
        assert one["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
        retries = any(kind("why").retry_after_s is not None for kind in kinds) or status == 429
        assert ("Retry-After" in one.get("headers", {})) == retries
    for path, verb, operation in operations(document):
        refused = {status: one for status, one in operation["responses"].items() if status != "200"}
        assert refused == {status: {"$ref": f"#/components/responses/Problem{status}"} for status in refused}, path
        assert {"405", "500"} <= set(refused), (verb, path)
        assert ("401" in refused) != path.startswith("/health/")


def test_a_key_may_be_sent_everywhere_but_to_health(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["bearer"].items() >= {"type": "http", "scheme": "bearer"}.items()
    assert document["security"] == [{}, {"bearer": []}]
    for path, _, operation in operations(document):
        assert operation.get("security") == ([] if path.startswith("/health/") else None), path


def test_every_format_is_declared(document: dict[str, Any]) -> None:
    content = document["components"]["responses"]["Explained"]["content"]
    assert list(content) == [row.media_type for row in formats.TABLE]
    for row in formats.TABLE:
        schema = document["components"]["schemas"][content[row.media_type]["schema"]["$ref"].rpartition("/")[2]]
        assert schema["type"] == ("object" if row is formats.JSON else "string")
        assert ("format" in schema) == (row not in (formats.JSON, formats.EVENTS))
        assert row is formats.JSON or schema["description"] == row.about


def test_names_are_plain_and_their_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    assert all(name.replace(".", "").isidentifier() for name in document["components"]["schemas"])
    for name, cls in registry().items():
        operation = document["paths"][f"/explain/{name}"]["post"]
        assert operation["operationId"] == "explain_" + name.replace("-", "_").replace("+", "_plus")
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert reference == f"#/components/schemas/{cls.__name__}Request"


def test_parameters_are_typed_and_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for cls in registry().values():
        params = schemas[cls.__name__]
        assert params["additionalProperties"] is False
        assert params["description"] == f"Parameters of {cls.name}."
        for name, field in params.get("properties", {}).items():
            assert field["description"] == cls.model_fields[name].description
            assert {"type", "anyOf", "enum", "const", "$ref"} & set(field), (cls.name, name)


def test_what_all_requests_share_stands_once(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name, cls in registry().items():
        properties = schemas[f"{cls.__name__}Request"]["properties"]
        for field in ("model", "timeout_s", "priority", "precision", "targets"):
            assert properties[field] == {"$ref": f"#/components/schemas/Request.{field}"}, name
    assert schemas["Request.timeout_s"]["description"] == wire.Request.model_fields["timeout_s"].description


def test_a_task_is_one_of_those_that_there_are(document: dict[str, Any]) -> None:
    for schema in ("ModelRef", "ModelInfo", "ModelSummary"):
        assert document["components"]["schemas"][schema]["properties"]["task"]["enum"] == list(TASKS)


def test_a_key_may_be_sent_and_is_not_asked_for(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["security"] == [{}, {"bearer": []}]
    own = {path: operation.get("security") for path, _, operation in operations(document)}
    assert all((own[path] == []) == path.startswith("/health/") for path in own)


def test_answers_are_open_and_requests_are_not(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        asked = name.endswith("Request") or name in {"OutputOptions", "CompareMethod"}
        asked = asked or name in {cls.__name__ for cls in registry().values()}
        assert (schema.get("additionalProperties") is False) == asked or schema.get("type") != "object", name


def test_refusals_are_those_that_are_named() -> None:
    assert list(documentation.refusals(401)) == ["401", "405", "422", "500"]
    assert list(documentation.refusals(504, 400)) == ["400", "405", "422", "500", "504"]
