"""Running blocking work off the event loop, and turning its answer into what the client accepts."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson
from fastapi import Request
from starlette.responses import Response

from service.pipeline import Answer

T = TypeVar("T")
JSON, PNG, NPY = "application/json", "image/png", "application/x-npy"


def accepted(request: Request) -> str:
    """Return the media type to answer with: the one of ours that `Accept` prefers, JSON by default."""
    best, best_weight = JSON, 0.0
    for item in request.headers.get("accept", "*/*").split(","):
        kind, _, parameters = item.strip().partition(";")
        weight = 1.0
        for parameter in parameters.split(";"):
            name, _, value = parameter.strip().partition("=")
            if name == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        offered = {"*/*": JSON, "application/*": JSON, "image/*": PNG}.get(kind.strip().lower(), kind.strip().lower())
        if offered in (JSON, PNG, NPY) and weight > best_weight:
            best, best_weight = offered, weight
    return best


def encode(answer: Answer, kind: str) -> Response:
    """Serialise an answer; blocks."""
    if kind == PNG:
        return Response(answer.image(), media_type=PNG)
    if kind == NPY:
        return Response(answer.array(), media_type=NPY)
    return json(answer.body)


def json(body: Any) -> Response:
    """Serialise to JSON; NumPy arrays become lists."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON)


async def in_pool(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run blocking work in the bounded pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)
