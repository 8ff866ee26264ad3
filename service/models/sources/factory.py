"""The user's own code: `package.module:callable`, or `package.module:Class.method`, that returns a network."""

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

from torch import nn

from service.errors import CatalogError
from service.models.identity import code
from service.models.networks.forms import undisturbed
from service.models.sources.base import Network, Wish, fitted, seeded

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
        call = partial(_imported(text, wish.folder), **wish.arguments)

        def build(said: list[str]) -> object:
            built = _made(text, call)
            if wish.weights == "random" and isinstance(built, nn.Module):
                return built
            return fitted(built, wish.state(wish.file), said) if wish.file and isinstance(built, nn.Module) else built

        def identity(network: nn.Module) -> Any:
            classes = {type(module) for module in network.modules()}
            return ["factory", text, dict(wish.arguments), code([call.func, *classes])]

        return Network(text, build, identity, words=f"{text}, weights: {wish.weights}")


def _made(address: str, call: Callable[[], Any]) -> Any:
    try:
        return seeded(call)
    except CatalogError:
        raise
    except SystemExit as error:
        raise CatalogError(
            f"the factory {address!r} ends the process ({error!r}), as argparse's parse_args() does, which reads the "
            "command line of this process; let it take what it needs as arguments, and give them as `arguments`"
        ) from error
    except Exception as error:
        raise CatalogError(
            f"the factory {address!r} raised {type(error).__name__}: {str(error)[:300]}; call it with the same "
            "arguments in Python until it returns the network"
        ) from error


def _imported(address: str, folder: Path) -> Callable[..., Any]:
    module, _, attribute = address.partition(":")
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))
    try:
        with undisturbed():
            found = reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:  # importing runs the module: it may raise anything
        raise CatalogError(
            f"{address!r} cannot be imported ({type(error).__name__}: {error}); write "
            "'package.module:callable' and install the package, or put the module beside the catalogue"
        ) from None
    if not callable(found):
        raise CatalogError(f"{address!r} is a {type(found).__name__}; it has to be callable")
    return found


SOURCE = Factory()
