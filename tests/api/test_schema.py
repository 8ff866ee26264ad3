"""A short form of `python -m tests.fuzz.schema`, and what a generated case cannot hit on."""

import httpx
import jsonschema_rs
import pytest

from tests.fuzz.schema import run

BODY = {"image": "aGFsbG8="}


@pytest.mark.filterwarnings("ignore")  # of Schemathesis' own making
def test_every_answer_is_declared() -> None:
    tally = run(250, examples=8, phases=("fuzzing",))
    assert not tally.failures, tally.table()
    assert tally.statuses["200"] >= 30
    assert tally.statuses["422"] >= 30


@pytest.mark.parametrize(
    ("path", "fields", "pointer"),
    [
        ("/explain/occlusion", {"params": {"window": True, "stride": 1}}, "/params/window"),
        ("/explain/occlusion", {"params": {"window": "8", "stride": 8}}, "/params/window"),
        ("/explain/occlusion", {"output": {"opacity": False}}, "/output/opacity"),
        ("/explain/occlusion", {"output": {"overlay": "yes"}}, "/output/overlay"),
        ("/explain/occlusion", {"output": {"overlay": 1}}, "/output/overlay"),
        ("/predict", {"timeout_s": True}, "/timeout_s"),
        ("/predict", {"timeout_s": "3"}, "/timeout_s"),
    ],
)
def test_no_type_stands_for_another(client: httpx.Client, path: str, fields: dict, pointer: str) -> None:
    response = client.post(path, json=BODY | fields)
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_the_document_refers_to_what_it_has(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()

    def references(node: object) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    known = {
        f"#/components/{kind}/{name}"
        for kind, named in document["components"].items()
        for name in named
        if kind != "securitySchemes"
    }
    assert references(document) == known  # and has nothing that no address leads to
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
