"""KServe's V1 protocol and the Open Inference Protocol V2 over REST: other words for the same questions and answers.

A body becomes `Ask`s, and `Answer`s become a body; between them nothing is its own. Both protocols know no partial
answer, and want errors as `{"error": "..."}`.
"""

from fastapi import APIRouter

from service.api.kserve import v1, v2


def router() -> APIRouter:
    """Return the routes of both protocols, which are described by their own documents and not by ours."""
    routes = APIRouter(include_in_schema=False)
    routes.include_router(v1.router())
    routes.include_router(v2.router())
    return routes


def work(path: str) -> str | None:
    """Return what is asked for at an address that means work for the device: `predict` or `explain`; else None."""
    if path.startswith("/v1/models/"):
        verb = path.rpartition(":")[2]
        return verb if verb in ("predict", "explain") else None
    return "explain" if path.startswith("/v2/models/") and path.endswith("/infer") else None
