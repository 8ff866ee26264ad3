"""What a network holds: its modules and tensors, asked of PyTorch's own tables and not of its methods.

People give `parameters`, `modules`, `state_dict`, `train` or `to` meanings of their own: the groups of an optimiser, a
list of stages, a training loop. And they keep modules and tensors where PyTorch does not look: in plain lists, tuples
and dictionaries. Whoever needs to know what a network is made of asks here, so that nothing of it is left out.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_EVERY = frozenset(nn.Module().__dict__)  # attributes that each module has, whatever it is
_GRAPHS = ("torch.export.", "torch.fx.")  # whose modules keep themselves a second time, as a graph
SIMPLE = frozenset({bool, int, float, str, type(None)})  # what most attributes are, and holds nothing
_DEEPEST = 4  # containers in containers, that modules and tensors are looked for in


class Around(nn.Module):
    """A module that stands for the one in its attribute `network`: their parts are the same."""

    network: nn.Module


class Sealed(nn.Module):
    """A module that shows no parts. What it runs is the first item of its attribute `held`, whose tensors are its."""

    held: tuple[Any, ...]


class Part(NamedTuple):
    """A module inside of another one."""

    name: str
    module: nn.Module
    holder: Any  # what holds it under the key; None where that cannot be changed
    key: Any

    def replaced(self, module: nn.Module) -> bool:
        """Put another module in its place; return whether that can be done."""
        if self.holder is not None:
            self.holder[self.key] = module
        return self.holder is not None


def parts(module: nn.Module) -> list[Part]:
    """Return a module's children, as they are registered."""
    if isinstance(module, Sealed):
        return []
    table = whole(module)._modules
    return [Part(name, child, table, name) for name, child in list(table.items()) if child is not None]


def beside(module: nn.Module) -> list[Part]:
    """Return the modules that a module keeps in plain attributes, lists, tuples and dictionaries."""
    if is_graph(module):
        return []
    return [Part(*found) for found in _plain(module, nn.Module)]


def modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return all modules of a network, each once, with their addresses: itself first, and last what no table has."""
    return _all(network)[0]


def unregistered(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules, with their addresses, that stand in no table of PyTorch's, as those in plain lists."""
    return _all(network)[1]


def _all(network: nn.Module) -> tuple[list[tuple[str, nn.Module]], list[tuple[str, nn.Module]]]:
    met: dict[int, nn.Module] = {id(whole(network)): network}
    found, roots = list(_registered("", network, met)), []
    for path, module in found:  # which grows
        for part in beside(module):
            if id(part.module) not in met:
                roots.append((_joined(path, part.name), part.module))
                found += _registered(*roots[-1], met)
    return found, roots


def _registered(path: str, module: nn.Module, met: dict[int, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    met[id(module)] = module
    yield path, module
    for part in parts(module):
        if id(part.module) not in met:
            yield from _registered(_joined(path, part.name), part.module, met)


def whole(module: nn.Module) -> nn.Module:
    """Return the module that one stands for, or is."""
    return module.network if isinstance(module, Around) else module


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def own(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers of a module itself, with their names."""
    tables = module._parameters, module._buffers
    return [(name, value) for table in tables for name, value in list(table.items()) if value is not None]


def weights(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters of a module itself, with their names."""
    return [(name, value) for name, value in list(module._parameters.items()) if value is not None]


def parameters(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters, each once, by address."""
    return _tensors(list(_opened(network)), "_parameters")


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's buffers, each once, by address."""
    return _tensors(list(_opened(network)), "_buffers")


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters, and behind them its buffers, each once, by address."""
    opened = list(_opened(network))
    return _tensors(opened, "_parameters") | _tensors(opened, "_buffers")


def _tensors(opened: Sequence[tuple[str, nn.Module]], table: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    met: set[int] = set()
    for path, module in opened:
        for name, value in list(getattr(module, table).items()):
            if value is not None and id(value) not in met:
                met.add(id(value))
                found[_joined(path, name)] = value
    return found


def _opened(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules of a network, those of sealed ones, too."""
    for path, module in modules(network):
        yield path, module
        if isinstance(module, Sealed):
            yield from ((_joined(path, name).rstrip("."), inner) for name, inner in _opened(module.held[0]))


def attributes(network: nn.Module, *, buffers: bool = False) -> Iterator[tuple[Any, Any, Tensor]]:
    """Yield the tensors that modules keep in plain attributes, and with `buffers` these: (holder, key, tensor).

    Of what lies in a tuple, the holder is a copy of it as a list.
    """
    for _, module in modules(network):
        if buffers and isinstance(module._buffers, dict):
            yield from ((module._buffers, key, value) for key, value in own(module) if key in module._buffers)
        for _, value, holder, key in _plain(module, Tensor):
            yield (holder, key, value) if holder is not None else ([value], 0, value)


def kept(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that modules keep in plain attributes, by address, but for parameters and buffers there."""
    known = {id(value) for value in tensors(network).values()}
    return {
        _joined(path, name): value
        for path, module in modules(network)
        for name, value, _, _ in _plain(module, Tensor)
        if id(value) not in known
    }


def own_attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the attributes of a module that may hold something, and that not every module has."""
    held = whole(module).__dict__
    # Networks have thousands of modules, and nearly all attributes are settled here.
    return [(key, value) for key, value in list(held.items()) if type(value) not in SIMPLE and key not in _EVERY]


def is_graph(module: nn.Module) -> bool:
    """Whether a module is a graph, which keeps itself a second time."""
    return type(whole(module)).__module__.startswith(_GRAPHS)


def _plain(module: nn.Module, kind: type) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield what of a kind a module keeps in plain attributes, and in containers there: (name, it, holder, key)."""
    if not isinstance(module, Sealed | torch.jit.ScriptModule):
        own = own_attributes(module)
        if own:
            yield from _kept(whole(module).__dict__, own, kind, "", ())


def _kept(
    holder: Any, items: Iterable[tuple[Any, Any]], kind: type, name: str, around: tuple[Any, ...]
) -> Iterator[tuple[str, Any, Any, Any]]:
    for key, value in items:
        if isinstance(value, kind):
            yield _joined(name, str(key)), value, None if isinstance(holder, tuple) else holder, key
        elif isinstance(value, dict | list | tuple) and len(around) < _DEEPEST:
            inside = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
            if all(type(item) in SIMPLE for _, item in inside) or any(value is one for one in around):
                continue
            yield from _kept(value, inside, kind, _joined(name, str(key)), (*around, value))


def state(network: nn.Module) -> "OrderedDict[str, Any]":
    """Return what `state_dict(keep_vars=True)` of a plain network would, `_metadata` included."""
    found: OrderedDict[str, Any] = OrderedDict()
    found._metadata = OrderedDict()  # type: ignore[attr-defined]
    _save(network, "", found, ())
    return found


def _save(module: nn.Module, prefix: str, found: Any, around: tuple[nn.Module, ...]) -> None:
    held = module.held[0] if isinstance(module, Sealed) else whole(module)
    found._metadata[prefix[:-1]] = {"version": held._version}
    try:
        held._save_to_state_dict(found, prefix, True)  # which quantised modules have their own of
    except Exception:  # one of the network's own
        nn.Module._save_to_state_dict(held, found, prefix, True)
    for part in parts(held):
        if not any(part.module is one for one in around):
            _save(part.module, f"{prefix}{part.name}.", found, (*around, held))


def apply(network: nn.Module, change: Callable[[Tensor], Tensor], *, attributes: bool = True) -> None:
    """Change all tensors of a network in their places, and with `attributes` those that it keeps beside them.

    Args:
        network: any.
        change: makes a tensor of one, and nothing more of what it made; as for a device or a type.
        attributes: whether those count that are neither parameters nor buffers.
    """
    known: dict[int, tuple[Tensor, Tensor]] = {}  # both of them held: of each tensor one, whatever shares it

    def once(value: Tensor) -> Tensor:
        if id(value) not in known:
            known[id(value)] = value, change(value)
        return known[id(value)][1]

    for _, module in _opened(network):
        if not isinstance(module, Around | Sealed) and type(module)._apply is not nn.Module._apply:
            with suppress(Exception):  # PyTorch's own lay their weights out anew; people's may be of another meaning
                module._apply(once, recurse=False)  # type: ignore[no-untyped-call]
        nn.Module._apply(module, once, recurse=False)  # type: ignore[no-untyped-call]
    if attributes:
        same = {id(value) for value in parameters(network).values()}  # which have been changed as they stand
        with torch.no_grad():
            _change(network, lambda value: value if id(value) in same else once(value))


def _change(network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Change the tensors that modules keep in plain attributes; a tuple that holds any becomes another one."""
    for _, module in modules(network):
        if not isinstance(module, Sealed | torch.jit.ScriptModule):
            held = whole(module).__dict__
            for key in [key for key in held if key not in _EVERY]:
                held[key] = _changed(held[key], change, ())


def _changed(value: Any, change: Callable[[Tensor], Tensor], around: tuple[Any, ...]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if len(around) > _DEEPEST or any(value is one for one in around):
        return value
    if isinstance(value, dict | list):
        for key, item in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
            if (changed := _changed(item, change, (*around, value))) is not item:
                value[key] = changed
    elif type(value) is tuple:
        items = [_changed(item, change, (*around, value)) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else tuple(items)
    return value


def moved(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Return a network, with all that it holds on a device."""
    apply(network, lambda value: value.to(device))
    return network


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a network, with all floating-point numbers that it holds in a type."""
    apply(network, lambda value: value.to(dtype) if value.is_floating_point() else value)
    return network


def fixed(network: nn.Module) -> nn.Module:
    """Return a network no tensor of which needs a gradient."""
    for value in tensors(network).values():
        if value.is_leaf:
            value.requires_grad_(False)

    def cut(value: Tensor) -> Tensor:
        return value.requires_grad_(False) if value.is_leaf else value.detach()

    _change(network, cut)
    return network


class Evaluating(NamedTuple):
    """What came of telling a network to evaluate."""

    raised: BaseException | None  # by its own `eval` or `train`
    left: list[str]  # modules that these left in training mode, by address


def evaluating(network: nn.Module) -> Evaluating:
    """Tell a network to evaluate, and each module that does not heed it.

    Its own `eval` comes first, as it may do more, such as adding an adapter to the weights; what it returns or raises
    does not matter.
    """
    raised = None
    try:
        network.eval()
    except (Exception, SystemExit) as error:
        raised = error
    left = [(path, module) for path, module in modules(network) if getattr(module, "training", False)]
    for _, module in left:
        with suppress(AttributeError):  # where somebody has made it a property
            module.training = False
    return Evaluating(raised, [path or "the network itself" for path, _ in left])


def replace(network: nn.Module, others: Mapping[str, nn.Module]) -> None:
    """Put other modules in the places of those of some addresses, which have to be there.

    Raises:
        ValueError: what holds one of them cannot be changed, or nothing does.
    """
    all_of_them = dict(modules(network))
    old = {id(all_of_them[address]): address for address in others}
    places = [part for parent in all_of_them.values() for part in (*parts(parent), *beside(parent))]
    left = set(others)
    for part in places:
        address = old.get(id(part.module))
        if address is not None and part.replaced(others[address]):
            left.discard(address)
    if left:
        raise ValueError(f"nothing that holds {min(left)!r} can be changed")
