"""One explanation at a time, in process: our explainers against the libraries, on the same inputs in the same run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from service.explainers.base import method
from tests.bench import peers
from tests.bench.measure import Options, Row, against, alternate
from tests.bench.subject import EMBEDDED, Ours, Subject, narrow_layer, ours, pictures

SCORE_CAM_S = 300.0  # after its first round
TORCHCAM = {"space": "normalised", "baseline": "input", "interpolation": "bilinear", "normalise": "before"}
PYTORCH_GRAD_CAM = {
    "space": "normalised",
    "baseline": "none",
    "interpolation": "bilinear-corners",
    "normalise": "after",
}


def run(options: Options, folder: Path) -> Iterator[Row]:
    """Measure the main network, and occlusion also on ResNet-18."""
    subject = Subject(options.model, folder)
    with ours(subject, options.device, precision="fp32") as service:
        inputs = [subject.input(data).to(options.device) for data in pictures(4 * options.rounds + 1)]
        target = int(subject.plain(options.device)(inputs[0])[0].argmax())
        yield from _cheap(options, subject, service, inputs, target)
        yield _occlusion(options, subject, service, inputs[: options.rounds + 1], target)
        del inputs[options.rounds + 1 :]
        yield from _score_cam(options, subject, service, inputs, target)
    if subject.name in (EMBEDDED, "resnet50"):
        other = Subject("resnet18", folder)
        with ours(other, options.device, precision="fp32") as service:
            inputs = [other.input(data).to(options.device) for data in pictures(options.rounds + 1)]
            yield _occlusion(options, other, service, inputs, 281)


def _layer(service: Ours) -> str:
    layer = service.facts.default_layer
    assert layer is not None
    return layer


def _cheap(options: Options, subject: Subject, service: Ours, inputs: list[torch.Tensor], target: int) -> Iterator[Row]:
    layer, device, plain = _layer(service), options.device, subject.plain(options.device)
    contestants = {
        "ours": service.map_of(method("grad-cam")(), target),
        "pytorch-grad-cam": peers.apart(device, peers.pytorch_grad_cam, "GradCAM", plain, layer, target),
        "torch-cam": peers.apart(device, peers.torchcam, "GradCAM", plain, layer, target),
    }
    rounds = alternate(contestants, inputs, device)
    agree = {"relative": options.tolerance(1e-4)}
    yield against("latency", f"grad-cam, {subject.name}", rounds, "pytorch-grad-cam", aim="2.5x", agree=agree)
    yield against("latency", f"grad-cam, {subject.name}", rounds, "torch-cam", agree=agree)
    contestants = {
        "ours": service.map_of(method("saliency")(), target),
        "captum": peers.apart(device, peers.captum_saliency, subject.plain(device), target),
    }
    rounds = alternate(contestants, inputs, device)
    yield against("latency", f"saliency, {subject.name}", rounds, "captum", agree=agree)


def _occlusion(options: Options, subject: Subject, service: Ours, inputs: list[torch.Tensor], target: int) -> Row:
    device = options.device
    window, stride = (8, 4) if inputs[0].shape[2] < 64 else (32, 16)
    target %= service.facts.outputs
    explainer = method("occlusion")(window=window, stride=stride, score="logit")
    contestants = {
        "ours": service.map_of(explainer, target),
        "captum": peers.apart(device, peers.captum_occlusion, subject.plain(device), target, window, stride),
    }
    rounds = alternate(contestants, inputs, options.device)
    return against(
        "latency",
        f"occlusion {window}/{stride} fp32, {subject.name}",
        rounds,
        "captum",
        aim="1.5x, 2e-5",
        agree={"max_abs": options.tolerance(2e-5)},
        facts={"forwards": [run.usage.forwards for run in service.runs[-options.rounds :]]},
    )


def _score_cam(
    options: Options, subject: Subject, service: Ours, inputs: list[torch.Tensor], target: int
) -> Iterator[Row]:
    layer, device, plain = _layer(service), options.device, subject.plain(options.device)
    if options.channels is not None:
        layer = narrow_layer(service.facts, options.channels)
    cls = method("score-cam")
    contestants = {
        "ours like pytorch-grad-cam": service.map_of(cls(layer=layer, score="logit", **PYTORCH_GRAD_CAM), target),
        "pytorch-grad-cam": peers.apart(device, peers.pytorch_grad_cam, "ScoreCAM", plain, layer, target),
        "ours like torch-cam": service.map_of(cls(layer=layer, score="logit", **TORCHCAM), target),
        "torch-cam": peers.apart(device, peers.torchcam, "ScoreCAM", plain, layer, target),
        # The paper's definition, with the precision that was measured to agree, and in full.
        "ours auto": service.map_of(cls(layer=layer), target, "auto"),
        "ours fp32": service.map_of(cls(layer=layer), target, "fp32"),
    }
    # Seconds each on a CPU, where a first call costs milliseconds more: no warm-up there, and three rounds will do.
    warm = device.type == "cuda" or options.quick
    inputs = inputs if warm else inputs[: min(options.rounds, 3)]
    before = len(service.runs)
    rounds = alternate(contestants, inputs, device, warm=warm, budget_s=SCORE_CAM_S)
    facts = {"forwards": [run.usage.forwards for run in service.runs[before + 4 * warm :]]}
    channels = service.facts.layers[layer].shape[0]
    agree = {"relative": 1e-5} if device.type == "cpu" else {"spearman": 0.999}
    for peer in ("pytorch-grad-cam", "torch-cam"):
        name = f"score-cam fp32, {channels} channels, {subject.name}"
        mine = f"ours like {peer}"
        yield against("latency", name, rounds, peer, ours=mine, aim="2.5x, 1e-5", agree=agree, facts=facts)
    agreed = against("latency", "", rounds, "ours fp32", ours="ours auto", agree={"spearman": 0.999})
    faster = min(("pytorch-grad-cam", "torch-cam"), key=rounds.median)
    for peer in ("pytorch-grad-cam", "torch-cam"):
        name = f"score-cam auto, {channels} channels, {subject.name}"
        row = against("latency", name, rounds, peer, ours="ours auto", aim="8x, rho 0.999" if peer == faster else "")
        # Of the maps in full precision: the peers' conventions are others.
        yield replace(row, agreement=agreed.agreement, failed=agreed.failed)
