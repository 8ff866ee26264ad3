"""A client of heatlens, for programs and notebooks: `Client`, and `AsyncClient` for those that run an event loop.

    from heatlens_client import Client  # where the server is installed: from service.client import Client

    hl = Client("http://127.0.0.1:8000")
    hl.explain("grad-cam", "cat.jpg")  # a notebook shows its maps

It needs httpx, NumPy and pydantic, and nothing else of the service. Names are loaded when they are asked for: the
service itself takes the wire's types from here, and needs no HTTP client for that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aio import AsyncClient as AsyncClient
    from .aio import AsyncWatch as AsyncWatch
    from .answers import Comparison as Comparison
    from .answers import Explanation as Explanation
    from .answers import Map as Map
    from .answers import Png as Png
    from .answers import Predictions as Predictions
    from .answers import Progress as Progress
    from .errors import ConnectionFailed as ConnectionFailed
    from .errors import DeadlineExceeded as DeadlineExceeded
    from .errors import Denied as Denied
    from .errors import HeatlensError as HeatlensError
    from .errors import InvalidRequest as InvalidRequest
    from .errors import NotApplicable as NotApplicable
    from .errors import NotFound as NotFound
    from .errors import Overloaded as Overloaded
    from .errors import ServerFailed as ServerFailed
    from .errors import Unavailable as Unavailable
    from .sync import Client as Client
    from .sync import Watch as Watch

_HOMES = {
    "aio": ("AsyncClient", "AsyncWatch"),
    "answers": ("Comparison", "Explanation", "Map", "Png", "Predictions", "Progress"),
    "errors": (
        "ConnectionFailed",
        "DeadlineExceeded",
        "Denied",
        "HeatlensError",
        "InvalidRequest",
        "NotApplicable",
        "NotFound",
        "Overloaded",
        "ServerFailed",
        "Unavailable",
    ),
    "sync": ("Client", "Watch"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
