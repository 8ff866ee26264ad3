"""Attention probabilities, found and kept wherever they are made.

By `torch.nn.MultiheadAttention`, by `scaled_dot_product_attention` (torchvision, timm, transformers), or by a softmax
of a network's own. Fused kernels have none: attention is written out where they are wanted.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from service.engine.network.rules.opening import opened, written_out

ADDRESS = "attention#"
"""What the addresses of attention probabilities begin with; the number of the call follows, from 1."""

Meet = Callable[[str, Tensor], Tensor]
"""(address, probabilities (N, heads, T, T)) -> what the network goes on with."""


class Attentions(TorchFunctionMode):
    """Meets every attention over all tokens of a picture within the block."""

    def __init__(self, rows: int, meet: Meet) -> None:
        """Watch a forward.

        Args:
            rows: of the forward's batch.
            meet: is given each attention, in the order of the calls.
        """
        super().__init__()
        self.rows, self.meet = rows, meet
        self.count = 0
        self.others: list[str] = []  # what attends otherwise, in words
        self.heads = 0  # of the module whose call is being followed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, and meet the attention in it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            before, self.heads = self.heads, args[4] if len(args) > 4 else kwargs["num_heads"]
            try:
                with self:  # what it calls inside is met, too
                    return opened(func)(*args, **kwargs)
            finally:
                self.heads = before
        if name == "scaled_dot_product_attention":
            return written_out(*args, **kwargs, weights=self._met)
        result = func(*args, **kwargs)
        if name in ("softmax", "_softmax") and isinstance(result, Tensor) and result.ndim in (3, 4, 5):
            axis = args[1] if len(args) > 1 else kwargs.get("dim")
            if axis in (-1, result.ndim - 1):
                return self._met(result)
        return result

    def _met(self, weights: Tensor) -> Tensor:
        """Return what goes on instead of attention probabilities (..., queries, keys)."""
        *batch, queries, keys = weights.shape
        lead = batch[0] if batch else 1
        heads = batch[1] if len(batch) == 2 else 1
        if len(batch) == 1 and self.heads:  # (N heads, T, T), as a module that is asked for its weights has them
            lead, heads = lead // self.heads, self.heads
        if queries != keys:
            self.others.append(f"{queries} queries attend to {keys} keys")
        elif lead == self.rows and len(batch) < 3 and keys > 1:
            self.count += 1
            met = self.meet(f"{ADDRESS}{self.count}", weights.view(self.rows, heads, queries, keys))
            return met.view(weights.shape)
        elif keys > 1 and lead % self.rows == 0:
            windows = lead // self.rows if lead > self.rows else batch[1]
            what = f"windows of {keys} tokens attend, each to itself ({windows} of them)"
            folded = f"attention over {keys} tokens comes in {windows} parts a picture, which may be windows or heads"
            self.others.append(folded if len(batch) == 1 else what)
        return weights
