"""What the routes share is one object, made with the application and ended with it."""

from dataclasses import FrozenInstanceError

import pytest
from fastapi import FastAPI, Request

from service.api.context import Context, context


def test_a_request_finds_its_applications_context(tiny: Context) -> None:
    app, other = FastAPI(), FastAPI()
    app.state.context, other.state.context = tiny, None
    assert context(Request({"type": "http", "app": app})) is tiny
    assert context(Request({"type": "http", "app": other})) is None


def test_its_parts_are_those_of_one_service(tiny: Context) -> None:
    assert tiny.pipeline.store is tiny.store
    assert tiny.pipeline.device is tiny.device is tiny.store.device
    assert tiny.pipeline.settings is tiny.settings
    assert len({id(pool) for pool in (tiny.pool, tiny.long_pool, tiny.health_pool)}) == 3
    with pytest.raises(FrozenInstanceError):
        tiny.store = None  # type: ignore[misc]
