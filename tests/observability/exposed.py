"""Prints what a service on the small networks exposes after some requests, as Prometheus reads it.

python -m tests.observability.exposed | promtool check metrics
"""

import os
import sys

from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import CATALOG, encoded, photograph


def main() -> None:
    """Ask for what counts in all ways, and print."""
    os.environ |= {"HEATLENS_TUNE": "false"}
    app = create_app(Settings(catalog=CATALOG, device="cpu"))
    picture = encoded(photograph("chelsea"))
    with TestClient(app) as client:
        assert app.state.context.store.wait(120)
        client.post("/explain/grad-cam", files={"image": picture}).raise_for_status()
        streamed = client.post("/explain/occlusion", files={"image": picture}, headers={"accept": "text/event-stream"})
        streamed.raise_for_status()
        app.state.context.device.admission.drain(30)
        assert client.post("/predict", files={"image": picture}).status_code == 503
        sys.stdout.write(client.get("/metrics").text)


if __name__ == "__main__":
    main()
