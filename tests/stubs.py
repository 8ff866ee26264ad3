"""Writes `service/client/methods.pyi`: how each method is asked, for type checkers and editors."""

import inspect
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from service.client import wire
from service.explainers.base import Explainer, registry

_HEAD = '''\
"""How each method is asked. Written by `python -m tests.openapi`: do not edit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, overload

from .pictures import Picture

Target: TypeAlias = int | str | Mapping[str, Any]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

'''
_TAIL = '''\
    @overload
    def __call__(self, method: str, picture: Picture | None, /, **options: Unpack[Options]) -> T_co: ...

class Typed(Generic[T]):
    """A function that takes all methods' options, in a class."""

    def __get__(self, instance: object, owner: type) -> Asking[T]: ...

def typed(function: Callable[..., T]) -> Typed[T]: ...
'''
# What a program may give in more ways than JSON can say it, and what stands for all else.
_OWN = {
    "targets": "Target | Sequence[Target]",
    "pictures": "Sequence[Picture]",
    "params": "Mapping[str, Any]",
}
_LEFT_OUT = {"image", "output", "array"}
_INDENT, _LINE = " " * 4, 120
_SIMPLE = {"integer": "int", "number": "float", "boolean": "bool", "string": "str", "null": "None"}


def methods_stub() -> str:
    """Return the text of the stub, the same each time.

    Raises:
        ValueError: a method's parameter has the name of something that all requests have.
    """
    options = _common()
    parts = [_typed("Options", "TypedDict", "What every method takes.", options)]
    known = sorted(registry().items())
    for name, cls in known:
        schema = cls.model_json_schema()
        if taken := options.keys() & schema.get("properties", {}).keys():
            raise ValueError(f"{name} has parameters of names that all requests have: {', '.join(sorted(taken))}")
        needed = frozenset(schema.get("required", ()))
        parts.append(_typed(cls.__name__, "Options", f"What {name} takes.", schema.get("properties", {}), needed))
    parts += ['class Asking(Protocol[T_co]):\n    """Asks any method, each with its own options."""\n\n']
    parts += [_overload(name, cls) for name, cls in known]
    text = "".join([*parts, _TAIL])
    return (_HEAD.replace("Protocol, ", "Protocol, Required, ") if "Required[" in text else _HEAD) + text


def _common() -> dict[str, Any]:
    """Return the schemas of all that is no method's own, by name."""
    found: dict[str, Any] = {}
    for cls in (wire.ExplainRequest, wire.OutputOptions):
        found |= cls.model_json_schema()["properties"]
    found["params"] = {"description": "The method's own parameters, where they are not named beside these."}
    return {name: schema for name, schema in found.items() if name not in _LEFT_OUT}


def _typed(name: str, base: str, about: str, fields: Mapping[str, Any], needed: frozenset[str] = frozenset()) -> str:
    lines = [f"class {name}({base}, total=False):", f'{_INDENT}"""{about}"""', ""]
    for field, schema in fields.items():
        kind = _OWN.get(field) or _type(schema)
        lines += _field(field, f"Required[{kind}]" if field in needed else kind)
        lines += _said(schema.get("description", ""), _INDENT)
    return "\n".join(lines).rstrip() + "\n\n"


def _field(name: str, kind: str) -> list[str]:
    """Return the lines of a field, broken where a formatter would break them."""
    line = f"{_INDENT}{name}: {kind}"
    if len(line) <= _LINE or not kind.endswith("]"):
        return [line]
    head, _, inner = line[:-1].partition("[")
    return [f"{head}[", *(f"{_INDENT * 2}{one}," for one in inner.split(", ")), f"{_INDENT}]"]


def _said(text: str, indent: str) -> list[str]:
    """Return the lines of a string that documents something; none without a text."""
    if not text:
        return []
    text = text.replace("\\", "\\\\")
    if len(indent) + len(text) + 6 <= _LINE:
        return [f'{indent}"""{text}"""']
    first, *rest = textwrap.wrap(f'"""{text}', _LINE - len(indent) - 3)
    return [indent + line for line in (first, *rest, '"""')]


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of what a JSON Schema allows, as far as types can say it.

    Raises:
        ValueError: it is of a kind that nothing here knows.
    """
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return f"Literal[{', '.join(json.dumps(value) for value in values)}]"
    if schema.get("type") == "array":
        items = schema.get("items") or {"anyOf": schema.get("prefixItems", [])}
        return f"Sequence[{_type(items)}]"
    kind = _SIMPLE.get(schema.get("type", ""))
    if kind is None:
        raise ValueError(f"no type is known for {schema}")
    return kind


def _overload(name: str, cls: type[Explainer]) -> str:
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    picture = "picture: Picture" if cls.needs_image else "picture: None = None"
    ends = f"/, **options: Unpack[{cls.__name__}]) -> T_co:"
    line = f'{_INDENT}def __call__(self, method: Literal["{name}"], {picture}, {ends}'
    if len(line) > _LINE:
        inner = f'self, method: Literal["{name}"], {picture}, /, **options: Unpack[{cls.__name__}]'
        line = f"{_INDENT}def __call__(\n{_INDENT * 2}{inner}\n{_INDENT}) -> T_co:"
    return "\n".join([f"{_INDENT}@overload", line, *_said(summary, _INDENT * 2), ""])
