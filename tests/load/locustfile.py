"""Users of Locust: `locust -f tests/load/locustfile.py --host http://127.0.0.1:8000`.

HEATLENS_LOAD_KEY is sent as bearer key. A refusal (429, 503 with Retry-After) is no failure: it is counted under a name
of its own, and the user comes back when it was told to.
"""

import random
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from locust import HttpUser, between, task

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.load.traffic import KINDS, body, headers, pictures

pictures()  # made once, before any user waits for them


class Visitor(HttpUser):
    """Asks what is to be seen, and sometimes why."""

    weight = 10
    wait_time = between(0.1, 1)

    def ask(self, name: str) -> None:
        kind, multipart = KINDS[name], random.random() < 0.5
        data, content_type = body(random.choice(pictures()), kind.fields, multipart=multipart)
        with self.client.post(
            kind.path, data, headers=headers(content_type), name=name, catch_response=True, timeout=300
        ) as response:
            if response.status_code in (429, 503) and "retry-after" in response.headers:
                response.request_meta["name"] = f"{name}, refused"
                response.success()
                time.sleep(min(5, int(response.headers["retry-after"])))

    @task(10)
    def predict(self) -> None:
        self.ask("predict")

    @task(3)
    def grad_cam(self) -> None:
        self.ask("grad-cam")

    @task(1)
    def saliency(self) -> None:
        self.ask("saliency")


class Analyst(Visitor):
    """Compares methods, dear ones too."""

    weight = 2
    wait_time = between(1, 5)

    @task(4)
    def occlusion(self) -> None:
        self.ask("occlusion")

    @task(2)
    def feature_maps(self) -> None:
        self.ask("feature-maps")

    @task(1)
    def score_cam(self) -> None:
        self.ask("score-cam")


class Impatient(HttpUser):
    """Hangs up: half way through sending, or while it waits."""

    weight = 1
    wait_time = between(0.5, 2)

    @task
    def hang_up(self) -> None:
        data, content_type = body(random.choice(pictures()), KINDS["occlusion"].fields, multipart=True)
        address = urlsplit(self.host)
        head = f"POST {KINDS['occlusion'].path} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-length: {len(data)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers(content_type).items())
        with socket.create_connection((address.hostname, address.port or 80), 10) as connection:
            connection.sendall(head.encode() + b"\r\n" + data[: random.choice((len(data) // 2, len(data)))])
            time.sleep(random.random() / 2)
