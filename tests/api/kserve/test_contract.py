"""The protocols' own contract names what is there; what is answered, `tests.fuzz.schema --protocols` looks at."""

from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from service.api import kserve
from service.api.edge.addresses import HEALTH

DOCUMENT = yaml.safe_load((Path(__file__).parents[3] / "docker" / "kserve" / "openapi.yaml").read_text("utf-8"))
VERBS = {"get", "post"}


def _routes(routes):
    for one in routes:
        if (included := getattr(one, "original_router", None)) is not None:
            yield from _routes(included.routes)
        else:
            yield from ((verb.lower(), one.path) for verb in one.methods - {"HEAD"})


def _operations():
    return {(verb, path): item[verb] for path, item in DOCUMENT["paths"].items() for verb in VERBS & item.keys()}


def test_it_has_all_addresses_and_no_others():
    assert set(_operations()) == set(_routes(kserve.router().routes))


def test_operations_have_names_of_their_own_and_parameters_of_their_paths():
    names = [operation["operationId"] for operation in _operations().values()]
    assert len(set(names)) == len(names)
    for path, item in DOCUMENT["paths"].items():
        named = {one["$ref"].rpartition("/")[2] for one in item.get("parameters", ())}
        assert named == {name for name in ("name", "version") if f"{{{name}}}" in path}


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_schemas_are_schemas(name):
    jsonschema_rs.meta.validate(DOCUMENT["components"]["schemas"][name])


def test_probes_need_no_key_and_all_else_may_have_one():
    for (_, path), operation in _operations().items():
        assert operation.get("security", DOCUMENT["security"]) == ([] if path in HEALTH else [{}, {"bearer": []}])


def test_what_is_work_says_that_it_may_be_too_much():
    for (verb, path), operation in _operations().items():
        work = verb == "post" and kserve.work(path.replace("{name}", "tiny").replace("{version}", "0" * 12))
        assert ("429" in operation["responses"]) is bool(work)
