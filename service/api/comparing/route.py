"""`POST /compare`: several methods on one picture, with numbers that tell which to believe."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api import formats
from service.api.comparing.documented import comparing
from service.api.comparing.formats import PATH, TABLE
from service.api.context import Context, context
from service.api.formats import Format
from service.api.routes import answer, begin, received, starting
from service.api.running import Work, in_pool
from service.comparison.asking import Compare
from service.comparison.comparing import Comparing, Planned, plan
from service.engine.scheduler.run import Run
from service.errors import one_suggestion


class Comparison(Work):
    """A comparison that is planned, on its way to the bytes of its answer."""

    planned: Planned

    @classmethod
    def of(cls, service: Context, ask: Any, run: Run, format: Format) -> Comparison:
        """See `Work.of`."""
        assert isinstance(ask, Compare)
        planned = plan(service.pipeline, ask, format.needs)
        work = cls(service, planned.whole, run, format)
        work.planned, work.passes = planned, planned.passes
        return work

    def _encoded(self) -> bytes:
        with one_suggestion():  # a layer's name is looked up where a method meets it
            found = Comparing(self.service.pipeline, self.planned, self.run).work(self.format.needs)
        answers = [one.answer for one in found.entries if one.answer is not None]
        with self.run.usage.stage("encode"), self._room(answers):
            return self.format.encode(found)


def router() -> APIRouter:
    """Return the route."""
    routes = APIRouter()

    async def compare(request: Request) -> Response:
        format = formats.accepted(request.headers.get("accept", "*/*"), TABLE)
        sent, run = await received(request), starting(request)

        def planned() -> Work:
            with one_suggestion():
                return begin(request, Compare.of(sent.fields, sent.image), format, run, Comparison)

        # To check and plan one method takes little, and a request has many.
        return await answer(request, await in_pool(context(request).body_pool, planned, run.caller))

    routes.add_api_route(PATH, compare, **comparing(TABLE))
    return routes
