"""Which function makes what a network answers, as seen in a forward, and how to have what that function was given."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_ENDINGS: dict[Any, str] = {
    function: name
    for name, functions in {
        "softmax": (F.softmax, torch.softmax, Tensor.softmax),
        "sigmoid": (F.sigmoid, torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_, torch.sigmoid_),
        "log_softmax": (F.log_softmax, torch.log_softmax, Tensor.log_softmax),
        "logsigmoid": (F.logsigmoid,),
    }.items()
    for function in functions
}
_NAMES = frozenset(_ENDINGS.values())
_KINDS = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid", "logsigmoid": "sigmoid"}
# What orders numbers, or takes some of them by their size.
_RANKS = frozenset(
    {torch.topk, Tensor.topk, torch.sort, Tensor.sort, torch.msort, Tensor.msort}
    | {torch.max, Tensor.max, torch.amax, Tensor.amax, torch.min, Tensor.min, torch.amin, Tensor.amin}
)
# What leaves a linear map one, where all that it is given is made by one, or does not depend on the picture.
_ARITHMETIC = frozenset(
    {
        "add",
        "add_",
        "sub",
        "sub_",
        "rsub",
        "mul",
        "mul_",
        "div",
        "div_",
        "true_divide",
        "neg",
        "mean",
        "sum",
        "stack",
        "cat",
    }
    | {f"__{left}{name}__" for left in ("", "r", "i") for name in ("add", "sub", "mul", "truediv")}
    | {"__neg__"}
)
_LINEAR = frozenset({F.linear, F.conv2d, torch.conv2d, torch.matmul, Tensor.matmul, torch.mm, torch.addmm, Tensor.mm})


class Cut(TorchFunctionMode):
    """Leaves out one call of a softmax or sigmoid, the n-th: its input goes on."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.call, self.met = call, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, or leave it out."""
        if func in _ENDINGS:
            self.met += 1
            if self.met == self.call:
                return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


class Taken(TorchFunctionMode):
    """Keeps what one call of a softmax or sigmoid, the n-th, is given, and what it makes of it."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.call, self.met = call, 0
        self.given: Tensor | None = None
        self.result: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, and keep both where it is the one."""
        result = func(*args, **(kwargs or {}))
        if func in _ENDINGS:
            self.met += 1
            if self.met == self.call:
                self.given, self.result = args[0] if args else (kwargs or {})["input"], result
        return result


class Ending(NamedTuple):
    """The function that makes what a network answers."""

    name: str  # of a softmax or sigmoid; "linear"; or "ranks", where columns are places in an order
    call: int  # its number among the calls that `Cut` counts
    given: Tensor
    result: Tensor


class Endings(TorchFunctionMode):
    """Watches which function makes what a network answers."""

    def __init__(self) -> None:
        super().__init__()
        # By where a result lies: function, number of the call, result, what the function was given.
        self.made: dict[int, tuple[str, int, Tensor, Tensor]] = {}
        self._calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, and take note of it."""
        name = _ENDINGS.get(func)
        self._calls += name is not None
        given: Any = args[0] if args else (kwargs or {}).get("input")
        arithmetic, tensors = getattr(func, "__name__", "") in _ARITHMETIC, []
        ranks = func in _RANKS and isinstance(given, Tensor) and given.ndim == 2
        if name or arithmetic or ranks or func in _LINEAR:
            tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        linear = func in _LINEAR or (arithmetic and self._linear(tensors))
        before = given._version if isinstance(given, Tensor) else 0
        result = func(*args, **(kwargs or {}))
        if ranks:
            (first, *_) = result if isinstance(result, tuple) else (result,)
            self.made[first.data_ptr()] = "ranks", self._calls, first, given
        elif isinstance(result, Tensor):
            if (name or linear) and tensors:
                held = given if isinstance(given, Tensor) else tensors[0]
                self.made[result.data_ptr()] = name or "linear", self._calls, result, held
            elif result is given and given._version != before:  # in place: it is no longer what it was
                self.made.pop(result.data_ptr(), None)
        return result

    def _linear(self, given: Sequence[Tensor]) -> bool:
        made = [self.made.get(tensor.data_ptr(), ("",))[0] == "linear" for tensor in given]
        return any(made) and all(known or not tensor.requires_grad for known, tensor in zip(made, given, strict=True))

    def handed_on(self, output: Tensor, copy: Tensor) -> None:
        """Take note that a result goes on as a copy."""
        if output.data_ptr() in self.made:
            self.made[copy.data_ptr()] = self.made[output.data_ptr()]

    def of(self, answer: Tensor) -> Ending | None:
        """Return the function that an answer is the result of, but for its shape."""
        if answer.data_ptr() not in self.made:
            return None
        name, call, result, given = self.made[answer.data_ptr()]
        if result.numel() != answer.numel() or (given.numel() != answer.numel() and name not in ("linear", "ranks")):
            return None
        return Ending(name, call, given, result)

    def kin(self) -> list[Ending]:
        """Return the calls of a softmax or sigmoid whose result is one row of numbers, the last first."""
        rows = [Ending(*one[:2], given=one[3], result=one[2]) for one in self.made.values() if one[0] in _NAMES]
        return sorted((one for one in rows if one.result.numel() == one.result.shape[1:].numel()), key=_latest)

    def becomes(self, answer: Tensor) -> str | None:
        """Return which function a forward gives its own answer to beside; None where it is none, or several."""
        found = {
            _KINDS[name]
            for name, _, result, given in self.made.values()
            if name in _NAMES and given.data_ptr() == answer.data_ptr() and given.numel() == answer.numel()
            if _KINDS[name] == "sigmoid" or _adds_up(result, answer, name)
        }
        return next(iter(found)) if len(found) == 1 else None


def _latest(ending: Ending) -> int:
    return -ending.call


def _adds_up(result: Tensor, answer: Tensor, name: str) -> bool:
    """Whether a softmax is one over the classes of an answer (N, K)."""
    shares = result.detach().reshape(answer.shape).float()
    sums = (shares.exp() if name == "log_softmax" else shares).sum(-1)
    return answer.ndim == 2 and bool((sums - 1).abs().max() < 1e-3)
