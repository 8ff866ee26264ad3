"""Watching PyTorch's dispatcher without its compiler."""

import sys

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that does not bring the compiler along.

    PyTorch wraps modes so that its compiler keeps out of them, and imports the compiler for that, which takes nearly as
    long as importing PyTorch itself. Where nobody has imported it there is nothing to keep out; and what is compiled
    later on runs uncompiled within a mode.

    Operators that are given functions, as `cond` is, are one call to it, and what these do is not met.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return "torch._dynamo" in sys.modules


def storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """Return a tensor's memory; None of sparse and opaque ones, which have none or parts with their own."""
    try:
        held = tensor.untyped_storage()
        held.data_ptr()
    except RuntimeError:
        return None
    return held
