"""The user's own code: `package.module:callable`, or `package.module:Class.method`, that returns or is a network."""

import copy
import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from service.errors import CatalogError, did_you_mean, suggested
from service.models.arguments import refused
from service.models.identity import code, options
from service.models.networks.forms import undisturbed
from service.models.networks.holding import modules
from service.models.sources.base import Network, Wish, colon, fitted, importable, seeded

ADDRESS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Factory:
    """A callable of an installed package, or of a module beside the catalogue."""

    name, form = "factory", "package.module:callable or package.module:Class.method"

    def takes(self, text: str, folder: Path) -> bool:
        """Whether it is written as an address of a callable."""
        return ADDRESS.fullmatch(text) is not None

    def names(self) -> Sequence[str]:
        """Return nothing: anything that can be imported may be one."""
        return ()

    def network(self, text: str, wish: Wish) -> Network:
        """See `Source.network`."""
        found = _imported(text, wish.folder)
        whole = isinstance(found, nn.Module)
        if whole and (wish.arguments or wish.weights == "random"):
            raise CatalogError(
                f"{text!r} is a network with its weights, and takes no arguments and no random ones; name what makes it"
            )
        make = partial(copy.deepcopy, found) if whole else partial(found, **wish.arguments)

        def build(said: list[str]) -> object:
            built = _made(text, make, wish.arguments)
            if wish.weights == "random" and isinstance(built, nn.Module):
                return built
            return fitted(built, wish.state(wish.file), said) if wish.file and isinstance(built, nn.Module) else built

        def identity(network: nn.Module) -> Any:
            classes = {type(module) for _, module in modules(network)}
            return ["factory", text, dict(wish.arguments), code([found, *classes]), options(network)]

        return Network(text, build, identity, words=f"{text}, weights: {wish.weights}")


def _made(address: str, make: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:
    what = f"the factory {address!r}"
    try:
        return seeded(make)
    except CatalogError:
        raise
    except SystemExit as error:
        raise CatalogError(
            f"the factory {address!r} ends the process ({error!r}), as argparse's parse_args() does, which reads the "
            "command line of this process; let it take what it needs as arguments, and give them as `arguments`"
        ) from error
    except Exception as error:
        raise CatalogError(
            refused(what, error, arguments)
            or f"{what} raised {type(error).__name__}: {str(error)[:300]}; call it with the same arguments in Python "
            "until it returns the network"
        ) from error


def _imported(address: str, folder: Path) -> Any:
    """Return the callable, or the network, of an address.

    Raises:
        CatalogError: there is none; the message says what may have been meant.
    """
    module, _, attribute = address.partition(":")
    importable(folder)
    try:
        with undisturbed():
            found: Any = seeded(partial(importlib.import_module, module))  # which may make a network
    except (Exception, SystemExit) as error:  # importing runs the module: it may raise anything
        raise CatalogError(_not_there(address, error) + _instead(address, error, folder)) from None
    for part in attribute.split("."):
        try:
            with undisturbed():
                found = getattr(found, part)
        except (Exception, SystemExit) as error:  # of a module that imports its parts when they are asked for
            meant = colon(address, folder)
            known = _callables(found)
            near = suggested([meant]) if meant else did_you_mean(part, known, then=_has(known))
            near = _hidden(module, folder) or near
            raise CatalogError(_not_there(address, error) + near) from None
    if not callable(found):
        raise CatalogError(f"{address!r} is a {type(found).__name__}; it has to be callable")
    return found


def _hidden(module: str, folder: Path) -> str:
    """Return what to do about a module beside the catalogue that another one of its name comes before, if there is."""
    own, taken = folder.resolve() / f"{module.replace('.', '/')}.py", getattr(sys.modules.get(module), "__file__", None)
    if not own.is_file() or taken is None or Path(taken).resolve() == own:
        return ""
    return f"; {own.name!r} beside the catalogue is hidden by {taken}, which has its name: rename yours"


def _callables(found: Any) -> list[str]:
    """Return the names in a module or class that may be called; nothing is imported for it, as lazy modules would."""
    held = getattr(found, "__dict__", {})
    names = list(held) if isinstance(found, type) else dir(found)
    kinds = (classmethod, staticmethod)
    return [
        n for n in names if not n.startswith("_") and (n not in held or callable(held[n]) or type(held[n]) in kinds)
    ]


def _has(known: Sequence[str]) -> str:
    return f"it has {', '.join(known[:8])}" + (", ..." if len(known) > 8 else "") if known else "there is no callable"


def _not_there(address: str, error: BaseException) -> str:
    return f"{address!r} cannot be imported ({type(error).__name__}: {error})"


def _instead(address: str, error: BaseException, folder: Path) -> str:
    """Return what to do about a module that cannot be imported."""
    module = address.partition(":")[0]
    if meant := colon(address, folder):
        return suggested([meant])
    if not isinstance(error, ModuleNotFoundError):
        return "; import it in Python until it raises nothing"
    if error.name and not f"{module}.".startswith(f"{error.name}."):
        return f"; install {error.name!r}, which it imports, or put it beside the catalogue"
    beside = sorted(path.stem for path in folder.resolve().glob("*.py"))
    then = "write 'package.module:callable' and install the package, or put the module beside the catalogue"
    return did_you_mean(module, beside, then=then)


SOURCE = Factory()
