"""The number formats that rows can be sent through a model in."""

from collections.abc import Mapping
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
