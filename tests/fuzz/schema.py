"""Schemathesis over the OpenAPI document, against a real server: `python -m tests.fuzz.schema --cases 5000 [--seed N]`.

All checks are on; some are told what is declared here:

not_a_server_error        503 and 504 are answers: stopping, and a deadline that has passed; `timeout_s` may be 1e-300.
positive_data_acceptance  400, 413, 415, 422 may answer what the schema allows: a string need not be base64, a picture
                          need not be decodable, an index may be out of range, a layer unknown, a method not applicable.
negative_data_rejection   408 and 413 refuse, too.
"""

import argparse
import base64
import io
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from PIL import Image
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events
from schemathesis.transport.serialization import Binary

from service.settings import Settings
from tests.conftest import CATALOG, serving

REFUSED = ["400", "401", "404", "405", "408", "413", "415", "422", "429", "503", "504"]
CHECKS = {
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504"]},
    "positive_data_acceptance": {"expected-statuses": ["2xx", *REFUSED]},
    "negative_data_rejection": {"expected-statuses": REFUSED},
}
MODELS = ("tiny", "tiny-regression", "tiny-vgg", "tiny-functional", "tiny-tokens")
NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
LAYERS = ("conv1", "relu1", "conv2", "relu2", "fc")


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((40, 30)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = _picture()
PATIENCE_S = 20.0


def _help(body: Any, rng: random.Random) -> Any:
    """Put a picture, a model and a layer that exist where the schema only says `string`: it remains what it was."""
    if isinstance(body, dict):
        if isinstance(body.get("image"), bytes | Binary):
            if rng.random() < 0.9:
                body["image"] = PICTURE
            if not isinstance(body.get("request", ""), str):
                body["request"] = "[]"  # a form has only text: an empty list would be no part at all, which is right
            elif "request" in body and rng.random() < 0.7:
                body["request"] = rng.choice(("{}", '{"model": "tiny-vgg"}', '{"targets": [1]}', '{"timeout_s": 1}'))
        elif isinstance(body.get("image"), str) and rng.random() < 0.9:
            body["image"] = base64.b64encode(PICTURE).decode()
        model = body.get("model")  # one that no model can have is meant to be refused
        if isinstance(model, str) and NAME.fullmatch(model) and rng.random() < 0.8:
            body["model"] = rng.choice(MODELS)
        if isinstance(body.get("timeout_s"), int | float) and body["timeout_s"] > PATIENCE_S:
            body["timeout_s"] = PATIENCE_S  # thousands of steps may be asked for, and take their minutes
        params = body.get("params")
        if isinstance(params, dict) and isinstance(params.get("layer"), str):
            params["layer"] = rng.choice(LAYERS)
    return body


@dataclass
class Tally:
    """What a number of cases came to."""

    statuses: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)  # the first of each kind

    def table(self) -> str:
        parts = [(title, getattr(self, title)) for title in ("statuses", "operations", "checks")]
        rows = [f"{title}: " + ", ".join(f"{k} {n:,}" for k, n in sorted(counts.items())) for title, counts in parts]
        rows.append(f"{self.statuses.total():,} cases, {len(self.failures)} kinds of failures")
        return "\n".join([*rows, *(f"FAILED {kind}\n{text}" for kind, text in self.failures.items())])


def _take(event: Any, tally: Tally) -> None:
    if isinstance(event, events.NonFatalError | events.FatalError):
        tally.failures.setdefault(f"error {getattr(event, 'label', '')}", str(getattr(event, "value", event)))
    if not isinstance(event, events.ScenarioFinished):
        return
    for interaction in event.recorder.interactions.values():
        response = interaction.response
        tally.statuses[str(response.status_code) if response is not None else "no answer"] += 1
        tally.operations[event.recorder.label] += 1
    for checks in event.recorder.checks.values():
        for check in checks:
            tally.checks[check.name] += 1
            if check.failure_info is not None:
                failure = check.failure_info.failure
                text = f"{failure.message}\n{check.failure_info.code_sample}"
                tally.failures.setdefault(f"{check.name} {event.recorder.label}", text[:3000])


def run(cases: int, seed: int = 0, *, examples: int = 100, phases: tuple[str, ...] = ()) -> Tally:
    """Run rounds of all operations until there were so many cases."""
    tally, rng = Tally(), random.Random(seed)
    with serving(Settings(catalog=CATALOG, device="cpu", default_timeout_s=PATIENCE_S)) as client:
        url = str(client.base_url).rstrip("/")
        document = client.get("/openapi.json").json()
        while tally.statuses.total() < cases:
            known = ("examples", "coverage", "fuzzing", "stateful")
            config = SchemathesisConfig.from_dict(
                {
                    "base-url": url,
                    "seed": seed,
                    "continue-on-failure": True,
                    "suppress-health-check": ["all"],
                    "request-timeout": 60,
                    "checks": CHECKS,
                    "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
                    "phases": {name: {"enabled": not phases or name in phases} for name in known},
                }
            )
            schema = schemathesis.openapi.from_dict(document, config=config)

            @schema.hook
            def map_body(context: Any, body: Any) -> Any:
                return _help(body, rng)

            for event in engine.from_schema(schema).execute():
                _take(event, tally)
            seed += 1
    return tally


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.schema")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tally = run(options.cases, options.seed)
    print(tally.table())
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
