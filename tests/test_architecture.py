"""Imports point one way, nothing grows too large, and everything has its test."""

import functools
import importlib
import re
import sys
import tomllib

import pytest

from service.explainers.base import identifier, registry
from tests.house import CLASS, FILE, HALL, PARTS, ROOM, ROOT, House

# Distributions whose names are not those of their imports, or that bring a package along.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "huggingface_hub": "transformers",
    "pyarrow": "ray",
    "opentelemetry": "opentelemetry-sdk",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
# Faults that are being mended: each by how the rules word it, or by how that begins. A line goes with its last fault.
KNOWN: tuple[str, ...] = ()


@functools.cache
def _house():
    """Read the project once, and only where its tests run."""
    return House()


def _unknown(faults):
    return [fault for fault in faults if not fault.startswith(KNOWN)]


@pytest.mark.parametrize("rule", ["arrows", "foreign", "circles", "sizes", "untested", "careless", "asking"])
def test_the_house_keeps_its_rules(rule):
    assert _unknown(getattr(_house(), rule)()) == []


def test_what_is_known_to_be_wrong_still_is():
    faults = [*_house().faults(), *_undeclared()] if KNOWN else []  # all of them take seconds
    assert [known for known in KNOWN if not any(fault.startswith(known) for fault in faults)] == []


# Methods


@pytest.mark.parametrize("name", registry())
def test_every_method_has_an_oracle(name):
    (path,) = (ROOT / "tests" / "explainers").rglob(f"test_{identifier(name)}.py")
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    marks = [mark for test in vars(module).values() for mark in getattr(test, "pytestmark", [])]
    assert any(mark.name == "oracle" and mark.args == (name,) for mark in marks)


@pytest.mark.parametrize("name", registry())
def test_one_file_a_method(name):
    cls = registry()[name]
    assert cls.__module__ == f"service.explainers.{cls.family}.{identifier(name)}"


# Packaging


def _names(requirements):
    return {re.match(r"[\w.-]+", text).group().lower().replace("_", "-") for text in requirements}


def _undeclared():
    """Imports that no dependency brings, or only an extra although they are made at once."""
    base, extras = _names(PROJECT["project"]["dependencies"]), PROJECT["project"]["optional-dependencies"]
    extra = _names(text for name in extras.keys() - {"test", "load", "bench", "protocols"} for text in extras[name])
    for package, modules in _house().packages().items():
        name = DISTRIBUTIONS.get(package, package.lower().replace("_", "-"))
        if name not in base | extra:
            yield f"undeclared: {package}, by {', '.join(sorted(modules))}"
        elif name not in base:
            for module in modules:  # but those that are each for who has its extra
                if not module.startswith("service.deploy.") and package in _imported_at_once(
                    _house().modules[module].tree
                ):
                    yield f"undeclared: {package}, an extra, at once by {module}"


def _imported_at_once(tree):
    names = set()
    for node in tree.body:
        names |= {alias.name for alias in getattr(node, "names", ())} | {getattr(node, "module", None) or ""}
    return {name.partition(".")[0] for name in names}


def test_every_import_is_a_declared_dependency():
    assert _unknown(_undeclared()) == []


def test_the_wheel_holds_the_service_and_nothing_else():
    """Built of one folder as it is, so that the folder must hold nothing that only trains, tests or measures."""
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["service"]}
    data = [p for p in (ROOT / "service").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    told = {"LICENSE", "LICENSE.txt", "NOTICE", "README.md", "swagger-ui-bundle.js.LICENSE.txt"}
    kinds = {".safetensors", ".jpg", ".json", ".js", ".css", ".html", ".svg", ".txt"}
    kinds |= {".pyi", ".typed", ".toml"}  # types, and the client's own project
    assert not [path for path in data if path.suffix not in kinds and path.name not in told]
    assert sum(path.stat().st_size for path in data if "swagger-ui" not in path.parts) < 2**20
    assert sum(path.stat().st_size for path in data) < 3 * 2**20
    assert not [name for name in _house().modules if re.search(r"train|bench|test|plot", name)]


# The rules themselves, on small houses


@pytest.fixture
def planted(tmp_path):
    """Build a house of given files, with the folders' `__init__.py`, and return its faults."""

    def build(files):
        for name, text in ({"service/__init__.py": '__version__ = "1"\n'} | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for folder in {path.parent for path in (tmp_path / "service").rglob("*.py")}:
            (folder / "__init__.py").touch()
        return House(tmp_path)

    return build


@pytest.mark.parametrize(
    ("name", "text", "other"),
    [
        ("explainers.cam.one", "from service.engine.probe import ModelProbe", "engine.probe"),
        ("explainers.cam.one", "import service.engine.probe", "engine.probe"),
        ("explainers.cam.one", "def f():\n    from service.engine import probe", "engine.probe"),
        ("tasks.one", "from service.explainers import base", "explainers.base"),
        ("engine.network.a", "import service.engine.scheduler.b", "engine.scheduler.b"),
        ("engine.scheduler.a", "import service.engine.network.b", "engine.network.b"),
        ("engine.network.a", "from service.models import catalogue", "models.catalogue"),
        ("engine.scheduler.a", "from service.api import b", "api.b"),
        ("contract.a", "from service import settings", "settings"),
        ("tuning", "from service.api import a", "api.a"),
        ("api.a", "from service.client import http", "client.http"),
        ("client.wire", "from .http import Client", "client.http"),
        ("client.http", "from service import errors", "errors"),
        ("client.http", "from service import __version__", "__version__"),
        ("client.http", "from .. import errors", "errors"),
    ],
)
def test_an_arrow_up_is_found(planted, name, text, other):
    house = planted(
        {f"service/{one.replace('.', '/')}.py": "" for one in {other} - {"__version__"}}
        | {f"service/{name.replace('.', '/')}.py": text}
    )
    assert list(house.arrows()) == [f"service.{name} -> service.{other}"]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("api/a", "from . import b", "service.api.a imports service.api.b by a relative name"),
        ("api/a", "from service.gone import b", "service.api.a imports service.gone, which does not exist"),
        ("shed/a", "", "service.shed belongs to no part"),
    ],
)
def test_an_import_that_no_rule_can_judge_is_found(planted, name, text, fault):
    assert next(planted({"service/api/b.py": "", f"service/{name}.py": text}).arrows()) == fault


def test_arrows_down_are_none(planted):
    house = planted(
        {
            "service/app.py": "from service import __version__, errors\nfrom service.api import a\n",
            "service/api/a.py": "from service.client.wire import Map\nfrom service.engine.scheduler import device\n",
            "service/client/wire.py": "from pydantic import BaseModel\n",
            "service/client/http.py": "import httpx\nfrom .wire import Map\n",
            "service/engine/scheduler/device.py": "import torch, threading\nfrom service.errors import E\n",
            "service/engine/incremental/work.py": "import service.engine.scheduler.device\n",
            "service/explainers/base.py": "from service.contract import Probe\n",
            "service/explainers/cam/one.py": "from service.explainers.base import Explainer\n",
            "service/contract/__init__.py": "",
            "service/errors.py": "",
        }
    )
    assert [*house.arrows(), *house.foreign(), *house.circles(), *house.sizes()] == []


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("engine/scheduler/a.py", "fastapi"),
        ("pipeline.py", "starlette.responses"),
        ("explainers/cam/a.py", "PIL"),
        ("client/a.py", "torch"),
        ("client/wire.py", "httpx"),
        ("rendering.py", "torch"),
        ("errors.py", "pydantic"),
        ("api/a.py", "made_up"),
    ],
)
def test_a_package_that_is_not_for_a_part_is_found(planted, name, package):
    house = planted({f"service/{name}": f"def f():\n    import {package}.x\n"})
    module = "service." + name.removesuffix(".py").replace("/", ".")
    assert list(house.foreign()) == [f"{module} imports {package.partition('.')[0]}"]


def test_a_circle_is_found_and_one_of_types_is_none(planted):
    house = planted(
        {
            "service/api/a.py": "import service.api.b\n",
            "service/api/b.py": "def f():\n    from service.api import c\n",
            "service/api/c.py": "from service.api.a import x\n",
            "service/api/d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import service.api.e\n",
            "service/api/e.py": "import service.api.d\n",
        }
    )
    assert list(house.circles()) == ["service.api.a <-> service.api.b <-> service.api.c"]


def test_what_has_grown_too_large_is_found(planted):
    body = "class A:\n" + "    x = 1\n" * CLASS
    house = planted(
        {
            "service/api/most.py": "x = 1\n" * FILE,
            "service/api/more.py": "x = 1\n" * (FILE + 1),
            "service/api/wide.py": body,
            "service/api/fits.py": "class A:\n" + "    x = 1\n" * (CLASS - 1),
            **{f"service/tasks/a{i}.py": "x = 1\n" * (ROOM // 4) for i in range(4)},
            **{f"service/jobs/a{i}.py": "x = 1\n" * (ROOM // 4 + (i == 0)) for i in range(4)},
            **{f"service/a{i}.py": "x = 1\n" * (HALL // 10) for i in range(10)},
        }
    )
    assert sorted(fault.partition(" (")[0] for fault in house.sizes()) == [
        "service.api.more is too long",
        "service.api.wide.A is too long",
        "service/ is too large",  # by the line of its __init__.py
        "service/jobs/ is too large",
    ]


def test_a_module_without_a_test_is_found(planted):
    house = planted(
        {
            "service/api/alone.py": "",
            "service/api/empty.py": "",
            "service/api/_hidden.py": "",
            "service/api/same.py": "",
            "service/tasks/same.py": "",
            "service/__main__.py": "",
            "tests/deep/down/test_alone.py": "class TestIt:\n    def test_a(self): ...\n",
            "tests/test_empty.py": '"""A test is to come."""\n',
            "tests/test_hidden.py": "async def test_a(): ...\n",
            "tests/tasks/test_same.py": "def test_a(): ...\n",
        }
    )
    assert list(house.untested()) == ["untested: service.api.empty", "untested: service.api.same"]


def test_a_test_that_sleeps_or_returns_is_found(planted):
    house = planted(
        {
            "tests/a/test_a.py": "import time\ndef test_a():\n    if x:\n        return\n    assert y\n"
            "def test_b():\n    time.sleep(1)\n    def f():\n        return 1\n    assert f()\n"
            "def helper():\n    return 1\n",
            "tests/measure.py": "import time\ntime.sleep(1)\n",
        }
    )
    assert list(house.careless()) == ["tests/a/test_a.py test_a returns (line 4)", "tests/a/test_a.py sleeps (line 7)"]


def test_who_asks_a_network_itself_is_found(planted):
    house = planted(
        {
            "service/models/networks/holding.py": "network.eval()\n",
            "service/models/embedded/own.py": "network.state_dict()\n",
            "service/engine/a.py": "import inspect\nx = [*network.body.parameters()]\nf(network.modules)\n"
            "inspect.signature(f).parameters.values()\n",
            "service/sanity/a.py": "for m in network.modules():\n    m.train()\n",
        }
    )
    assert sorted(house.asking()) == [
        "service.engine.a calls network.body.parameters (line 2)",
        "service.sanity.a calls m.train (line 2)",
        "service.sanity.a calls network.modules (line 1)",
    ]


def test_every_part_of_the_table_can_be_reached():
    """A misspelt name in the table would allow what nobody drew."""
    named = {part for ours, _ in PARTS.values() for part in ours.split()}
    assert named <= PARTS.keys()
    foreign = {package for _, others in PARTS.values() for package in others.split()}
    assert not foreign & sys.stdlib_module_names
