"""What the server says of what it serves is what its types read."""

import httpx
import pytest
from pydantic import BaseModel

from service.client import wire


@pytest.mark.parametrize(
    ("path", "cls"),
    [
        ("/methods", wire.MethodList),
        ("/models", wire.ModelList),
        ("/models/tiny", wire.ModelInfo),
        ("/models/tiny/layers", wire.LayerList),
        ("/health/live", wire.Live),
        ("/health/ready", wire.Ready),
        ("/nothing", wire.Problem),
    ],
)
def test_other_answers_are_what_their_types_read(client: httpx.Client, path: str, cls: type[BaseModel]) -> None:
    raw = client.get(path).json()
    assert cls.model_validate(raw).model_dump(mode="json", exclude_unset=True) == raw
