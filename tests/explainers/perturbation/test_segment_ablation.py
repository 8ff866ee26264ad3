import pytest
import torch
from torch import Tensor

from service.contract import Boxes, Targets
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.explainers.baselines import baseline
from service.explainers.perturbation.segment_ablation import SegmentAblation
from service.explainers.segments import slic, squares
from tests import oracles, tiny
from tests.explainers.conftest import Watched, assert_close, assert_within, tiny_input
from tests.explainers.perturbation.test_occlusion import incremental
from tests.oracles import Case, Peer

DEFAULTS = {"score": "probability", "segments": "slic", "count": 50, "hidden": "mean"}
TOLERANCE = 1e-4  # a drop is a small difference of scores


def labels_of(case: Case) -> Tensor:
    """Return the number (H, W) of each pixel's segment."""
    how = {**DEFAULTS, **case.params}
    if how["segments"] == "squares":
        return squares(tuple(case.x.shape[2:]), how["count"])
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (case.std, case.mean))
    return slic(case.x[0] * std + mean, how["count"])


def filling_of(case: Case) -> Tensor:
    """Return what stands where segments are hidden: a plain colour, (1, 3, 1, 1)."""
    hidden = {**DEFAULTS, **case.params}["hidden"]
    return torch.zeros(1, 3, 1, 1) if hidden == "mean" else case.colour({"black": 0.0, "white": 1.0}[hidden])


def oracle(case: Case) -> Tensor:
    """f(X) - f(X with a segment hidden), one segment after the other, laid over its pixels."""
    labels, how = labels_of(case), {**DEFAULTS, **case.params}

    def pictures():
        yield case.x
        for segment in range(int(labels.max()) + 1):
            yield torch.where(labels == segment, filling_of(case), case.x)

    clean, *hidden = oracles.scores_of(case.network, pictures(), case.target, how["score"])
    found = torch.zeros(case.x.shape[2:])
    for segment, f in enumerate(hidden):
        found[labels == segment] = clean - f
    return found


def captum(case: Case) -> Tensor:
    """Captum's `FeatureAblation` whose features are the segments, (H, W)."""
    with oracles.quiet(), torch.no_grad():
        from captum.attr import FeatureAblation

        network = oracles.scored(oracles.plain_copy(case.network), {**DEFAULTS, **case.params}["score"])
        found = FeatureAblation(network).attribute(
            case.x.clone(),
            feature_mask=labels_of(case).expand(1, 3, -1, -1),
            baselines=filling_of(case).expand_as(case.x),
            target=case.target,
            perturbations_per_eval=16,
        )
    return found[0, 0]


PEERS = {"captum": Peer(captum)}


@pytest.mark.oracle("segment-ablation")
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_equals_captum_and_the_loop_on_real_networks(subjects, name):
    subject, x = subjects(name), oracles.photograph("chelsea", 64)
    params = {"count": 20, "score": "logit"}
    found = subject.explain(SegmentAblation(**params), x, [281]).maps[0].array
    case = Case(subject.plain, x, target=281, params=params)
    largest = subject.plain(x).abs().max()
    assert_within(found, captum(case), 2e-5, largest)
    assert_within(found, oracle(case), 2e-5, largest)


@pytest.mark.oracle("segment-ablation")
@pytest.mark.parametrize("segments", ["slic", "squares"])
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("hidden", ["mean", "black"])
def test_equals_captum_and_the_loop(small, segments, score, hidden):
    subject, x = small(tiny.classifier), tiny_input()
    params = {"segments": segments, "count": 12, "score": score, "hidden": hidden}
    found = subject.explain(SegmentAblation(**params), x, [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        case = Case(subject.plain, x, target=target, params=params)
        assert_within(m.array, oracle(case), 2e-6)
        assert_within(m.array, captum(case), 2e-6)
    drops = oracle(Case(subject.plain, x, target=1, params=params))
    assert_within(torch.tensor(found.details["weights"][0])[labels_of(case)], drops, 2e-6)


def test_segments_that_already_show_their_filling_cost_nothing(small):
    subject, x = small(tiny.classifier), tiny_input()
    x[:, :, :16] = baseline(subject.facts, x, "black")[:, :, :16]
    method, run = SegmentAblation(segments="squares", count=16, hidden="black", score="logit"), Run()
    found = method.explain(subject.probe(run), x, Targets(subject.facts, [2]))
    assert (found.avoided, run.usage.forwards) == (8, 9)
    case = Case(subject.plain, x, target=2, params={**method.model_dump()})
    assert_within(found.maps[0].array, oracle(case), 2e-6)
    plain = subject.explain(SegmentAblation(hidden="grey"), baseline(subject.facts, x, "grey").clone(), [2])
    assert plain.maps[0].array.eq(0).all()  # nothing is left to hide
    assert plain.outputs.shape == (5,)


def test_squares_are_boxes_of_which_only_what_changes_is_computed(small, monkeypatch):
    monkeypatch.setattr("service.engine.incremental.work.PAYS", 0.0)
    subject, x = small(tiny.vgg), tiny_input()
    method, run = SegmentAblation(segments="squares", count=30, hidden="blur", score="logit"), Run()
    whole = subject.explain(method, x, [1, 3])
    with incremental(subject):
        found = method.explain(ModelProbe(subject.model, subject.device, run), x, Targets(subject.facts, [1, 3]))
    assert run.usage.incremental is not None
    for a, b in zip(found.maps, whole.maps, strict=True):
        assert_within(a.array, b.array, 1e-5, b.array.abs().max())
    probe = Watched(subject)
    method.explain(probe, x, Targets(subject.facts, [1]))
    rows = probe.asked[0]
    assert isinstance(rows, Boxes)
    labels = method.labels(subject.facts, x)
    on = torch.cat([torch.ones(1, 30), 1 - torch.eye(30)]).bool()
    assert torch.equal(rows.build(0, 31), method.switched(subject.facts, x, labels, on).build(0, 31))


def test_callers_who_watch_see_the_segments_that_are_done(small):
    subject, x = small(tiny.classifier), tiny_input()
    probe, method = Watched(subject), SegmentAblation(segments="squares", count=4, score="logit")
    found = method.explain(probe, x, Targets(subject.facts, [2])).maps[0].array
    (shown,) = probe.shown
    labels = squares((32, 32), 4)
    for n, m in enumerate(shown):
        assert_close(1 + m, 1 + torch.where(labels < n, found, 0))
    assert len(shown) == 5 == method.passes(subject.facts, 1)
