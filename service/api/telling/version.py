"""`GET /version`: which build answers, on what."""

from functools import cache
from importlib import metadata
from pathlib import Path

from fastapi import APIRouter, Request

from service import __version__
from service.api.context import context
from service.api.documentation import refusals
from service.client import wire
from service.engine.scheduler.device import Device
from service.machine import waiting
from service.settings import Settings

router = APIRouter()
_TREE = Path(__file__).parents[3]


@router.get(
    "/version",
    tags=["health"],
    operation_id="get_version",
    summary="Which build answers.",
    openapi_extra={"responses": refusals(401)},
)
async def version(request: Request) -> wire.Version:
    """Return the service's version, the revision that it was made of, PyTorch, the device, and how threads wait."""
    found = context(request)
    return told(found.settings, found.device)


def told(settings: Settings, device: Device) -> wire.Version:
    """Return which build this is, and what it runs on."""
    return wire.Version(
        name="heatlens",
        version=__version__,
        revision=settings.revision or _revision(_TREE),
        torch=metadata.version("torch"),
        device=str(device.device),
        waiting=wire.WaitingInfo(**vars(waiting.chosen())),
    )


@cache
def _revision(tree: Path) -> str | None:
    """Return the commit that is checked out in a tree; None where it is none of git's."""
    git = tree / ".git"
    try:
        head = (git / "HEAD").read_text("ascii").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text("ascii").strip()
        packed = (line.split() for line in (git / "packed-refs").read_text("ascii").splitlines())
        return next((words[0] for words in packed if words[1:] == [name]), None)
    except (OSError, ValueError):
        return None
