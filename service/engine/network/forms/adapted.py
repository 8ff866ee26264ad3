"""A network as the engine takes it: one tensor out, in float32 and in evaluation mode, whatever it was wrapped in."""

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from service.engine.network.endings.seen import Cut, Taken
from service.engine.network.forms.failures import NoAnswer
from service.engine.network.forms.outlet import Outlet, shaped
from service.models.networks.enclosed import items, put, reached
from service.models.networks.forms import BlackBox, served
from service.models.networks.holding import Around, apply, attributes, modules, moved


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


class Adapted(Around):
    """A network behind an outlet. Its modules have the addresses that they have in the network itself."""

    outlet: Outlet
    cut: int | None
    takes: bool
    copies: bool
    reuses: bool
    singly: bool

    def __init__(
        self,
        network: nn.Module,
        outlet: Outlet,
        *,
        cut: int | None = None,
        takes: bool = False,
        copies: bool = False,
        reuses: bool = False,
        singly: bool = False,
    ) -> None:
        """Wrap a network.

        Args:
            network: in evaluation mode.
            outlet: where its answer is.
            cut: which call of a softmax or sigmoid to leave out.
            takes: whether what that call is given is the answer, whatever becomes of it.
            copies: whether it writes to its input, so that it is given a copy.
            reuses: whether it writes each answer to where the last one was, so that a copy is handed on.
            singly: whether it is given one picture at a time.
        """
        super().__init__()
        self._modules, self._parameters, self._buffers = network._modules, network._parameters, network._buffers
        # Beside the modules, which are the network's: no address begins with these names, and a layer may have them.
        self.__dict__.update(
            network=network, outlet=outlet, cut=cut, takes=takes, copies=copies, reuses=reuses, singly=singly
        )
        self.training = False

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Adapted":
        apply(self.network, fn)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return one tensor (N, ...) in float32 of (N, C, H, W)."""
        if self.singly and len(x) > 1:
            return joined([self(x[i : i + 1]) for i in range(len(x))])
        given = x.clone() if self.copies else x
        if self.takes and self.cut is not None:
            answer = self._given(given, self.cut)
            return answer.clone() if self.reuses else answer
        with Cut(self.cut) if self.cut is not None else nullcontext():
            answer = self.outlet(self.network(given), len(x)).float()
        return answer.clone() if self.reuses else answer

    def _given(self, x: Tensor, call: int) -> Tensor:
        """Return what a call of a softmax or sigmoid is given."""
        with Taken(call) as taken:
            self.network(x)
        if taken.given is None:
            raise NoAnswer("its forward does not come by the softmax or sigmoid that it ended with when it was loaded")
        return shaped(taken.given, len(x), 2).float()


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
    for _, inside in list(reached(network)):
        for key, value in items(inside):
            if isinstance(value, Tensor) and value.is_inference():
                put(inside, key, value.clone())
                keeps = True
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
