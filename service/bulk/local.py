"""Answers made in this process: pictures in flight share batches."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import orjson

from service.api.formats import Format, document, dumps
from service.ask import Ask
from service.bulk.listing import Listed
from service.bulk.loop import Done, of_error
from service.engine.scheduler.run import Run
from service.errors import ServiceError
from service.pipeline import Pipeline
from service.process import leave_cores_to_the_device


class Local:
    """Explains pictures with a pipeline, some at a time."""

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
        self._pool = ThreadPoolExecutor(in_flight, "heatlens-bulk", leave_cores_to_the_device)

    def start(self, picture: Listed) -> "Future[Done]":
        """Begin with one picture."""
        return self._pool.submit(self._work, picture)

    def close(self) -> None:
        """Begin with no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _work(self, picture: Listed) -> Done:
        try:
            data = picture.path.read_bytes()
        except OSError as error:
            return Done(None, problem=error.strerror or str(error))
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            return self._answered(data, sha256)
        except ServiceError as error:
            return of_error(error.with_traceback(None), sha256)

    def _answered(self, data: bytes, sha256: str) -> Done:
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


def line(answer: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """Return what the manifest keeps of an answer."""
    return {"sha256": sha256, **{name: answer[name] for name in ("predictions", "image", "usage")}}
