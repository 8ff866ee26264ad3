"""Schemathesis over the OpenAPI document, against a real server: `python -m tests.fuzz.schema --cases 5000 [--seed N]`.

With `--protocols` it is over KServe's protocols, whose contract stands in `docker/kserve/openapi.yaml`.

All checks are on; some are told what is declared here:

not_a_server_error        503 and 504 are answers: stopping, and a deadline that has passed; `timeout_s` may be 1e-300.
positive_data_acceptance  400, 413, 415, 422 may answer what the schema allows: a string need not be base64, a picture
                          need not be decodable, an index may be out of range, a layer unknown, a method not applicable.
negative_data_rejection   408 and 413 refuse, too; a file's bytes violate no format, as `binary` stands for any, and
                          one part `pictures` of a form is a list of one.
"""

import argparse
import base64
import io
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import schemathesis
import yaml
from PIL import Image
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events
from schemathesis.transport.serialization import Binary

from service.api.kserve import tensors
from service.settings import DAY_S, Settings
from tests.conftest import CATALOG, serving

REFUSED = ["400", "401", "404", "405", "408", "413", "415", "422", "429", "503", "504"]
CHECKS = {
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504"]},
    "positive_data_acceptance": {"expected-statuses": ["2xx", *REFUSED]},
    "negative_data_rejection": {"expected-statuses": REFUSED},
}
RIGHT = re.compile(
    r"violates (`format` at /properties/(image|pictures/items)\b"
    r"|`type` at /properties/pictures \(was array, became string)"
)
MODELS = ("tiny", "tiny-regression", "tiny-vgg", "tiny-functional", "tiny-tokens")
NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
LAYERS = ("conv1", "relu1", "conv2", "relu2", "fc")


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((40, 30)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = _picture()
ENCODED = base64.b64encode(PICTURE).decode()
PATIENCE_S = 20.0
PROTOCOLS = Path(__file__).parents[2] / "docker" / "kserve" / "openapi.yaml"
METHODS = ("grad-cam", "occlusion", "cam", "feature-maps", "filters", "saliency", "rise")
OUTPUTS = ("probabilities", "logits", "explanation", "prediction", *METHODS)


def _hurry(body: dict[str, Any]) -> None:
    """Shorten a deadline that is right: thousands of steps may be asked for, and take their minutes."""
    if isinstance(body.get("timeout_s"), int | float) and PATIENCE_S < body["timeout_s"] <= DAY_S:
        body["timeout_s"] = PATIENCE_S


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
            body["image"] = ENCODED
        model = body.get("model")  # one that no model can have is meant to be refused
        if isinstance(model, str) and NAME.fullmatch(model) and rng.random() < 0.8:
            body["model"] = rng.choice(MODELS)
        _hurry(body)
        params = body.get("params")
        if isinstance(params, dict) and isinstance(params.get("layer"), str):
            params["layer"] = rng.choice(LAYERS)
    return body


def _instance(one: Any, rng: random.Random) -> Any:
    """Put a picture into an instance of V1, in one of the three forms that there are."""
    if isinstance(one, dict) and "image" in one:
        return one | {"image": _instance(one["image"], rng)}
    if isinstance(one, dict) and set(one) == {"b64"} and isinstance(one["b64"], str):
        return {"b64": ENCODED}
    return rng.choice((ENCODED, {"b64": ENCODED})) if isinstance(one, str) else one


def _input(one: Any, rng: random.Random) -> Any:
    """Put a picture, pixels or targets into an input of V2, whose shape and type say so."""
    kinds = {"datatype": str, "shape": list, "data": list}
    if not isinstance(one, dict) or not all(isinstance(one.get(key), kind) for key, kind in kinds.items()):
        return one  # which is wrong on purpose
    if one["datatype"] not in tensors.DTYPES and one["datatype"] != "BYTES":
        return one
    if not all(type(side) is int and side >= 0 for side in one["shape"]) or not 1 <= len(one["shape"]) <= 8:
        return one
    name = one.get("name")
    if name == "image" and rng.random() < 0.8:
        return one | {"datatype": "BYTES", "shape": [1], "data": [ENCODED]}
    if name == "image":
        return one | {"datatype": "UINT8", "shape": [2, 3, 3], "data": [rng.randrange(256) for _ in range(18)]}
    if name == "targets":
        return one | {"datatype": "INT64", "shape": [1], "data": [rng.randrange(4)]}
    return one


def _help_protocols(body: Any, rng: random.Random) -> Any:
    """Put what exists where the schema only says `string` or `array`; most would else be refused."""
    if not isinstance(body, dict) or rng.random() < 0.2:
        return body
    # What is wrong on purpose stays so: only what has the right type is put in another's place.
    instances, inputs, outputs = (body.get(name) for name in ("instances", "inputs", "outputs"))
    if isinstance(instances, list) and 1 <= len(instances) <= 256:
        body["instances"] = [_instance(one, rng) for one in instances]
    _hurry(body)
    if isinstance(body.get("method"), str):
        body["method"] = rng.choice(METHODS)
    for name, kind, some in (("targets", list, [rng.randrange(4)]), ("params", dict, {}), ("output", dict, {})):
        if isinstance(body.get(name), kind) and rng.random() < 0.8:
            body[name] = some
    if isinstance(inputs, list) and all(isinstance(one, dict) for one in inputs):
        body["inputs"] = [_input(one, rng) for one in inputs]
    for one in outputs if isinstance(outputs, list) else ():
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            one["name"] = rng.choice(OUTPUTS)
            if (
                isinstance(one.get("parameters"), dict)
                and not {"binary_data", "classification"} & one["parameters"].keys()
            ):
                one["parameters"] = {}
    if isinstance(body.get("parameters"), dict) and rng.random() < 0.8:
        if isinstance(body["parameters"].get("method"), str):
            body["parameters"]["method"] = rng.choice(METHODS)
        known = ("timeout", "priority", "binary_data_output", "method", "precision")
        body["parameters"] = {name: value for name, value in body["parameters"].items() if name in known}
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
                if RIGHT.search(failure.message):
                    continue
                text = f"{failure.message}\n{check.failure_info.code_sample}"
                tally.failures.setdefault(f"{check.name} {event.recorder.label}", text[:3000])


def run(
    cases: int, seed: int = 0, *, examples: int = 100, phases: tuple[str, ...] = (), protocols: bool = False
) -> Tally:
    """Run rounds of all operations until there were so many cases: of the service's own, or of the protocols."""
    tally, rng = Tally(), random.Random(seed)
    with serving(Settings(catalog=CATALOG, device="cpu", default_timeout_s=PATIENCE_S)) as client:
        url = str(client.base_url).rstrip("/")
        document = yaml.safe_load(PROTOCOLS.read_text("utf-8")) if protocols else client.get("/openapi.json").json()
        versions = [client.get(f"/v2/models/{name}").json()["versions"][0] for name in MODELS] if protocols else []
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
                return _help_protocols(body, rng) if protocols else _help(body, rng)

            if protocols:

                @schema.hook
                def map_path_parameters(context: Any, path_parameters: Any) -> Any:
                    which = rng.randrange(len(MODELS))
                    for name, known in (("name", MODELS[which]), ("version", versions[which])):
                        if name in (path_parameters or {}) and rng.random() < 0.9:
                            path_parameters[name] = known
                    return path_parameters

            for event in engine.from_schema(schema).execute():
                _take(event, tally)
            seed += 1
    return tally


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.schema")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--protocols", action="store_true")
    options = parser.parse_args()
    tally = run(options.cases, options.seed, protocols=options.protocols)
    print(tally.table())
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
