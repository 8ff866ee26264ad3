import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.explainers.cam.is_cam import ISCAM
from service.explainers.cam.score_cam import ScoreCAM
from tests import oracles, tiny
from tests.explainers.conftest import assert_close, assert_within, tiny_input
from tests.oracles import Case, Peer


def integrated(case: Case) -> tuple[Tensor, Tensor]:
    """Score-CAM's loop, each mask at each brightness of the path: the map and the CIC."""
    n, published = case.params.get("samples", 10), case.params.get("path") == "published"
    c, factors = 0.0, []
    for i in range(1, n + 1):
        c = c + i / n if published else i / n  # published: each step adds one more j / N
        factors.append(c)
    return oracles.masked_cam(case, lambda mask: [factor * mask for factor in factors])


def oracle(case: Case) -> Tensor:
    """ReLU(sum_k w_k A_k), w the softmax of the mean over the path of f(X * c_i H_k) - f(black)."""
    return integrated(case)[0]


# torch-cam follows the published path; for the rest see its Score-CAM.
_TORCHCAM = {
    "path": "published",
    "space": "normalised",
    "score": "logit",
    "baseline": "input",
    "normalise": "before",
}
PEERS = {
    "torch-cam": Peer(
        lambda case: oracles.torchcam_raw("ISCAM", case, num_samples=case.params.get("samples", 10)), _TORCHCAM
    )
}


@pytest.mark.oracle("is-cam")
@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer1"), ("efficientnet_lite0", "blocks.2")])
def test_equals_the_loop_and_torchcam_on_real_networks(subjects, name, layer):
    subject, x = subjects(name), oracles.photograph("chelsea", 64)
    scale = oracles.layer_output(subject.plain, x, layer).abs().max()  # of a map whose weights sum to one
    params = {"samples": 2, "score": "logit"}
    found = subject.explain(ISCAM(layer=layer, **params), x, [281])
    expected, cic = integrated(Case(subject.plain, x, layer, 281, params))
    assert_within(found.maps[0].array, expected, 3e-5, scale)
    assert_within(torch.tensor(found.details["cic"][0]), cic, 3e-5, cic.abs().max())
    published = {"samples": 3, **_TORCHCAM}
    ours = subject.explain(ISCAM(layer=layer, **published), x, [281]).maps[0].array
    assert_within(ours, PEERS["torch-cam"].call(Case(subject.plain, x, layer, 281, published)), 3e-5, scale)


@pytest.mark.oracle("is-cam")
@pytest.mark.parametrize("path", ["straight", "published"])
@pytest.mark.parametrize("space", ["pixels", "normalised"])
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("params", [{"samples": 3}, {"samples": 4, "weights": "raw"}])
def test_equals_the_loop(small, path, space, score, params):
    subject, x = small(tiny.classifier), tiny_input()
    params = {**params, "path": path, "space": space, "score": score}
    found = subject.explain(ISCAM(layer="conv2", **params), x, [1, 3])
    for i, target in enumerate((1, 3)):
        expected, cic = integrated(Case(subject.plain, x, "conv2", target, params))
        assert_close(found.maps[i].array, expected)
        assert_close(torch.tensor(found.details["cic"][i]), cic, 1e-4)


@pytest.mark.oracle("is-cam")
@pytest.mark.parametrize("path", ["straight", "published"])
@pytest.mark.parametrize("convention", [{}, {"score": "logit", "space": "normalised", "baseline": "none"}])
def test_a_single_sample_is_score_cam(small, path, convention):
    subject, x = small(tiny.classifier), tiny_input()
    plain = subject.explain(ScoreCAM(**convention), x, [1, 3])
    method = ISCAM(samples=1, path=path, **convention)
    found = subject.explain(method, x, [1, 3])
    for m, expected in zip(found.maps, plain.maps, strict=True):
        assert_close(m.array, expected.array)
    assert found.details == {**plain.details, "path": [1.0]}
    assert method.passes(subject.facts, 2) == ScoreCAM().passes(subject.facts, 2)


def test_the_path_is_in_the_answer(small):
    subject, x = small(tiny.classifier), tiny_input()
    straight, published = (
        subject.explain(ISCAM(samples=10, path=path), x, [1]).details["path"] for path in ("straight", "published")
    )
    assert straight == pytest.approx([i / 10 for i in range(1, 11)])
    assert (published[0], published[-1]) == (0.1, 5.5)


def test_it_costs_samples_times_score_cam_and_says_so(small):
    subject, run = small(tiny.classifier), Run()
    method = ISCAM(samples=5)
    found = method.explain(subject.probe(run), tiny_input(), Targets(subject.facts, [1]))
    assert method.passes(subject.facts, 1) == 5 * 13 + 1 == run.usage.forwards + found.avoided


def test_the_last_step_is_known_where_score_cam_was_asked_before(tiny):
    model, x = tiny.store.get("tiny"), tiny_input(seed=78)

    def forwards(method):
        run = Run()
        method.explain(ModelProbe(model, tiny.device, run), x, Targets(model.facts, [1]))
        return run.usage.forwards - 1  # the clean picture

    rows = forwards(ScoreCAM())
    assert forwards(ISCAM(samples=4)) == 3 * rows
    assert forwards(ISCAM(samples=2)) == 0  # halves and wholes: every second step of four
    assert forwards(ISCAM(samples=2, path="published")) == rows  # 0.5 and 1.5 times
