"""Writes what documents derive from the code, or checks that it is up to date: `python -m tests.openapi [--check]`.

That is `openapi.yaml`, the table of methods in `service/methods/table.json`, the types of the client's methods in
`service/client/methods.pyi`, and in `README.md` the tables between the marks `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import difflib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from service import errors
from service.api import formats
from service.api.documentation import openapi
from service.api.observing import gauges
from service.app import create_app
from service.explainers.base import Explainer, families, registry
from service.metrics import Metrics, Named
from tests.stubs import methods_stub

ROOT = Path(__file__).parent.parent
PATH, README, METHODS = ROOT / "openapi.yaml", ROOT / "README.md", ROOT / "service" / "methods" / "table.json"
STUB = ROOT / "service" / "client" / "methods.pyi"


class Dumper(yaml.SafeDumper):
    """Writes what fits on a line in a line, and a text of several lines as it stands."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        """Represent a mapping, in a line where it fits."""
        node = super().represent_mapping(tag, mapping, flow_style=False)
        node.flow_style = _fits([part for pair in node.value for part in pair])
        return node

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        """Represent a list, in a line where it fits."""
        node = super().represent_sequence(tag, sequence, flow_style=False)
        node.flow_style = _fits(node.value)
        return node


def _fits(parts: list[yaml.Node]) -> bool:
    return all(isinstance(part, yaml.ScalarNode) for part in parts) and sum(len(part.value) + 2 for part in parts) < 80


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, _text)


def as_yaml() -> str:
    """Return the OpenAPI document as YAML, the same text each time."""
    plain = json.loads(json.dumps(openapi(create_app())))
    return yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def methods_table() -> str:
    """Return README's table of methods, family by family."""
    rows = ["| Method | Shows | Needs | Cost | Reference |", "| --- | --- | --- | --- | --- |"]
    family = ""
    for name, cls in sorted(registry().items(), key=lambda item: (item[1].family, item[0])):
        if cls.family != family:
            family = cls.family
            rows.append(_row(f"*{family}*", "", "", "", ""))
        summary = (inspect.getdoc(cls) or "").partition("\n")[0]
        rows.append(_row(f"`{name}`", summary, cls.requirement, cls.cost, cls.reference))
    return "\n".join(rows)


def methods_file() -> str:
    """Return what `service.methods.table` reads, a line a method."""
    about = json.dumps(dict(families()), ensure_ascii=False)
    rows = ",\n".join(json.dumps(_described(cls), ensure_ascii=False) for _, cls in sorted(registry().items()))
    return f'{{"families": {about},\n"methods": [\n{rows}\n]}}\n'


def _described(cls: type[Explainer]) -> dict[str, Any]:
    text = inspect.getdoc(cls) or ""
    return {
        "name": cls.name,
        "title": cls.__name__,
        "family": cls.family,
        "summary": text.partition("\n")[0],
        "description": text,
        "reference": cls.reference,
        "requirement": cls.requirement,
        "cost": cls.cost,
        "kind": cls.kind,
        "needs": [word for word, needed in (("image", cls.needs_image), ("targets", cls.takes_targets)) if needed],
        "parameters": cls.model_json_schema(),
    }


def statuses_table() -> str:
    """Return README's table of errors, by status."""
    rows = ["| Status | Type | Meaning | What to do |", "| --- | --- | --- | --- |"]
    for status, kinds in errors.by_status():
        rows += [_row(str(status), f"`{kind.type}`", inspect.getdoc(kind) or "", kind.remedy) for kind in kinds]
    return "\n".join(rows)


def formats_table() -> str:
    """Return README's table of what an answer can be sent as."""
    rows = ["| `Accept` | File | Shows |", "| --- | --- | --- |"]
    for one in formats.TABLE:
        files = ", ".join(f"`{extension}`" for extension in one.extensions)
        rows.append(_row(f"`{one.media_type}`", files, one.about))
    return "\n".join(rows)


def offered() -> list[Named]:
    """Return all metrics of a service; nothing is read of one."""
    metrics = Metrics()
    nothing: Any = None
    gauges.watch(metrics, nothing, nothing, nothing, nothing)
    return metrics.named


def metrics_table() -> str:
    """Return README's table of what Prometheus collects."""
    rows = ["| Metric | Kind | Labels | Says |", "| --- | --- | --- | --- |"]
    for one in offered():
        rows.append(_row(f"`{one.name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels), one.text))
    return "\n".join(rows)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.rstrip(".").replace("|", "\\|") for cell in cells) + " |"


def as_readme(text: str) -> str:
    """Return README's text with its tables as the code has them.

    Raises:
        ValueError: the marks of one are missing.
    """
    tables = {"formats": formats_table(), "methods": methods_table(), "statuses": statuses_table()}
    tables["metrics"] = metrics_table()
    for name, rows in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"README.md has no marks {begin} and {end}")
        text = f"{head}{begin}\n{rows}\n{end}{tail}"
    return text


def main() -> None:
    """Write, or with `--check` compare and exit with 1 on a difference."""
    written = README.read_text("utf-8")
    texts = {PATH: as_yaml(), README: as_readme(written), METHODS: methods_file(), STUB: methods_stub()}
    if "--check" not in sys.argv:
        for path, text in texts.items():
            path.write_text(text, "utf-8")
        return
    drift = []
    for path, text in texts.items():
        old = path.read_text("utf-8").splitlines() if path.exists() else []
        drift += list(difflib.unified_diff(old, text.splitlines(), path.name, "the code", lineterm=""))[:80]
    if drift:
        sys.exit("\n".join([*drift, "documents are out of date: run python -m tests.openapi"]))


if __name__ == "__main__":
    main()
