"""What exported networks take: one picture, wherever it goes, and the values that they were exported with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.utils._pytree import TreeSpec, tree_structure, tree_unflatten


class Given:
    """Gives an exported network its pictures where it takes them: by name, in a container, or among plain values.

    Values that are no tensors are part of what was exported: it takes no others.
    """

    def __init__(self, run: Callable[..., Any], values: Sequence[Any], spec: TreeSpec) -> None:
        self._run, self._values, self._spec = run, tuple(values), spec

    def __call__(self, x: Tensor) -> Any:
        """Return what the network makes of (N, C, H, W)."""
        flat = [x if isinstance(value, TensorArgument) else value for value in self._values]
        args, kwargs = tree_unflatten(flat, self._spec)
        return self._run(*args, **kwargs)


def chosen(program: torch.export.ExportedProgram) -> list[str]:
    """Return the names of numbers that the caller of an exported network chooses."""
    return [arg.name for arg in _taken(program) if not isinstance(arg, TensorArgument | ConstantArgument)]


def arranged(network: nn.Module, program: torch.export.ExportedProgram) -> nn.Module:
    """Return an unflattened network that takes (N, C, H, W) alone, in whatever its program takes one tensor."""
    spec = program.call_spec.in_spec
    if spec is not None and spec != tree_structure(((0,), {})):
        values = [arg.value if isinstance(arg, ConstantArgument) else arg for arg in _taken(program)]
        vars(network)["process_forward_inputs"] = Given(vars(network)["process_forward_inputs"], values, spec)
    return network


def _taken(program: torch.export.ExportedProgram) -> list[Any]:
    return [one.arg for one in program.graph_signature.input_specs if one.kind is InputKind.USER_INPUT]
