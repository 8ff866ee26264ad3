"""Clients of the small networks: of a server, and of an application in this process."""

from collections.abc import Iterator

import httpx
import pytest

from service.client import Client
from tests.api.conftest import held as held  # a server whose batches begin when a test lets them


@pytest.fixture
def hl(client: httpx.Client) -> Iterator[Client]:
    """A client of the live server."""
    with Client(str(client.base_url), timeout_s=60) as found:
        yield found
