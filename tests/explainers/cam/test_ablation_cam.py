import pytest
import torch
from torch import Tensor, nn

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.explainers.cam.ablation_cam import AblationCAM
from tests import oracles, tiny
from tests.explainers.cam.test_cam import HEADS
from tests.explainers.conftest import Watched, assert_close, assert_within, narrow_layer, tiny_input
from tests.oracles import Case, Peer


@torch.no_grad()
def left_out(case: Case) -> Tensor:
    """Return outputs, and those without each channel, (1 + K, N): a picture goes through the whole network for each."""
    path, _, rectified = case.layer.partition("+")
    network, inner = oracles.isolated(case.network, path)
    found = [network(case.x)]
    for some in torch.arange(oracles.layer_output(case.network, case.x, case.layer).shape[1]).split(16):

        def without(_module, _inputs, output, some=some):
            changed = output.relu() if rectified else output.clone()
            changed[range(len(some)), some] = 0
            return changed

        hook = inner.register_forward_hook(without)
        found.append(network(case.x.expand(len(some), -1, -1, -1)))
        hook.remove()
    return torch.cat(found).double()


def drops(case: Case, outputs: Tensor | None = None) -> Tensor:
    """Return y - y(without channel k), (K,)."""
    outputs = left_out(case) if outputs is None else outputs
    y = outputs.softmax(1) if case.params.get("score") == "probability" else outputs
    return y[0, case.target] - y[1:, case.target]


def oracle(case: Case) -> Tensor:
    """ReLU(sum_k (y - y without k) A_k), channel after channel."""
    return weighed(case, left_out(case))


def weighed(case: Case, outputs: Tensor) -> Tensor:
    """Return the map of outputs (1 + K, N), those without each channel behind the clean ones."""
    a = oracles.layer_output(case.network, case.x, case.layer)[0].double()
    found = oracles.weighted_sum(drops(case, outputs), a)
    return (found if case.params.get("relu") is False else found.clamp_min(0)).float()


def rounding(case: Case, outputs: Tensor) -> float:
    """Return by how much rounding may change the map: nearly equal scores cancel out."""
    a = oracles.layer_output(case.network, case.x, case.layer)[0].double()
    return 5e-6 * float(outputs[0].abs().max()) * float(a.abs().sum(0).max())


def tolerance(case: Case) -> float:
    """Return the same relative to the map's largest value, where it has any."""
    outputs = left_out(case)
    return rounding(case, outputs) / (float(weighed(case, outputs).abs().max()) or 1.0)


def pytorch_grad_cam(case: Case) -> Tensor:
    """Return its map, which is divided by the logit."""
    with torch.no_grad():
        y = case.network(case.x)[0, case.target]
    return (oracles.pytorch_grad_cam_raw("AblationCAM", case, relu=False) * y).clamp_min(0).float()


PEERS = {"pytorch-grad-cam": Peer(pytorch_grad_cam)}


@pytest.mark.oracle("ablation-cam")
def test_equals_the_definition(subject):
    x = oracles.photograph("chelsea", 64)  # a forward for every channel
    layer = narrow_layer(subject, 64)
    outputs = left_out(Case(subject.plain, x, layer))
    for params in ({"relu": False}, {"score": "probability"}):
        found = subject.explain(AblationCAM(layer=layer, **params), x, [281, 7])
        for m, target in zip(found.maps, (281, 7), strict=True):
            case = Case(subject.plain, x, layer, target, params)
            signed = weighed(Case(subject.plain, x, layer, target, params | {"relu": False}), outputs)
            limit = max(1e-5 * float(signed.abs().max()), rounding(case, outputs))
            assert float((m.array - weighed(case, outputs)).abs().max()) <= limit
            assert float(signed.abs().max()) > 0


@pytest.mark.oracle("ablation-cam")
@pytest.mark.parametrize("name", HEADS)
def test_on_a_linear_head_each_drop_is_the_weight_times_the_mean(subjects, x, name):
    subject = subjects(name)
    run = Run()
    found = subject.explain(AblationCAM(), x, [281])
    a = oracles.layer_output(subject.plain, x, subject.facts.head.layer)[0]
    expected = subject.facts.head.weight[281] * a.mean((1, 2))
    assert found.details["by_head"]
    assert_close(torch.tensor(found.details["drops"][0]), expected)
    AblationCAM().explain(subject.probe(run), x, Targets(subject.facts, [281]))
    assert run.usage.forwards == 1


def test_what_the_head_says_is_what_rows_say(small):
    """The same layer, once by the head's weights and once by the network itself."""
    subject, x = small(tiny.classifier), tiny_input()
    case = Case(subject.plain, x, "relu2", 3)
    found = subject.explain(AblationCAM(score="probability"), x, [3])
    assert found.details["by_head"]
    expected = drops(Case(subject.plain, x, "relu2", 3, {"score": "probability"}))
    assert_close(torch.tensor(found.details["drops"][0]), expected.float(), 1e-4)
    assert_within(torch.tensor(subject.explain(AblationCAM(), x, [3]).details["drops"][0]), drops(case).float(), 1e-6)


def dead() -> nn.Module:
    """Of the first layer's eight channels three never answer, rectified."""
    network = tiny.classifier()
    network.bn1.weight.data[[0, 3, 5]] = 0
    network.bn1.bias.data[[0, 3, 5]] = -1
    return network


@pytest.mark.oracle("ablation-cam")
def test_a_channel_of_zeros_loses_nothing_and_takes_no_row(small):
    subject, x, run = small(dead), tiny_input(), Run()
    found = AblationCAM(layer="relu1").explain(subject.probe(run), x, Targets(subject.facts, [2]))
    assert found.details["zero_channels"] == 3
    assert found.avoided == 3
    assert run.usage.forwards == 1 + 5
    (lost,) = found.details["drops"]
    assert [k for k, one in enumerate(lost) if one == 0] == [0, 3, 5]
    case = Case(subject.plain, x, "relu1", 2)
    assert_close(found.maps[0].array, oracle(case), max(1e-5, tolerance(case)))


def silent() -> nn.Module:
    network = tiny.classifier()
    network.bn1.weight.data.zero_()
    network.bn1.bias.data.fill_(-1)
    return network


def test_where_nothing_answers_nothing_is_lost(small):
    found = small(silent).explain(AblationCAM(layer="relu1"), tiny_input(), [2])
    assert found.maps[0].array.eq(0).all()
    assert found.details["drops"] == [[0.0] * 8]


@pytest.mark.oracle("ablation-cam")
def test_of_maps_below_zero_pytorch_grad_cam_makes_another_map(small):
    """It writes a number far below the least one where a zero belongs."""
    subject, x = small(tiny.classifier), tiny_input()
    case = Case(subject.plain, x, "bn1", 1, {"relu": False})
    found = subject.explain(AblationCAM(layer="bn1", relu=False), x, [1]).maps[0].array
    expected = oracle(case)
    assert_close(found, expected, max(1e-5, tolerance(case)))
    theirs = oracles.pytorch_grad_cam_raw("AblationCAM", case, relu=False)
    assert oracles.spearman(theirs, expected) < 0.9
    positive = Case(subject.plain, x, "relu1", 1)
    assert_close(pytorch_grad_cam(positive), oracle(positive), max(1e-4, 10 * tolerance(positive)))


@pytest.mark.oracle("ablation-cam")
def test_of_tokens_each_channel_is_left_out_in_turn(small):
    subject, x = small(tiny.tokens), tiny_input()
    kept = []
    hook = subject.plain.norm.register_forward_hook(lambda _, __, output: kept.append(output))
    y = subject.plain(x)[0, 3]
    hook.remove()
    weights = []
    for k in range(16):
        t = kept[0].clone()
        t[..., k] = 0
        weights.append(y - subject.plain.fc(nn.functional.gelu(t).mean(1))[0, 3])
    expected = (kept[0][0] @ torch.stack(weights)).relu().view(4, 4)
    assert_close(subject.explain(AblationCAM(layer="norm"), x, [3]).maps[0].array, expected, 1e-4)


def test_sketches_come_from_the_strongest_channels_and_end_with_the_map(small):
    subject, x = small(tiny.classifier), tiny_input()
    watched = Watched(subject)
    found = AblationCAM(layer="relu1", relu=False).explain(watched, x, Targets(subject.facts, [1]))
    (shown,) = watched.shown
    assert torch.equal(shown[-1], found.maps[0].array)
    a = oracles.layer_output(subject.plain, x, "relu1")[0]
    first = int(a.square().sum((1, 2)).argmax())
    assert_close(shown[0], found.details["drops"][0][first] * a[first], 1e-4)


class Rounded(Watched):
    """A probe whose traces make other channels the strongest, as rounding does where they are as strong."""

    def __init__(self, subject, first: int) -> None:
        super().__init__(subject)
        self.first = first

    def trace(self, rows, tracing):
        trace = super().trace(rows, tracing)
        for maps in trace.activations.values():
            maps[:, self.first] *= 100
        return trace


@pytest.mark.oracle("ablation-cam")
def test_rows_in_another_order_are_others_rows(small):
    subject, keys = small(tiny.vgg), []
    layer = narrow_layer(subject, 16)
    for first in (0, 0, 1):
        probe = Rounded(subject, first)
        AblationCAM(layer=layer).explain(probe, tiny_input(), Targets(subject.facts, [1]))
        keys += [rows.key for rows in probe.asked]
    assert len(keys) == 3
    assert keys[0] == keys[1] != keys[2]
