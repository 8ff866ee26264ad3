"""Each odd network answers with the right numbers and maps, or is refused with the reason; none is wrong in silence."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from service.contract import Facts, Targets
from service.explainers.cam.grad_cam import GradCAM
from tests.conftest import encoded
from tests.odd.cases import CASES, SIZE, Case
from tests.odd.conftest import Odd
from tests.plain import PlainProbe

pytestmark = pytest.mark.filterwarnings("ignore")  # of what some networks are made with
SERVED = [name for name, case in CASES.items() if case.truth is not None]
REFUSED = [name for name, case in CASES.items() if case.truth is None]


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Return blocks of colour under noise, (height, width), so that each part of it counts differently."""
    numbers = np.random.default_rng(seed)
    blocks = numbers.integers(0, 256, (4, 4, 3)).repeat(size[0] // 4, 0).repeat(size[1] // 4, 1)
    return Image.fromarray((blocks * 0.8 + numbers.integers(0, 51, (*size, 3))).astype(np.uint8))


def inputs(image: Image.Image, channels: int) -> Tensor:
    """Return a picture as networks here see it: (1, C, H, W) of 0..1."""
    seen = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    return torch.from_numpy(np.array(seen)).view(*seen.size[::-1], channels).permute(2, 0, 1)[None] / 255.0


def ask(odd: Odd, path: str, name: str, image: Image.Image, **more: Any) -> Any:
    """Return an answer, which has to be there."""
    answer = odd.post(path, name, encoded(image), **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def about(odd: Odd, name: str) -> Any:
    """Return what is said of a model."""
    return odd.get(f"/models/{name}")


def close(found: Any, expected: Tensor, tolerance: float, *, least: float = 1e-4) -> None:
    """Hold numbers against those expected, relative to the largest."""
    found = torch.as_tensor(found, dtype=torch.float32)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * max(float(expected.abs().max()), least)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_says_why(odd: Odd, name: str) -> None:
    found = about(odd, name)
    assert found["status"] == "failed"
    assert CASES[name].refused in found["error"]
    assert name in found["error"]
    assert not found["error"].split(":")[0].endswith("Error")
    answer = odd.post("/predict", name, encoded(picture((SIZE, SIZE))))
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:heatlens:problem:model-unavailable")
    if found["checks"]:
        assert found["checks"][-1]["outcome"] == "refused"


@pytest.mark.parametrize("name", SERVED)
def test_what_is_said_of_it(odd: Odd, name: str) -> None:
    case, found = CASES[name], about(odd, name)
    assert found["status"] == "ready", found["error"]
    assert found["task"] == case.task
    assert found["task_assumed"] == ("task" in case.checks)
    assert {line["name"]: line["outcome"] for line in found["checks"] if line["outcome"] != "passed"} == case.checks
    assert all(line["remedy"] for line in found["checks"] if line["outcome"] != "passed" and line["name"] != "batch")
    reasons = {use["name"]: use["reason"] for use in found["methods"]}
    assert reasons["occlusion"] is None
    for method, why in case.lacks.items():
        assert reasons[method] is not None
        assert why in reasons[method]


def probabilities(task: str, outputs: Tensor) -> Tensor:
    """Return what a network with classes says, by the words of its task."""
    return outputs.softmax(-1) if task == "classification" else outputs.sigmoid()


@pytest.mark.parametrize("name", SERVED)
def test_predictions(odd: Odd, name: str) -> None:
    case = CASES[name]
    assert case.truth is not None
    image = picture(case.size)
    with torch.no_grad():
        expected = case.truth()(inputs(image, channels(odd, name)))[0]
    answer = ask(odd, "/predict", name, image, top_k=100)
    assert answer["model"]["task_assumed"] == ("task" in case.checks)
    found = {p.get("index"): p for p in answer["predictions"]}
    if case.task == "embedding":
        close(found[None]["norm"], expected.norm(), case.tolerance)
    elif case.task == "regression":
        close([found[i]["value"] for i in range(len(expected))], expected, case.tolerance)
    else:
        close(
            [found[i]["probability"] for i in range(len(expected))],
            probabilities(case.task, expected),
            case.tolerance,
        )


def channels(odd: Odd, name: str) -> int:
    """Return of how many channels a network's input is."""
    return len(about(odd, name)["input"]["channels"])


EXPLAINED = [name for name in SERVED if CASES[name].task != "embedding"]


def dropped(truth: Any, x: Tensor, side: int = 16) -> Tensor:
    """Return by how much the first output falls, where a black square hides each part."""
    rows, columns = x.shape[2] // side, x.shape[3] // side
    drops = torch.zeros(rows, columns)
    with torch.no_grad():
        for i in range(rows):
            for j in range(columns):
                hidden = x.clone()
                hidden[:, :, i * side : (i + 1) * side, j * side : (j + 1) * side] = 0
                if x.shape[1] == 4:
                    hidden[:, 3, i * side : (i + 1) * side, j * side : (j + 1) * side] = 1
                drops[i, j] = (truth(x) - truth(hidden))[0, 0]
    return drops


@pytest.mark.parametrize("name", EXPLAINED)
def test_occlusion(odd: Odd, name: str) -> None:
    case = CASES[name]
    assert case.truth is not None
    image = picture(case.size)
    x = inputs(image, channels(odd, name))
    expected = dropped(case.truth(), x)
    params = {"window": 16, "stride": 16, "fill": "black"} | _score(case)
    answer = ask(odd, "/explain/occlusion", name, image, targets=targets(case), params=params)
    close(answer["details"]["grid"][0], expected, max(case.tolerance, 2e-3), least=0.01)
    assert answer["usage"]["cache"] != "hit"


def targets(case: Case) -> list[int]:
    """Return what is asked for: the first output, by a request's words for the task."""
    return [] if case.task == "regression" else [0]


def _score(case: Case) -> Mapping[str, str]:
    return {} if case.task == "regression" else {"score": "logit"}


@pytest.mark.parametrize("name", [name for name in EXPLAINED if "saliency" not in CASES[name].lacks])
def test_saliency(odd: Odd, name: str) -> None:
    case = CASES[name]
    assert case.truth is not None
    image = picture(case.size)
    x = inputs(image, channels(odd, name)).requires_grad_()
    (gradient,) = torch.autograd.grad(case.truth()(x)[0, 0], x)
    answer = ask(odd, "/explain/saliency", name, image, targets=targets(case), params=_score(case))
    expected = gradient.abs().amax(1)[0] / case.unit
    close(answer["maps"][0]["array"]["data"], expected, max(case.tolerance, 5e-3), least=1e-6)


def facts(odd: Odd, name: str) -> Facts:
    """Return what the server knows of a network."""
    return odd.store.get(name).facts


LAYERED = [name for name in EXPLAINED if "grad-cam" not in CASES[name].lacks and not CASES[name].source]


@pytest.mark.parametrize("name", LAYERED)
def test_grad_cam(odd: Odd, name: str) -> None:
    """By `tests.plain`, a second engine, on the plain network: where that has the layer."""
    case = CASES[name]
    assert case.truth is not None
    network = case.truth()
    image = picture(case.size)
    answer = ask(odd, "/explain/grad-cam", name, image, targets=targets(case))
    layer = answer["maps"][0]["layer"]
    assert layer
    known = facts(odd, name)
    x = inputs(image, len(known.channels))
    comparable = isinstance(network, nn.Module) and layer.split("+")[0].split("#")[0] in dict(network.named_modules())
    if isinstance(network, nn.Module) and comparable:
        expected = GradCAM().explain(PlainProbe(network, known), x, Targets(known, [0])).maps[0].array
        close(answer["maps"][0]["array"]["data"], expected, max(case.tolerance, 5e-3), least=1e-6)
    assert comparable or not answer["maps"][0]["flat"]
