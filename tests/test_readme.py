"""What the documents say is what the code does: numbers, commands, requests, answers, files."""

import ast
import importlib.util
import json
import re
import shlex
import tomllib
from contextlib import nullcontext, suppress
from itertools import pairwise
from pathlib import Path

import click
import pytest

from service.cli import main
from service.client import Client, wire
from service.explainers.base import registry
from service.models.catalogue import read_catalog
from service.settings import Settings
from service.tuning.choice import AGREEMENT
from tests.bench.faithfulness import Results, table
from tests.client.shell import lines

ROOT = Path(__file__).parent.parent
README, DOCKER = (ROOT / name for name in ("README.md", "docker/README.md"))
TEXT = README.read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def _blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)


COMMANDS = [line.partition("  #")[0] for line in lines(TEXT) if line and not line.startswith("#")]
INLINE = re.findall(
    r"`((?:heatlens|python -m) [^`]+)`", re.sub(r"\s*\n", " ", re.sub(r"```.*?```", "", TEXT, flags=re.S))
)
# What follows `heatlens` in them.
OURS = [
    words[1:]
    for text in (*COMMANDS, *INLINE)
    if "heatlens " in text and "--help" not in text and (words := shlex.split(text[text.index("heatlens ") :]))
]


@pytest.mark.parametrize(
    "path", [README, DOCKER, ROOT / "Dockerfile", *sorted((ROOT / "docker").rglob("*.yaml"))], ids=str
)
def test_defaults_that_are_named_are_the_defaults(path):
    """As `HEATLENS_X` (3), or HEATLENS_X, 3 s."""
    for name, number in re.findall(r"HEATLENS_(\w+)`?(?: \(|, )(\d+)", path.read_text("utf-8")):
        assert Settings.model_fields[name.lower()].default == int(number), name


def test_defaults_are_named_at_all():
    for name in ("DRAIN_TIMEOUT_S", "SCORE_CACHE_MIB"):
        assert re.search(rf"HEATLENS_{name}`? \(\d", TEXT + DOCKER.read_text("utf-8"))


def test_numbers_of_the_code_are_the_codes():
    assert f"correlation of {AGREEMENT:g} with" in re.sub(r"\s+", " ", TEXT)
    (count,) = re.findall(r"^(\w+) explanation methods", TEXT, re.MULTILINE)
    assert int(count) == len(registry())
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or newer" in TEXT


def test_the_measured_table_is_what_was_measured():
    (found,) = re.findall(r"<!-- faithfulness -->\n(.*?)\n<!-- /faithfulness -->", TEXT, re.DOTALL)
    assert found == table(Results(ROOT / "tests/bench/faithfulness.json"))


def test_commands_are_there_to_be_checked():
    assert len(COMMANDS) > 10
    assert len(OURS) > 10


@pytest.mark.parametrize("text", [*COMMANDS, *INLINE])
def test_modules_and_extras_of_a_command_exist(text):
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module
    for extra in re.findall(r"\[(\w+)\]'", text):
        assert extra in PROJECT["optional-dependencies"]


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_a_command_of_ours_is_taken(words):
    """Parsed as it would be, without being run."""
    command = main.commands[words[0]]
    with nullcontext() if words[1:] else suppress(click.MissingParameter):  # `heatlens gallery` is its name alone
        command.make_context(words[0], words[1:])
    for flag, word in pairwise(words):
        if flag == "-p":
            method, _, name = word.partition("=")[0].rpartition(".")
            assert name in registry()[method or words[1]].model_fields


def test_requests_that_are_shown_are_taken():
    """Those of curl, and of the examples in Python."""
    shown = re.findall(r"(?:'request=|-d ')(\{.*?\})'.*?/explain/([\w+-]+)", "\n".join(COMMANDS))
    shown += [
        (request, method)
        for block in _blocks("python")
        for method in re.findall(r"/explain/([\w+-]+)", block)
        for request in re.findall(r"'(\{.*?\})'", block)
    ]
    assert len(shown) >= 2
    for request, method in shown:
        registry()[method](**json.loads(request).get("params", {}))


def test_calls_of_the_client_are_those_that_it_has():
    common = wire.ExplainRequest.model_fields.keys() | wire.OutputOptions.model_fields.keys() | {"concurrency"}
    calls = 0
    for block in _blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("hl."):
                assert hasattr(Client, node.func.attr)
                own = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg not in common}
                registry()[node.args[0].value](**own)
                calls += 1
    assert calls >= 3


def test_every_method_and_route_that_is_named_exists(client):
    paths = client.get("/openapi.json").json()["paths"].keys() | {"/docs"}
    for path in set(
        re.findall(r"(?<![\w.])/(?:explain|predict|health|models|methods|metrics|docs)(?:/[\w+{}-]+)?", TEXT)
    ):
        assert any(known == path or known.startswith(f"{path}/") for known in paths), path


def test_the_error_that_is_shown_is_the_answer(client, chelsea):
    (shown,) = (json.loads(block) for block in _blocks("json"))
    answer = client.post(shown["instance"], files={"image": chelsea}, data={"request": '{"params": {"windw": 32}}'})
    assert answer.json() == shown


def test_the_catalogue_that_is_shown_can_be_read(tmp_path):
    (block,) = _blocks("toml")
    (tmp_path / "birds.txt").write_text("".join(f"bird {i}\n" for i in range(200)))
    (tmp_path / "birds.safetensors").touch()
    factory = re.search(r'factory = "([^"]+)"', block).group(1)
    (tmp_path / "models.toml").write_text(block.replace(factory, "tests.tiny:classifier"))
    models, default = read_catalog(tmp_path / "models.toml")
    assert list(models) == [default] == ["birds"]


@pytest.mark.parametrize("path", [README, DOCKER], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert f'<a id="{target[1:]}"></a>' in text or re.search(rf"^#+ {target[1:]}$", text, re.MULTILINE | re.I)
        elif not target.startswith("http"):
            assert (path.parent / target).exists(), target
