import itertools

import pytest
import torch
from torch import Tensor, nn

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.explainers.cam.cam import CAM
from service.explainers.cam.recipro_cam import ReciproCAM, masks
from tests import oracles, tiny
from tests.explainers.cam.test_cam import HEADS
from tests.explainers.conftest import NAMES, SOME, assert_close, narrow_layer, tiny_input
from tests.oracles import Case


@torch.no_grad()
def oracle(case: Case) -> Tensor:
    """f with all maps zero but around one position, by a row of the whole network for each position."""
    path, _, rectified = case.layer.partition("+")
    network, inner = oracles.isolated(case.network, path)
    h, w = oracles.layer_output(case.network, case.x, case.layer).shape[2:]
    bell = case.params.get("kernel") == "gaussian"
    shares = torch.zeros(h * w, 1, h, w)  # of the maps that are left, for each position
    for y in range(h):
        for x in range(w):
            for i in range(max(0, y - bell), min(h, y + bell + 1)):
                for j in range(max(0, x - bell), min(w, x + bell + 1)):
                    shares[y * w + x, 0, i, j] = (2 - abs(i - y)) * (2 - abs(j - x)) / 16 if bell else 1
    rows = iter(shares)

    def alone(_module, _inputs, output):
        maps = output.relu() if rectified else output
        return maps * torch.stack([next(rows) for _ in maps])

    hook = inner.register_forward_hook(alone)
    pictures = itertools.repeat(case.x, h * w)
    found = oracles.scores_of(network, pictures, case.target, case.params.get("score", "logit"))
    hook.remove()
    return found.view(h, w)


def small_layer(subject) -> str:
    """Return the last layer: few positions, whatever its channels."""
    return narrow_layer(subject, 4096)


@pytest.mark.oracle("recipro-cam")
@pytest.mark.parametrize(
    ("subject", "params"),
    [(name, {}) for name in NAMES] + [(name, {"kernel": "gaussian", "score": "probability"}) for name in SOME],
    indirect=["subject"],
)
def test_equals_the_definition(subject, params):
    x = oracles.photograph("chelsea", 80)  # a forward for every position
    layer = small_layer(subject)
    found = subject.explain(ReciproCAM(layer=layer, **params), x, [281, 7])
    for m, target in zip(found.maps, (281, 7), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, x, layer, target, params)), 2e-5)


@pytest.mark.oracle("recipro-cam")
@pytest.mark.parametrize("name", HEADS)
def test_on_a_linear_head_it_is_cam_over_the_positions_and_the_bias(subjects, x, name):
    subject, run = subjects(name), Run()
    found = ReciproCAM().explain(subject.probe(run), x, Targets(subject.facts, [281]))
    cam = subject.explain(CAM(), x, [281]).maps[0].array
    assert_close(found.maps[0].array, cam / cam.numel() + subject.facts.head.bias[281])
    assert found.details["by_head"]
    assert run.usage.forwards == 1


@pytest.mark.parametrize("kernel", ["point", "gaussian"])
def test_what_the_head_says_is_what_rows_say(small, kernel):
    subject, x = small(tiny.classifier), tiny_input()
    params = {"kernel": kernel, "score": "probability"}
    found = subject.explain(ReciproCAM(**params), x, [3])
    assert found.details["by_head"]
    assert_close(found.maps[0].array, oracle(Case(subject.plain, x, "relu2", 3, params)))


def test_a_bell_shows_as_much_as_a_point_away_from_the_edges():
    bells, points = masks((5, 6), "gaussian"), masks((5, 6), "point")
    assert torch.equal(points.view(30, 30), torch.eye(30))
    assert bells.sum((1, 2, 3)).view(5, 6)[1:-1, 1:-1].eq(1).all()
    assert bells[0, 0, :2, :2].tolist() == [[4 / 16, 2 / 16], [2 / 16, 1 / 16]]
    assert bells[7, 0, :3, :3].tolist() == [
        [1 / 16, 2 / 16, 1 / 16],
        [2 / 16, 4 / 16, 2 / 16],
        [1 / 16, 2 / 16, 1 / 16],
    ]


@pytest.mark.oracle("recipro-cam")
def test_of_tokens_each_place_is_left_in_turn(small):
    subject, x = small(tiny.tokens), tiny_input()
    kept = []
    hook = subject.plain.norm.register_forward_hook(lambda _, __, output: kept.append(output))
    subject.plain(x)
    hook.remove()
    expected = []
    for place in range(16):
        t = torch.zeros_like(kept[0])
        t[:, place] = kept[0][:, place]
        expected.append(subject.plain.fc(nn.functional.gelu(t).mean(1))[0, 3])
    found = subject.explain(ReciproCAM(layer="norm"), x, [3]).maps[0].array
    assert_close(found, torch.stack(expected).view(4, 4))
