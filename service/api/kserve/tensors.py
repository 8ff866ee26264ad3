"""Tensors of the Open Inference Protocol: in JSON, and in its extension for binary data.

A body is JSON, or JSON with raw tensors behind it, in the order in which they are named; the header
`Inference-Header-Content-Length` then says where the JSON ends. Numbers are little-endian in C order; an element of
type BYTES is four bytes of length and that many bytes.
"""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.api.bodies.fields import Counter, loaded
from service.errors import InvalidParameter, MalformedRequest, escaped, quoted

DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_ITEMS = 2**18  # of JSON: room for the pixels of a small picture, of which there are better forms
_RANK = 8  # dimensions at most
_MOST = 2**40  # elements of whatever type, but for a dimension that is zero
_ELEMENTS = 1024  # of type BYTES in one input
_AT_ONCE = 2**16  # numbers that are written in one go
_DIGITS = 19  # of a number of bytes
_SIZE = "binary_data_size"
_ELSEWHERE = re.compile(r"(sequence|shared_memory)_.*", re.DOTALL)
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Tensor:
    """A named tensor.

    values: an array of the tensor's shape; of type BYTES the elements in C order, each as bytes (sent in binary) or as
        text (sent in JSON).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Any
    pointer: str = ""


def counter(length: str | None) -> Counter:
    """Return what counts the items of a body's JSON as it streams in.

    Args:
        length: the header's value: bytes of JSON; None: all of them.

    Raises:
        MalformedRequest: it is no number.
    """
    return Counter(_ITEMS, _bytes(length) if length is not None else None)


def _bytes(length: str) -> int:
    if not (length.isascii() and length.isdecimal() and len(length) <= _DIGITS):
        raise MalformedRequest(f"Inference-Header-Content-Length {length[:20]!r} has to be a number of bytes")
    return int(length)


def split(body: bytes, length: str | None) -> tuple[dict[str, Any], memoryview]:
    """Return a body's JSON object and what follows it.

    Args:
        body: all of it.
        length: the header's value: bytes of JSON; None: all of them.

    Raises:
        MalformedRequest: there is no such place, or no JSON object before it, or one that is too deep.
        TooLarge: too many items in JSON.
    """
    end = _bytes(length) if length is not None else len(body)
    if end > len(body):
        raise MalformedRequest(f"Inference-Header-Content-Length {end:,} is more than the body's {len(body):,} bytes")
    return loaded(body[:end], "the body", _ITEMS), memoryview(body)[end:]


def read(document: dict[str, Any], raw: memoryview) -> list[Tensor]:
    """Return a request's inputs.

    Args:
        document: the request's JSON.
        raw: the binary data behind it.

    Raises:
        InvalidParameter: an input is not what it says it is.
    """
    sent = document.get("inputs")
    if not isinstance(sent, list) or not sent:
        raise InvalidParameter.at("/inputs", "send a list of inputs, the picture as the one called 'image'")
    found, start = [], 0
    for i, one in enumerate(sent):
        pointer = f"/inputs/{i}"
        name, datatype, shape, parameters = _head(one, pointer)
        _check_parameters(parameters, f"{pointer}/parameters")
        if datatype == "BYTES" and math.prod(shape) > _ELEMENTS:
            raise InvalidParameter.at(
                f"{pointer}/shape", f"an input of type BYTES has at most {_ELEMENTS:,} elements; send fewer at a time"
            )
        size = parameters.get(_SIZE)
        if size is None:
            values = _from_json(one.get("data"), datatype, shape, f"{pointer}/data")
        else:
            where = f"{pointer}/parameters/{_SIZE}"
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise InvalidParameter.at(where, f"{quoted(size)} is no number of bytes")
            if "data" in one:
                raise InvalidParameter.at(f"{pointer}/data", "the data follow in binary; leave this out")
            if start + size > len(raw):
                raise InvalidParameter.at(where, f"{size} bytes of {quoted(name)} are not in the body")
            values = _from_binary(raw[start : start + size], datatype, shape, where)
            start += size
        found.append(Tensor(name, datatype, shape, values, pointer))
    if start != len(raw):
        raise InvalidParameter.at("/inputs", f"{len(raw) - start} bytes of binary data belong to no input")
    return found


def _check_parameters(parameters: dict[str, Any], pointer: str) -> None:
    """Refuse what nothing reads: whoever sends it means something by it."""
    for name in parameters:
        if name != _SIZE:
            check_extension(name, pointer)
            there = f"an input has the parameter {_SIZE} alone"
            raise InvalidParameter.at(
                f"{pointer}/{escaped(name)}", f"nothing reads the parameter {quoted(name)}: {there}"
            )


def check_extension(name: str, pointer: str) -> None:
    """Refuse a parameter of extensions that are not spoken here.

    Raises:
        InvalidParameter: it is one.
    """
    if _ELSEWHERE.fullmatch(name):
        remedy = "send the data in the body" if name.startswith("shared") else "send each request by itself"
        raise InvalidParameter.at(
            f"{pointer}/{escaped(name)}",
            f"{quoted(name)}: this extension of the protocol is not spoken here; {remedy}",
        )


def _head(one: Any, pointer: str) -> tuple[str, str, tuple[int, ...], dict[str, Any]]:
    if not isinstance(one, dict):
        raise InvalidParameter.at(pointer, "an input is an object with name, shape, datatype and data")
    name, datatype, shape, parameters = (one.get(key) for key in ("name", "datatype", "shape", "parameters"))
    if not isinstance(name, str):
        raise InvalidParameter.at(f"{pointer}/name", "an input has a name, as text")
    if datatype not in (*DTYPES, "BYTES"):
        raise InvalidParameter.at(f"{pointer}/datatype", f"there are {', '.join(DTYPES)} and BYTES")
    shape = shape if isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**31 for n in shape) else []
    if not 1 <= len(shape) <= _RANK:
        raise InvalidParameter.at(f"{pointer}/shape", f"a shape is a list of 1 to {_RANK} whole numbers")
    if 0 in shape and math.prod(n or 1 for n in shape) > _MOST:  # no array has such a shape, empty as it would be
        raise InvalidParameter.at(f"{pointer}/shape", "the shape holds nothing, and is larger than any")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidParameter.at(f"{pointer}/parameters", "parameters are an object")
    return name, str(datatype), tuple(shape), dict(parameters or {})


def _from_json(data: Any, datatype: str, shape: tuple[int, ...], pointer: str) -> Any:
    if datatype == "FP16":
        raise InvalidParameter.at(pointer, "FP16 is sent in binary alone")
    if not isinstance(data, list):
        raise InvalidParameter.at(pointer, "data is a list, nested or flat")
    count = math.prod(shape)
    flat = list(_flat(data, _RANK))
    if len(flat) != count:
        raise InvalidParameter.at(pointer, f"there are {len(flat)} elements, and the shape says {count}")
    if datatype == "BYTES":
        if not all(isinstance(one, str) for one in flat):
            raise InvalidParameter.at(pointer, "elements of type BYTES are texts: base64 of a picture, or a label")
        return flat
    kind = np.dtype(DTYPES[datatype])
    fitting = bool if kind.kind == "b" else int if kind.kind in "iu" else (int, float)
    if any(not isinstance(one, fitting) or (isinstance(one, bool) and kind.kind != "b") for one in flat):
        raise InvalidParameter.at(pointer, f"not all elements are numbers of type {datatype}")
    # Numbers that are too large are wrapped by numpy 1.
    if kind.kind in "iu" and flat and not np.iinfo(kind).min <= min(flat) <= max(flat) <= np.iinfo(kind).max:
        raise InvalidParameter.at(pointer, f"a number is out of the range of {datatype}")
    try:
        return np.array(flat, kind).reshape(shape)
    except OverflowError:
        raise InvalidParameter.at(pointer, f"a number is out of the range of {datatype}") from None


def _flat(data: Any, depth: int) -> Iterator[Any]:
    for one in data:
        if isinstance(one, list) and depth:
            yield from _flat(one, depth - 1)
        else:
            yield one


def _from_binary(raw: memoryview, datatype: str, shape: tuple[int, ...], pointer: str) -> Any:
    count = math.prod(shape)
    if datatype == "BYTES":
        return _elements(raw, count, pointer)
    kind = np.dtype(DTYPES[datatype])
    if len(raw) != count * kind.itemsize:
        raise InvalidParameter.at(pointer, f"{len(raw)} bytes, and shape and type say {count} of {kind.itemsize}")
    return np.frombuffer(raw, kind).reshape(shape)


def _elements(raw: memoryview, count: int, pointer: str) -> list[bytes]:
    found: list[bytes] = []
    start = 0
    while start < len(raw) and len(found) < count:
        first = start + _LENGTH.size
        end = first + _LENGTH.unpack(raw[start:first])[0] if first <= len(raw) else len(raw) + 1
        if end > len(raw):
            break
        found.append(bytes(raw[first:end]))
        start = end
    if start != len(raw) or len(found) != count:
        raise InvalidParameter.at(
            pointer, f"the shape says {count} elements, each four bytes of length and that many bytes; there are others"
        )
    return found


def array(name: str, values: np.ndarray[Any, Any]) -> Tensor:
    """Return numbers as a tensor of type FP32."""
    return Tensor(name, "FP32", values.shape, np.ascontiguousarray(values, "<f4"))


def texts(name: str, values: Sequence[bytes], shape: Sequence[int] | None = None) -> Tensor:
    """Return elements of type BYTES as a tensor, by default with one dimension."""
    return Tensor(name, "BYTES", tuple(shape or (len(values),)), list(values))


def write(head: dict[str, Any], outputs: Sequence[Tensor], binary: Sequence[bool]) -> tuple[bytes, int | None]:
    """Return an answer's body, and how many bytes of it are JSON, where others follow.

    Args:
        head: what stands before the outputs.
        outputs: in the order in which they are asked for.
        binary: which of them are sent so.
    """
    told, behind = [], []
    for one, raw in zip(outputs, binary, strict=True):
        said: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
        if raw:
            data = _packed(one)
            said["parameters"] = {"binary_data_size": len(data)}
            behind.append(data)
        elif one.datatype == "BYTES":
            said["data"] = [value.decode() for value in one.values]
        else:
            said["data"] = _numbers(one.values.ravel())
        told.append(said)
    document = orjson.dumps(head | {"outputs": told})
    return b"".join((document, *behind)), len(document) if behind else None


def _numbers(values: "np.ndarray[Any, Any]") -> orjson.Fragment:
    """Return numbers in JSON, made in parts: nobody else's Python runs while one is."""
    parts = (
        orjson.dumps(values[i : i + _AT_ONCE], option=orjson.OPT_SERIALIZE_NUMPY)
        for i in range(0, values.size, _AT_ONCE)
    )
    return orjson.Fragment(b"[%s]" % b",".join(part[1:-1] for part in parts))


def _packed(one: Tensor) -> bytes:
    if one.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(value)) + value for value in one.values)
    return bytes(one.values.tobytes())
