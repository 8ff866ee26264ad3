"""State dicts fitted into a network by PyTorch's own loading, under whatever names their file has for them."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.errors import CatalogError
from service.models.networks import holding
from service.models.weights.reading import State, averaged

_COMPILED = frozenset({"_orig_mod"})
# What is put around a network or its parts: compilation, data parallelism, sharding, checkpointing, and Lightning's.
_AROUND = _COMPILED | {"module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}


def fit(network: nn.Module, state: State, adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None) -> str:
    """Load a state dict into a network, strictly; return what is worth saying of it, or nothing.

    PyTorch's own loading comes first. Where it refuses, names are matched: prefixes on either side, and names that
    differ in dots alone. `adapt` is what the network's library makes of the files of others.

    Raises:
        CatalogError: it does not fit, and which names do not.
    """
    last: Exception | None = None
    for values, versions, said in _readings(network, state, adapt):
        _check_kinds(network, values, state.path)
        for metadata in (versions, getattr(holding.state(network), "_metadata", None)):
            given = OrderedDict(values)
            if metadata is not None:
                given._metadata = metadata  # type: ignore[attr-defined]
            try:
                return "; ".join(filter(None, (said, _loaded(network, given))))
            except Exception as error:
                last = last or error
    raise CatalogError(_misfit(network, state, last)) from None


def _check_kinds(network: nn.Module, values: Mapping[str, Any], path: Path) -> None:
    """Check that each parameter is given numbers of its own kind: loading would copy any into it.

    Raises:
        CatalogError: a real parameter is given whole or complex numbers, or one that holds none in a plain form.
    """
    for name, own in holding.parameters(network).items():
        value = values.get(name)
        if not isinstance(value, Tensor) or not own.is_floating_point():
            continue
        if value.is_meta:
            told = "has no numbers (it lies on the meta device); save the network that was filled with its weights"
        elif value.is_quantized or not (value.is_floating_point() or value.is_complex()):
            told = (
                f"holds {str(value.dtype).removeprefix('torch.')}: it is quantised, and what its numbers stand for is "
                "not in them; name the file from before, or save it after dequantising"
            )
        elif value.dtype.itemsize == 1 and own.dtype != value.dtype:
            told = (
                f"holds {str(value.dtype).removeprefix('torch.')}, which files hold after a division by a scale, and "
                "no number tells whether that was done; save it in float16 or float32, multiplied by its scale"
            )
        elif value.is_complex():
            told = "holds complex numbers, of which a real one would keep a half; save what the network computes with"
        elif value.layout != torch.strided:
            told = "is sparse; save the state dict with value.to_dense() for each value"
        else:
            continue
        raise CatalogError(f"weights file {str(path)!r} does not fit the network: its {name!r} {told}")


def _loaded(network: nn.Module, given: "OrderedDict[str, Any]") -> str:
    """Load values under a network's own names; return what is worth saying of it, or nothing.

    Raises:
        Exception: they do not fit, or the network's own loading leaves it as it was.
    """
    meta = any(value.is_meta for value in holding.parameters(network).values())
    # Networks that load in a way of their own may know nothing of what is not needed here.
    options = {"assign": True} if meta else {}
    if "load_state_dict" not in vars(network) and type(network).load_state_dict is nn.Module.load_state_dict:
        network.load_state_dict(given, strict=True, **options)
        return ""
    before = {} if meta else {name: value.detach().clone() for name, value in _values(network)}
    raised: Exception | None = None
    try:
        network.load_state_dict(given, strict=True, **options)
    except Exception as error:
        raised = error
    own = dict(_values(network))
    left = [name for name, value in before.items() if _same(own[name], value) and not _same(given.get(name), value)]
    if raised is None and not left:
        return ""
    try:
        nn.Module.load_state_dict(network, given, strict=True, **options)
    except Exception as error:
        if raised is not None or len(left) == len(before):
            raise (raised or error) from None
        return f"its own load_state_dict() left {len(left)} of its tensors as they were (such as {left[0]!r})"
    return "PyTorch's own load_state_dict() was used, as the network's does not load all of it"


def _values(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a network that weights are loaded into, but for counters, by name."""
    for name, value in holding.state(network).items():
        plain = isinstance(value, Tensor) and not (value.is_quantized or torch.nn.parameter.is_lazy(value))
        if plain and not name.endswith("num_batches_tracked"):
            yield name, value


def _same(a: Any, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.shape == b.shape and torch.equal(a.detach().to(b), b)


def _readings(
    network: nn.Module, state: State, adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any] | None, str]]:
    """Yield a state dict under the names that the network may have for it, likely ones first, and modules' versions."""
    own = list(holding.state(network))
    if not own or any(name in state.values for name in own):  # an attempt that must fail may leave a network changed
        yield state.values, state.metadata, ""
    tensors = {name: value for name, value in state.values.items() if isinstance(value, Tensor)}
    left = [name for name in state.values if name not in tensors and name not in own]
    if left:  # numbers and options in one dict with the weights
        kept = {name: value for name, value in state.values.items() if name not in left}
        yield kept, state.metadata, _left_out(left)
    tied = _tied(network)
    match = matched(own, list(tensors), state.path, tied)
    if match is not None:
        renamed, prefix = match
        taken = {own_name: tensors[name] for name, own_name in renamed.items()}
        for name in own:  # files that hold each tensor once leave out the other names of it
            if name not in taken and (other := next((one for one in tied.get(name, ()) if one in taken), None)):
                taken[name] = taken[other]
        rest = [name for name in tensors if name not in renamed]
        # What lies under the network's own prefix belongs to it, and PyTorch will say so.
        strangers = {name: tensors[name] for name in rest if not prefix or name.startswith(prefix)}
        outside = [name for name in rest if name not in strangers and name != "n_averaged"]
        told = f"the weights are the averaged ones under {prefix!r}" if averaged(prefix) else ""
        versions = _versions(state.metadata or {}, prefix)
        yield taken | strangers, versions or None, "; ".join(filter(None, (told, _left_out(outside))))
    if adapt is not None:
        try:
            yield adapt(dict(tensors)), None, "the library's own conversion of the file's names was applied"
        except Exception:  # it knows nothing of this file
            return


def _left_out(names: list[str]) -> str:
    return (
        f"{len(names)} entries of the file lie outside of the network and were left out (such as {names[0]!r})"
        if names
        else ""
    )


def _versions(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the versions of modules under a prefix, by their own paths."""
    found: dict[str, Any] = {}
    cut = len(prefix.rstrip("."))
    for path, version in metadata.items():
        for place in (path, _bare(path, _AROUND)):
            if place == prefix.rstrip(".") or place.startswith(prefix):
                found.setdefault(place[cut:].lstrip("."), version)
    return found


def _tied(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the other names of each tensor that has several in a network."""
    names: dict[int, list[str]] = {}
    for name, value in holding.state(network).items():
        if isinstance(value, Tensor):
            names.setdefault(id(value), []).append(name)
    return {name: tuple(n for n in same if n != name) for same in names.values() if len(same) > 1 for name in same}


def _bare(name: str, words: Set[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in words)


def matched(
    own: list[str], given: list[str], path: Path, tied: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[dict[str, str], str] | None:
    """Return which given name is which own one, and the prefix that given ones have; None where no reading fits all.

    `_orig_mod.`, which compiling adds, counts for nothing anywhere in a name; nor does what data parallelism, sharding
    and checkpointing put around parts, where the names are told apart without it. Of the names that `tied` says are one
    tensor's, one will do.

    Raises:
        CatalogError: several prefixes fit the whole network, as of a student and a teacher.
    """
    for words in (_COMPILED, _AROUND):
        plain, theirs = ({_bare(name, words): name for name in names} for names in (own, given))
        if words is _COMPILED or (len(plain), len(theirs)) == (len(own), len(given)):
            alias = {_bare(name, words): [_bare(n, words) for n in same] for name, same in (tied or {}).items()}
            found = _by_prefix(plain, theirs, alias, path)
            if found is not None:
                return found
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    dotless = {name.replace(".", ""): name for name in own}
    same = {name: dotless[name.replace(".", "")] for name in given if name.replace(".", "") in dotless}
    whole = bool(needed) and len(set(same.values())) == len(same) and needed <= set(same.values())
    return (same, "") if whole else None


def _by_prefix(
    plain: Mapping[str, str], theirs: Mapping[str, str], alias: Mapping[str, list[str]], path: Path
) -> tuple[dict[str, str], str] | None:
    """Match names in the plain form, each with the one that it stands for; see `matched`."""
    needed = [name for name in plain if not name.endswith("num_batches_tracked")]  # which old files do not have
    if not needed:
        return None

    def there(name: str, before: str, after: str) -> bool:
        names = (name, *alias.get(name, ()))
        return any(n.startswith(before) and after + n.removeprefix(before) in theirs for n in names)

    alone = [name for name in needed if name not in alias]
    fits = [
        (before, after)
        for before, after in _prefixes(needed, alone or needed, list(theirs))
        if all(there(name, before, after) for name in needed)
    ]
    averages = [fit for fit in fits if averaged(fit[1])]
    if len(fits) > 1 and averages:
        fits = averages[:1]
    if len(fits) > 1:
        named = " and ".join(repr(after) for _, after in fits)
        raise CatalogError(
            f"weights file {str(path)!r} holds several networks of this kind, under the prefixes {named}; save the one "
            "that is meant alone"
        )
    if not fits:
        return None
    ((before, after),) = fits
    names = {after + n.removeprefix(before): n for n in plain if n.startswith(before)}
    return {theirs[there_]: plain[n] for there_, n in names.items() if there_ in theirs}, after


def _prefixes(own: list[str], speaking: list[str], given: list[str]) -> list[tuple[str, str]]:
    """Return the pairs of prefixes (of own names, of given ones) that a name of the network speaks for."""
    longest = max(speaking, key=lambda name: (name.count("."), len(name)))
    parts = longest.split(".")
    pairs: dict[tuple[str, str], None] = {}
    for cut in range(len(parts)):
        rest, before = ".".join(parts[cut:]), "".join(f"{part}." for part in parts[:cut])
        if any(not name.startswith(before) for name in own):
            break
        for name in given:
            if name == rest or name.endswith(f".{rest}"):
                pairs.setdefault((before, name[: len(name) - len(rest)]))
        if pairs:
            break
    return list(pairs)


def _misfit(network: nn.Module, state: State, error: Exception | None) -> str:
    own = holding.state(network)
    values = dict(state.values)
    tied = _tied(network)
    absent = sorted(own.keys() - values.keys())
    missing = [name for name in absent if not any(other in values for other in tied.get(name, ()))] or absent
    extra = sorted(values.keys() - own.keys())
    shapes = [
        name
        for name in own.keys() & values.keys()
        if getattr(own[name], "shape", None) != getattr(values[name], "shape", None)
    ]
    problems = [
        f"{len(keys)} {what} (such as {keys[0]!r})"
        for keys, what in ((missing, "missing"), (extra, "unexpected"), (sorted(shapes), "of another shape"))
        if keys
    ]
    if not problems:
        reason = str(error).replace("\n", " ")[:200]
        return (
            f"weights file {str(state.path)!r} does not fit the network: {reason}; name the file that was saved from it"
        )
    text = (
        f"weights file {str(state.path)!r} does not fit the network: keys {', '.join(problems)}; "
        "name the file that was saved from this architecture"
    )
    for name in sorted(shapes)[:1]:
        there, here = (getattr(held[name], "shape", None) for held in (values, own))
        if there is None or here is None:
            held = (values[name], own[name])
            kinds = ("Tensor" if isinstance(value, Tensor) else type(value).__name__ for value in held)
            return text + " ({!r} is a {} in the file and a {} in the network)".format(name, *kinds)
        text += f" ({name!r} is {tuple(there)} in the file and {tuple(here)} in the network"
        heads = here[1:] == there[1:]
        text += "; where these are classes, the network's arguments set how many)" if heads else ")"
    return text
