"""The forms in which people hand networks over, and the one in which they are served: plain, float32, evaluating."""

import copy
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from service.errors import CatalogError
from service.models.exported.graphs import spoken
from service.models.exported.modes import trained
from service.models.networks import holding

_WRAPPERS = (nn.DataParallel, DistributedDataParallel, AveragedModel)
LESS = (torch.float16, torch.bfloat16, torch.float64)  # types that become float32


class BlackBox(holding.Sealed):
    """A network that shows no modules: only its outputs can be asked for, and its input's gradient where one passes.

    TorchScript and exported graphs have no hooks, and refuse `eval` or `requires_grad_`; this one takes them.
    """

    def __init__(self, inner: Any) -> None:
        """Take a callable module whose parameters need no gradient any more."""
        super().__init__()
        self.held = (inner,)  # in a tuple, as it is no child: what is inside has no addresses
        self.form = (
            "it is compiled by TorchScript"
            if isinstance(inner, torch.jit.ScriptModule)
            else "it is an exported graph, whose layers are no modules any more"
        )

    def forward(self, x: Tensor) -> Any:
        """Return what the network returns."""
        return self.held[0](x)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's own state."""
        return holding.state(self.held[0])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BlackBox":
        holding.apply(self.held[0], fn)
        return self

    def __deepcopy__(self, memo: Any) -> "BlackBox":
        """Return a copy, by way of its file where the network is TorchScript."""
        (inner,) = self.held
        if not isinstance(inner, torch.jit.ScriptModule):
            return BlackBox(copy.deepcopy(inner, memo))
        buffer = io.BytesIO()
        torch.jit.save(inner, buffer)
        buffer.seek(0)
        return BlackBox(holding.fixed(torch.jit.load(buffer)))  # type: ignore[no-untyped-call]


def unwrapped(network: nn.Module) -> nn.Module:
    """Return a network without what training put around it or its parts: data parallelism, averaging, compilation."""
    while (inner := _inside(network)) is not None:
        network = inner
    if isinstance(network, torch.jit.ScriptModule):
        return network
    for _, module in holding.modules(network):
        if module.__dict__.get("_compiled_call_impl") is not None:
            module._compiled_call_impl = None
        for part in (*holding.parts(module), *holding.beside(module)):
            if _inside(part.module) is not None:
                part.replaced(unwrapped(part.module))
    return network


def _inside(network: nn.Module) -> nn.Module | None:
    if isinstance(network, _WRAPPERS):
        inner: nn.Module = network.module
        return inner
    return network.__dict__.get("_orig_mod", network._modules.get("_orig_mod")) if _compiled(network) else None


def _compiled(network: nn.Module) -> bool:
    return type(network).__name__ == "OptimizedModule" and type(network).__module__.startswith("torch.")


def served(network: object, name: str) -> tuple[nn.Module, list[str]]:
    """Return a network as it is served, and what is worth saying of the change.

    It is unwrapped, in float32, evaluates, and none of its parameters needs a gradient. TorchScript and exported graphs
    become a `BlackBox`.

    Raises:
        CatalogError: it is no network, or one without weights.
    """
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise CatalogError(f"model {name!r}: the factory returned a {kind}, not an nn.Module; {_instead(network)}")
    said = []
    if "torch._dynamo" in sys.modules:  # compiling takes minutes, and pays for few of the many shapes of explanations
        torch.compiler.set_stance("force_eager")
    plain = unwrapped(network)
    if plain is not network:
        said.append(f"{type(network).__name__} around the network was taken off")
    network = plain
    _check_weights(network, name)
    if (operator := trained(network)) is not None:
        raise CatalogError(
            f"model {name!r}: it was exported or traced while it trained ({operator} does, in its graph), which no "
            "eval() undoes any more; call network.eval(), and export it again, with training=self.training where its "
            f"forward calls {operator} as a function"
        )
    tensors = holding.tensors(network).values()
    if kinds := sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.dtype in LESS}):
        holding.cast(network, torch.float32)
        said.append(f"its {' and '.join(kinds)} weights are computed with in float32")
    raised, training = holding.evaluating(network)
    exported = isinstance(network, torch.fx.GraphModule) and isinstance(raised, NotImplementedError)
    if exported or isinstance(network, torch.jit.ScriptModule):
        what = "an exported graph" if exported else "TorchScript"
        said.append(f"{what} shows no layers: only methods without layers apply")
        return BlackBox(holding.fixed(network)), said
    spoken(network)
    if training and raised is not None:
        said.append(
            f"its own train() or eval() raises {type(raised).__name__}: its modules are told to evaluate without it"
        )
    elif training:
        left = f"eval() left {len(training)} modules in training mode (such as {training[0]!r}); they evaluate now"
        said.append(left)
    if _record(network):
        said.append("weights that were made in inference mode are copied, so that gradients can pass by them")
    return holding.fixed(network), said


def _record(network: nn.Module) -> bool:
    """Let gradients pass by weights that were made in inference mode; return whether there are any."""
    copies: dict[int, Tensor] = {}  # of each tensor one: some are the weights of several modules
    for _, module in holding.modules(network):
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_inference():
                copied = copies.setdefault(id(parameter), nn.Parameter(parameter.clone(), requires_grad=False))
                module._parameters[name] = copied  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_inference():
                module._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
    return bool(copies)


def _instead(returned: object) -> str:
    """Return what a factory should return, or a catalogue say, where it returned no network."""
    if isinstance(getattr(returned, "model", None), nn.Module):
        return "its attribute 'model' is one: return that"
    if isinstance(returned, torch.export.ExportedProgram):
        return "name its file as the source, which keeps its layers, or return its .module()"
    if isinstance(returned, dict) and any(isinstance(value, Tensor | dict) for value in returned.values()):
        return "it holds weights: name what makes the network as the factory, and their file as `weights`"
    return "return the network itself"


def _check_weights(network: nn.Module, name: str) -> None:
    lazy = [
        (path, module)
        for path, module in holding.modules(network)
        if any(torch.nn.parameter.is_lazy(value) for _, value in holding.own(module))
    ]
    if lazy:
        path, kind = lazy[0][0], type(lazy[0][1]).__name__
        raise CatalogError(
            f"model {name!r}: the size of {len(lazy)} lazy layers is not known yet (such as {path!r}, a {kind}); "
            "run the network once on an input in its factory, or load its weights"
        )
    if any(t.is_meta for t in holding.tensors(network).values()):
        raise CatalogError(
            f"model {name!r}: its parameters lie on the meta device and have no values; make it on the CPU, or name a "
            "weights file"
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Take back what people's code sets for the whole process: PyTorch's default type and device, and recording.

    A script that is imported for one network may begin with `set_default_dtype`; every network after it, and the
    server's own tensors, would be made so.
    """
    dtype, device, records = torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(records)
        if torch.empty(0).device != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        # Torch 2.9 cannot tell the default device of a thread that has set it to none.
        kept: Any = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
        if getattr(kept, "device_context", True) is None:
            del kept.device_context


@contextmanager
def aside() -> Iterator[None]:
    """Let what networks print go to standard error, Python's prints and libraries' own, so that output stays output."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # a process without these files
        kept = None
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)
