"""On a CUDA device: the same answers as on a CPU, alone and together, and the ways that only CUDA has."""

import base64
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from service.answer import Needs
from service.api.context import Context
from service.app import build, close
from service.ask import Ask
from service.engine.network.variants import EXACT, candidates
from service.engine.scheduler.run import Run
from service.explainers.base import registry
from service.pipeline import applicability
from service.settings import Settings
from service.tuning.choice import Agreement, preferred
from tests.conftest import CATALOG, encoded, photograph, serving
from tests.parity import few

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
TOLERANCE = 1e-3  # of the largest value: kernels of two devices, and gradients that pass many of them
# Rounding decides which ReLU is open near zero, and ascent follows it.
LOOSE = {
    **dict.fromkeys(["saliency", "deconvnet", "gradient-x-input", "guided-backprop", "guided-grad-cam"], 0.05),
    "extremal-perturbation": 0.05,
    **dict.fromkeys(["blur-ig", "gradient-shap", "guided-ig", "integrated-gradients", "smooth-grad"], 0.05),
    **dict.fromkeys(["filters", "var-grad", "xrai"], 0.2),
}
PARAMS = {"filters": {"steps": 3, "channels": [1]}, "guided-ig": {"steps": 10}}


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, Context]]:
    found = {name: build(Settings(device=name, score_cache_mib=0)) for name in ("cpu", "cuda")}
    for context in found.values():
        context.store.start()
        assert context.store.wait(120)
    yield found
    for context in found.values():
        close(context)


def _ask(context: Context, method: str, model: str, image: bytes | None) -> list[np.ndarray]:
    cls = registry()[method]
    fields = {"model": model, "params": few(cls) | PARAMS.get(method, {}), "precision": "fp32"}
    plan = context.pipeline.plan(Ask.explain(method, fields, image if cls.needs_image else None))
    return [shown.heat.array for shown in context.pipeline.work(plan, Run(), Needs()).maps]


@pytest.mark.parametrize("model", ["efficientnet-lite0", "lesion-count"])
@pytest.mark.parametrize("method", registry())
def test_answers_are_those_of_a_cpu(services, chelsea, method, model):
    facts = services["cpu"].store.get(model).facts
    if applicability(facts)[method] is not None:
        pytest.skip("the method does not apply to the model")
    expected, found = (_ask(services[name], method, model, chelsea) for name in ("cpu", "cuda"))
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= LOOSE.get(method, TOLERANCE) * max(np.abs(a).max(), 1e-6)


def test_many_at_once_get_what_each_would_get_alone(services):
    context, whole = services["cuda"], photograph("chelsea")
    pictures = [encoded(whole.crop((40 * i, 0, 40 * i + 250, 250))) for i in range(6)]
    asked = [(method, picture) for picture in pictures for method in ("grad-cam", "score-cam", "occlusion", "cam")]
    alone = [_ask(context, method, "efficientnet-lite0", picture) for method, picture in asked]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda each: _ask(context, each[0], "efficientnet-lite0", each[1]), asked))
    for expected, found in zip(alone, together, strict=True):
        for a, b in zip(expected, found, strict=True):
            assert np.abs(a - b).max() <= TOLERANCE * np.abs(a).max()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@torch.inference_mode()
def test_recorded_forwards_answer_what_the_network_does(precision):
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval().requires_grad_(False).cuda()
    x = torch.randn(5, 3, 224, 224, device="cuda")
    ways = candidates(network, x[:2], precision)
    assert any(way.recorded for way in ways)
    expected = network(x)
    for way in ways:
        way(x.flip(0))
        for rows in (x, x[:2], x):
            found, wanted = way(rows), expected[: len(rows)]
            tolerance = 10 * EXACT if precision == "fp32" else 0.05
            assert float((found - wanted).abs().max() / wanted.abs().max()) <= tolerance, way.name


def test_measuring_finds_a_faster_way_that_agrees(tmp_path: Path, chelsea):
    context = build(Settings(device="cuda", tune=True, cache_dir=tmp_path, model=("efficientnet-lite0",)))
    context.store.start()
    context.store.join(120)
    try:
        model = context.store.get(None)
        tuned = context.store.tuner.found[model.version]
        assert {t.precision for t in tuned.timings} == {"fp32", "bf16", "fp16"}
        rates = {p: max(t.rows_per_s for t in tuned.timings if t.precision == p) for p in tuned.variants}
        agreement = {
            p: Agreement(tuned.agreement[p], tuned.weights_agreement[p], tuned.probability_error[p]) for p in rates
        }
        assert tuned.preferred == preferred(rates, agreement)
        answers = _ask(context, "score-cam", "efficientnet-lite0", chelsea)
        assert np.isfinite(answers[0]).all()
    finally:
        close(context)


def test_running_out_of_memory_halves_the_batch(chelsea):
    context = build(Settings(device="cuda", model=("efficientnet-lite0",), score_cache_mib=0))
    context.store.start()
    assert context.store.wait(120)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    try:
        expected = _ask(context, "score-cam", "efficientnet-lite0", chelsea)
        used = torch.cuda.memory_reserved()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, 0.6 * used / total))
        found = _ask(context, "score-cam", "efficientnet-lite0", chelsea)
        assert np.abs(found[0] - expected[0]).max() <= TOLERANCE * np.abs(expected[0]).max()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        close(context)


def test_a_client_of_a_cuda_server_is_answered(chelsea):
    with serving(Settings(device="cuda", catalog=CATALOG)) as client:
        image = base64.b64encode(chelsea).decode()
        answer = client.post("/explain/occlusion", json={"image": image}).raise_for_status().json()
        assert answer["usage"]["dtype"] == "float32"
        (used,) = re.findall(r"^heatlens_device_memory_bytes (\S+)$", client.get("/metrics").text, re.MULTILINE)
        assert float(used) > 0
