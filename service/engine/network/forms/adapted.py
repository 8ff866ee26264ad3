"""A network as the engine takes it: one tensor out, in float32 and in evaluation mode, whatever it was wrapped in."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from service.engine.network.forms.outlet import Outlet
from service.models.networks.forms import BlackBox, served
from service.models.networks.holding import Around, apply, attributes, modules, moved

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


def prepared(module: nn.Module, device: torch.device, name: str) -> tuple[nn.Module, list[str]]:
    """Return a network as it is served, on its device, and what had to be done, for people.

    Raises:
        CatalogError: it is none, or has parameters without values.
    """
    network, said = served(module, name)
    if _bake(network):
        said.append("weights that a reparametrisation computes anew in each forward are computed once")
    return moved(network, device), said


def _bake(module: nn.Module) -> bool:
    """Let computed weights be what they are in evaluation mode, which can be copied; return whether there are any."""
    found = False
    for _, child in modules(module):
        if isinstance(child, torch.jit.ScriptModule):
            continue
        if parametrize.is_parametrized(child):
            for tensor in list(child.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(child, tensor, leave_parametrized=True)
                if (value := child._buffers.pop(tensor, None)) is not None:  # what needed no gradient
                    child.register_parameter(tensor, nn.Parameter(value.detach(), requires_grad=False))
            found = True
        for key, hook in list(child._forward_pre_hooks.items()):
            computed = getattr(hook, "name", None)
            remove = getattr(hook, "remove", None)
            if type(hook).__name__ in ("WeightNorm", "SpectralNorm") and isinstance(computed, str) and remove:
                with torch.no_grad():
                    remove(child)
                del child._forward_pre_hooks[key]
                found = True
    return found


def compiles(module: nn.Module) -> bool:
    """Whether first forwards of a network may take long, because parts of it are compiled then."""
    if any(isinstance(child, torch.jit.ScriptModule | BlackBox) for _, child in modules(module)):
        return True
    compiler = sys.modules.get("torch._dynamo.utils")  # where a function of somebody's is compiled, no module shows it
    return compiler is not None and bool(compiler.counters["frames"])


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


class Ending(NamedTuple):
    """The function that makes what a network answers."""

    name: str
    call: int  # its number among the calls that `Cut` counts
    given: Tensor


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
        if name or arithmetic or func in _LINEAR:
            tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        linear = func in _LINEAR or (arithmetic and self._linear(tensors))
        before = given._version if isinstance(given, Tensor) else 0
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
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
        if result.numel() != answer.numel() or (given.numel() != answer.numel() and name != "linear"):
            return None
        return Ending(name, call, given)


class Adapted(Around):
    """A network behind an outlet. Its modules have the addresses that they have in the network itself."""

    outlet: Outlet
    cut: int | None
    copies: bool
    reuses: bool
    singly: bool

    def __init__(
        self,
        network: nn.Module,
        outlet: Outlet,
        *,
        cut: int | None = None,
        copies: bool = False,
        reuses: bool = False,
        singly: bool = False,
    ) -> None:
        """Wrap a network.

        Args:
            network: in evaluation mode.
            outlet: where its answer is.
            cut: which call of a softmax or sigmoid to leave out.
            copies: whether it writes to its input, so that it is given a copy.
            reuses: whether it writes each answer to where the last one was, so that a copy is handed on.
            singly: whether it is given one picture at a time.
        """
        super().__init__()
        self._modules, self._parameters, self._buffers = network._modules, network._parameters, network._buffers
        # Beside the modules, which are the network's: no address begins with these names, and a layer may have them.
        self.__dict__.update(network=network, outlet=outlet, cut=cut, copies=copies, reuses=reuses, singly=singly)
        self.training = False

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Adapted":
        apply(self.network, fn)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return one tensor (N, ...) in float32 of (N, C, H, W)."""
        if self.singly and len(x) > 1:
            return joined([self(x[i : i + 1]) for i in range(len(x))])
        given = x.clone() if self.copies else x
        with Cut(self.cut) if self.cut is not None else nullcontext():
            answer = self.outlet(self.network(given), len(x)).float()
        return answer.clone() if self.reuses else answer


def joined(answers: list[Tensor]) -> Tensor:
    """Return answers to several pictures as one; rows of detections are filled up."""
    if answers[0].ndim == 3:
        most = max(answer.shape[1] for answer in answers)
        answers = [F.pad(answer, (0, 0, 0, most - answer.shape[1])) for answer in answers]
    return torch.cat(answers)


def usable(network: nn.Module) -> bool:
    """Make what a network keeps of a forward usable where gradients are recorded; return whether it keeps anything."""
    keeps = False
    for holder, key, value in list(attributes(network)):
        if value.is_inference():
            holder[key], keeps = value.clone(), True
    return keeps


def released(network: nn.Module, before: Mapping[int, Tensor]) -> str | None:
    """Free the tensors that were there before from the graph of a forward that was written into them.

    The next picture's gradients would run into this one's. Returns the name of one; None where there is none.
    """
    found = None
    for holder, key, value in list(attributes(network, buffers=True)):
        if value.requires_grad and id(value) in before:
            found, holder[key] = str(key), value.detach()
    return found
