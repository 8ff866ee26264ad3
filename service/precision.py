"""The number formats that rows can be sent through a model in, once."""

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def quick(kind: str) -> Sequence[Precision]:
    """Return the formats that a kind of device has instructions for: others are emulated, many times slower.

    A request that names another one gets it all the same.
    """
    if kind == "cuda":
        return "fp32", "bf16", "fp16"
    if kind == "cpu" and _processor_has_bf16():
        return "fp32", "bf16"
    return ("fp32",)


def _processor_has_bf16() -> bool:
    with suppress(AttributeError, RuntimeError):  # of another version of PyTorch: float32 is always right
        if platform.machine().lower() in ("x86_64", "amd64"):
            return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
