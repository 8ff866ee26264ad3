import struct

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.kserve import tensors
from service.api.kserve.tensors import DTYPES, array, read, split, texts, write
from service.errors import InvalidParameter, MalformedRequest, ServiceError


def _sent(data: bytes, end: int | None) -> tuple[dict, list[tensors.Tensor]]:
    document, raw = split(data, None if end is None else str(end))
    return document, read({"inputs": document.get("outputs")}, raw)


@given(
    st.lists(st.binary(max_size=20), max_size=4),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6),
    st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_what_is_written_is_read_again(elements, numbers, binary):
    elements = [one.hex().encode() for one in elements]
    sent = [texts("a", elements), array("b", np.array(numbers, np.float32).reshape(1, -1))]
    document, found = _sent(*write({"id": "x"}, sent, binary))
    assert document["id"] == "x"
    assert [(one.name, one.datatype, one.shape) for one in found] == [(s.name, s.datatype, s.shape) for s in sent]
    assert [one if isinstance(one, bytes) else one.encode() for one in found[0].values] == elements
    assert found[1].values.tolist() == sent[1].values.tolist()


@given(st.binary(max_size=200), st.text(max_size=5), st.integers(0, 200))
def test_whatever_is_sent_is_read_or_refused(data, length, cut):
    good, end = write({}, [texts("image", [b"abc", b""]), array("b", np.zeros((2, 2)))], [True, True])
    sent = ((data, length), (good[:cut], str(end)), (good, length), (good + data[:1], str(cut)), (good, None))
    for body, said in sent:
        error = _error(body, said)
        assert error is None or error.status in (400, 422)
        assert error is None or len(error.detail) < 400


def _error(body: bytes, said: str | None) -> ServiceError | None:
    try:
        document, raw = split(body, said)
        read({"inputs": document.get("outputs")}, raw)
    except ServiceError as error:
        return error
    return None


@pytest.mark.parametrize("datatype", DTYPES)
def test_numbers_of_every_type_in_binary(datatype):
    values = np.array([[0, 1], [1, 0]]).astype(DTYPES[datatype])
    head = {"name": "x", "datatype": datatype, "shape": [2, 2]}
    (found,) = read(
        {"inputs": [head | {"parameters": {"binary_data_size": values.nbytes}}]}, memoryview(values.tobytes())
    )
    assert found.values.tolist() == values.tolist()


@pytest.mark.parametrize("datatype", [one for one in DTYPES if one != "FP16"])
def test_numbers_in_json_may_be_nested_or_flat(datatype):
    values = np.array([[0, 1], [1, 0]]).astype(DTYPES[datatype])
    head = {"name": "x", "datatype": datatype, "shape": [2, 2]}
    for data in (values.tolist(), values.ravel().tolist()):
        (found,) = read({"inputs": [head | {"data": data}]}, memoryview(b""))
        assert found.values.dtype == values.dtype
        assert found.values.tolist() == values.tolist()


HEAD = {"name": "x", "datatype": "FP32", "shape": [2]}
TEXT = {"name": "x", "datatype": "BYTES", "shape": [2]}
WRONG = {
    "no list": ({}, b"", "/inputs"),
    "none": ([], b"", "/inputs"),
    "no object": ([1], b"", "/inputs/0"),
    "no name": ([{"datatype": "FP32", "shape": [1], "data": [1]}], b"", "/inputs/0/name"),
    "type": ([HEAD | {"datatype": "BF16", "data": [1, 2]}], b"", "/inputs/0/datatype"),
    "shape": ([HEAD | {"shape": [-1], "data": [1, 2]}], b"", "/inputs/0/shape"),
    "bool shape": ([HEAD | {"shape": [True], "data": [1]}], b"", "/inputs/0/shape"),
    "count": ([HEAD | {"data": [1, 2, 3]}], b"", "/inputs/0/data"),
    "huge and empty": ([HEAD | {"shape": [0, *[2**31 - 1] * 3], "data": []}], b"", "/inputs/0/shape"),
    "huge, empty and binary": (
        [HEAD | {"shape": [*[2**31 - 1] * 3, 0], "parameters": {"binary_data_size": 0}}],
        b"",
        "/inputs/0/shape",
    ),
    "huge": ([HEAD | {"shape": [2**30, 2**30], "data": [1]}], b"", "/inputs/0/data"),
    "half": ([HEAD | {"datatype": "FP16", "data": [1, 2]}], b"", "/inputs/0/data"),
    "kind": ([HEAD | {"data": [1, "2"]}], b"", "/inputs/0/data"),
    "bool": ([HEAD | {"data": [1, True]}], b"", "/inputs/0/data"),
    "range": ([HEAD | {"datatype": "UINT8", "data": [1, 256]}], b"", "/inputs/0/data"),
    "texts": ([TEXT | {"data": ["a", 1]}], b"", "/inputs/0/data"),
    "both": ([HEAD | {"data": [1, 2], "parameters": {"binary_data_size": 8}}], bytes(8), "/inputs/0/data"),
    "missing": ([HEAD | {"parameters": {"binary_data_size": 8}}], bytes(7), "/inputs/0/parameters/binary_data_size"),
    "short": ([HEAD | {"parameters": {"binary_data_size": 7}}], bytes(7), "/inputs/0/parameters/binary_data_size"),
    "more": ([HEAD | {"parameters": {"binary_data_size": 8}}], bytes(9), "/inputs"),
    "no size": ([HEAD | {"parameters": {"binary_data_size": -1}}], b"", "/inputs/0/parameters/binary_data_size"),
    "element": (
        [TEXT | {"parameters": {"binary_data_size": 9}}],
        struct.pack("<I", 1) + b"a" + struct.pack("<I", 5),
        "/inputs/0/parameters/binary_data_size",
    ),
    "parameters": ([HEAD | {"parameters": 3, "data": [1, 2]}], b"", "/inputs/0/parameters"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_named(case):
    inputs, raw, pointer = WRONG[case]
    with pytest.raises(InvalidParameter) as raised:
        read({"inputs": inputs}, memoryview(raw))
    assert [one.pointer for one in raised.value.errors] == [pointer]


@pytest.mark.parametrize(("body", "length"), [(b"{", None), (b"[]", None), (b"{}", "3"), (b"{}", "-1"), (b"{}", "x")])
def test_wrong_bodies_are_refused(body, length):
    with pytest.raises(MalformedRequest):
        split(body, length)


@pytest.mark.parametrize("size", [0, 1, tensors._AT_ONCE, tensors._AT_ONCE + 3])
def test_numbers_are_written_in_parts_that_nobody_sees(size):
    values = np.arange(size, dtype=np.float32).reshape(1, -1)
    document, end = write({}, [array("x", values)], [False])
    (found,) = orjson.loads(document)["outputs"]
    assert (end, found["shape"], found["data"]) == (None, [1, size], values[0].tolist())
