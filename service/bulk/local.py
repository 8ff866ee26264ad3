"""Answers made in this process: pictures in flight share batches."""

from collections.abc import Mapping
from dataclasses import replace

import orjson

from service.api.formats import Format, document, dumps
from service.ask import Ask
from service.bulk.loop import Done, Stop
from service.bulk.worker import Worker, failed, line
from service.engine.scheduler.run import Run
from service.errors import Draining, EngineUnavailable, ServiceError
from service.pipeline import Pipeline
from service.process import leave_cores_to_the_device

EACH = 8
"""Pictures in flight: their rows share batches."""


class Local(Worker):
    """Explains pictures with a pipeline, some at a time."""

    errors = (ServiceError,)

    def __init__(self, pipeline: Pipeline, ask: Ask, formats: Mapping[str, Format], in_flight: int) -> None:
        """Take what is asked.

        Args:
            pipeline: whose model is ready.
            ask: without a picture.
            formats: of the files that are written, by ending.
            in_flight: pictures at a time.

        Raises:
            ServiceError: no picture can be asked about so.
        """
        self.pipeline, self.ask, self.formats = pipeline, ask, formats
        pipeline.plan(replace(ask, pictures=(b"",)))
        super().__init__(in_flight, leave_cores_to_the_device)

    def answered(self, data: bytes, sha256: str) -> Done:
        """Return a picture's files, and its line."""
        pipeline, run = self.pipeline, Run()
        plan = pipeline.plan(replace(self.ask, pictures=(data,)))
        run.expected = plan.passes
        seen = pipeline.see(plan, run)
        explanation = pipeline.explain(plan, seen, run)
        files = {}
        for ending, format in self.formats.items():  # of which there is one at least
            answer = pipeline.answer(plan, seen, explanation, run, format.needs)
            files[ending] = format.encode(answer)
        return Done(orjson.loads(dumps(line(document(replace(answer, maps=())), sha256))), files)

    def refused(self, error: ServiceError, sha256: str) -> Done:
        """Return what becomes of a picture without an answer.

        Raises:
            Stop: nothing is answered here any more.
        """
        if isinstance(error, EngineUnavailable | Draining):
            raise Stop(error.detail)
        kind = f"urn:heatlens:problem:{error.type}"
        return failed(
            {"type": kind, "title": error.title, "status": error.status, "detail": error.detail},
            sha256,
        )
