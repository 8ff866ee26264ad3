import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.explainers.cam.score_cam import ScoreCAM
from service.explainers.cam.ss_cam import SSCAM
from service.explainers.noise import gaussian
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, assert_within, tiny_input
from tests.oracles import Case


def smoothed(case: Case) -> tuple[Tensor, Tensor]:
    """Score-CAM's loop, each mask with each sample's noise, clipped to 0..1: the map and the CIC."""
    how = {"samples": 8, "deviation": 0.1, "seed": 0, **case.params}
    size = tuple(case.x.shape[2:])
    noises = [how["deviation"] * gaussian(size, how["seed"], sample) for sample in range(how["samples"])]
    return oracles.masked_cam(case, lambda mask: [(mask + noise).clamp(0, 1) for noise in noises])


def oracle(case: Case) -> Tensor:
    """ReLU(sum_k w_k A_k), w the softmax of the mean over noisy masks of f(X * H_k) - f(black)."""
    return smoothed(case)[0]


@pytest.mark.oracle("ss-cam")
@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer1"), ("efficientnet_lite0", "blocks.2")])
def test_equals_the_loop_on_real_networks(subjects, name, layer):
    subject, x = subjects(name), oracles.photograph("chelsea", 64)
    params = {"samples": 2, "score": "logit"}
    found = subject.explain(SSCAM(layer=layer, **params), x, [281])
    expected, cic = smoothed(Case(subject.plain, x, layer, 281, params))
    scale = oracles.layer_output(subject.plain, x, layer).abs().max()  # of a map whose weights sum to one
    assert_within(found.maps[0].array, expected, 3e-5, scale)
    assert_within(torch.tensor(found.details["cic"][0]), cic, 3e-5, cic.abs().max())


@pytest.mark.oracle("ss-cam")
@pytest.mark.parametrize("space", ["pixels", "normalised"])
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("params", [{"samples": 3}, {"samples": 2, "deviation": 1.0, "seed": 4, "weights": "raw"}])
def test_equals_the_loop(small, space, score, params):
    subject, x = small(tiny.classifier), tiny_input()
    params = {**params, "space": space, "score": score}
    found = subject.explain(SSCAM(layer="conv2", **params), x, [1, 3])
    for i, target in enumerate((1, 3)):
        expected, cic = smoothed(Case(subject.plain, x, "conv2", target, params))
        assert_close(found.maps[i].array, expected)
        assert_close(torch.tensor(found.details["cic"][i]), cic, 1e-4)


@pytest.mark.oracle("ss-cam")
@pytest.mark.parametrize("convention", [{}, {"score": "logit", "space": "normalised", "baseline": "none"}])
def test_without_noise_it_is_score_cam_at_score_cams_cost(small, convention):
    subject, x = small(tiny.classifier), tiny_input()
    plain = subject.explain(ScoreCAM(**convention), x, [1, 3])
    run = Run()
    method = SSCAM(deviation=0, samples=64, **convention)
    found = method.explain(subject.probe(run), x, Targets(subject.facts, [1, 3]))
    for m, expected in zip(found.maps, plain.maps, strict=True):
        assert_close(m.array, expected.array)
    assert found.details == plain.details
    assert method.passes(subject.facts, 2) == ScoreCAM().passes(subject.facts, 2) == run.usage.forwards + found.avoided
    # And no jump: with hardly any noise it is hardly another map.
    near = subject.explain(SSCAM(deviation=1e-6, samples=2, **convention), x, [1, 3])
    for m, expected in zip(near.maps, plain.maps, strict=True):
        assert_close(m.array, expected.array, 1e-3)


def test_it_costs_samples_times_score_cam_and_says_so(small):
    subject, run = small(tiny.classifier), Run()
    method = SSCAM(samples=5)
    found = method.explain(subject.probe(run), tiny_input(), Targets(subject.facts, [1]))
    assert method.passes(subject.facts, 1) == 5 * 13 + 1 == run.usage.forwards + found.avoided


def test_a_constant_map_is_varied_too(small):
    """Its mask is noise alone: not the black picture that Score-CAM shows, and the same for all such channels."""
    subject, x = small(tiny.classifier), tiny_input()
    for network in (subject.plain, subject.model.module):
        network.conv2.bias[:5] -= 100
    params = {"samples": 2, "deviation": 0.5, "score": "logit"}
    found = subject.explain(SSCAM(**params), x, [1])
    expected, cic = smoothed(Case(subject.plain, x, "relu2", 1, params))
    assert_close(found.maps[0].array, expected)
    assert_close(torch.tensor(found.details["cic"][0]), cic, 1e-4)
    assert found.details["cic"][0][0] != 0
    assert len(set(found.details["cic"][0][:5])) == 1


def test_more_samples_later_cost_only_the_new_ones(tiny):
    """Each sample's rows have a key of their own, which neither the number of samples nor the target is part of."""
    model = tiny.store.get("tiny")
    x = tiny_input(seed=77)

    def forwards(method, target):
        run = Run()
        method.explain(ModelProbe(model, tiny.device, run), x, Targets(model.facts, [target]))
        return run.usage.forwards

    first = forwards(SSCAM(samples=2), 1)
    assert forwards(SSCAM(samples=2), 3) == 1  # the clean picture
    assert forwards(SSCAM(samples=3, weights="raw"), 1) - 1 == (first - 1) / 2
    assert forwards(SSCAM(samples=2, seed=1), 1) == first
    assert forwards(SSCAM(samples=2, deviation=0.2), 1) == first


def test_torchcams_masks_leave_the_range_of_masks(small):
    """Noise of deviation 2 on masks in 0..1, unclipped: the network is shown pictures far beyond the one asked for."""
    subject, x = small(tiny.classifier), tiny_input()
    shown: list[Tensor] = []
    subject.plain.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].detach()))
    torch.manual_seed(0)
    oracles.torchcam_raw("SSCAM", Case(subject.plain, x, "conv2", 1), num_samples=2)
    assert float(torch.cat(shown).abs().max()) > 5 * float(x.abs().max())
    ours: list[Tensor] = []
    probe = subject.probe()
    ask = probe.scores
    probe.scores = lambda rows, **more: ours.append(rows.build(0, rows.count)) or ask(rows, **more)
    SSCAM(deviation=1, samples=2, space="normalised").explain(probe, x, Targets(subject.facts, [1]))
    assert float(torch.cat(ours).abs().max()) <= float(x.abs().max())
