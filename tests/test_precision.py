"""Number formats: the names on the wire are those that PyTorch computes in."""

from typing import get_args

import pytest
import torch

from service.precision import DTYPES, Precision, quick


def test_every_name_has_its_format():
    assert tuple(DTYPES) == get_args(Precision)


@pytest.mark.parametrize(
    ("name", "bits", "range_bits"),
    # Bits of a number, and of its exponent (IEEE 754 binary32 and binary16; bfloat16 has float32's exponent).
    [("fp32", 32, 8), ("bf16", 16, 8), ("fp16", 16, 5)],
)
def test_a_format_is_the_one_that_its_name_promises(name, bits, range_bits):
    found = torch.finfo(DTYPES[name])
    assert found.bits == bits
    assert 2.0 ** (2 ** (range_bits - 1) - 1) <= found.max < 2.0 ** (2 ** (range_bits - 1))


@pytest.mark.parametrize("has", [False, True])
def test_a_format_without_instructions_is_never_chosen(monkeypatch, has):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert quick("cpu") == (("fp32", "bf16") if has else ("fp32",))
    assert quick("cuda") == ("fp32", "bf16", "fp16")
    assert quick("mps") == ("fp32",)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # as in another version of PyTorch
    assert quick("cpu") == ("fp32",)
