"""What is asked, as the requests that say it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from . import pictures
from .errors import InvalidRequest
from .pictures import Picture
from .sending.transport import Asked

if TYPE_CHECKING:
    from pydantic import BaseModel

JSON, EVENTS = "application/json", "text/event-stream"
_DAY_S = 86_400.0  # the longest deadline that a server takes
_TYPE = "application/octet-stream"  # the server looks at the bytes


def explain(method: str, picture: Picture | None, options: Mapping[str, Any], accept: str = JSON) -> Asked:
    """Return the request for an explanation. Reads the picture: not for an event loop.

    Args:
        method: its name.
        picture: what to explain; None for a method that needs none.
        options: those of every request, of the drawing, and the method's own.
        accept: the form of the answer.

    Raises:
        InvalidRequest: a picture that cannot be read.
    """
    return _asked(f"/explain/{named(method)}", picture, fields(options), accept, options.get("pictures") or ())


def compare(methods: Sequence[str | Mapping[str, Any]] | None, picture: Picture, options: Mapping[str, Any]) -> Asked:
    """Return the request that holds methods against each other. Reads the picture: not for an event loop.

    Raises:
        InvalidRequest: a picture that cannot be read, or a method's parameter that stands beside it.
    """
    from . import wire

    sent = fields(options, wire.CompareRequest)
    if own := sent.pop("params", None):
        raise InvalidRequest(
            f"{', '.join(own)}: no option of a comparison; parameters stand with their method, as in "
            "{'method': 'occlusion', 'params': {'window': 48}}"
        )
    named = {} if methods is None else {"methods": list(methods)}
    return _asked("/compare", picture, named | sent, JSON, options.get("pictures") or ())


def predict(picture: Picture, options: Mapping[str, Any]) -> Asked:
    """Return the request for predictions. Reads the picture: not for an event loop.

    Raises:
        InvalidRequest: a picture that cannot be read.
    """
    return _asked("/predict", picture, {name: value for name, value in options.items() if value is not None}, JSON)


def fields(options: Mapping[str, Any], kind: type[BaseModel] | None = None) -> dict[str, Any]:
    """Return a request's fields: its kind's own, the drawing in `output`, and all else in `params`.

    Values are asked for in base64, and the map alone only where that is named.

    Args:
        options: by name; those that are None are left to the server.
        kind: of request; default: for an explanation.
    """
    from . import wire  # which takes longer than all else of the client to import, and may not be needed

    common, drawing = (kind or wire.ExplainRequest).model_fields, wire.OutputOptions.model_fields
    sent: dict[str, Any] = {}
    output: dict[str, Any] = {"array": "base64", "heatmap": False}
    params = dict(options.get("params") or {})
    for name, value in options.items():
        if name in ("params", "pictures") or (value is None and name in common.keys() | drawing.keys()):
            continue
        if name == "targets":
            value = value.tolist() if hasattr(value, "tolist") else value  # an array's, of any number of dimensions
            sent[name] = [value] if isinstance(value, int | str | Mapping) else list(value)
        elif name in drawing:
            output[name] = value
        elif name in common:
            sent[name] = value
        else:
            params[name] = value
    return sent | {"output": output} | ({"params": params} if params else {})


def named(name: str) -> str:
    """Return a name as a part of an address, whatever it is made of."""
    return quote(name, safe="")


def _asked(path: str, picture: Picture | None, sent: dict[str, Any], accept: str, further: Any = ()) -> Asked:
    headers = {"accept": accept}
    files = [("pictures", ("picture", pictures.read(one), _TYPE)) for one in further]
    if picture is not None:
        data = pictures.read(picture)
        headers["x-session-id"] = pictures.session(data)
        files.insert(0, ("image", ("picture", data, _TYPE)))

    def body(left_s: float) -> dict[str, Any]:
        request = json.dumps(sent | {"timeout_s": min(left_s, _DAY_S)}, default=_plain)
        return {"files": [*files, ("request", (None, request, JSON))]}

    return Asked("POST", path, body, headers)


def _plain(value: Any) -> Any:
    """Return what JSON knows of a value that it does not: NumPy's numbers and arrays, sets, tuples."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} is nothing that a request can hold")
