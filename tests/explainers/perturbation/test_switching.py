import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from service.contract import Targets
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.explainers.perturbation.kernel_shap import KernelSHAP
from service.explainers.perturbation.lime import LIME
from service.explainers.perturbation.rise import RISE
from service.explainers.perturbation.segment_ablation import SegmentAblation
from service.explainers.perturbation.switching import explained
from service.explainers.segments import slic, squares
from tests import tiny
from tests.engine.scheduler.doubles import held
from tests.explainers.conftest import Watched, assert_close, tiny_input


@pytest.mark.parametrize("hidden", ["mean", "black", "grey", "#3366cc", "blur", "segment"])
def test_rows_show_the_segments_that_are_on(small, hidden):
    facts, x = small(tiny.classifier).facts, tiny_input()
    method = LIME(hidden=hidden, segments="squares", count=4)
    labels = method.labels(facts, x)
    assert torch.equal(labels, squares((32, 32), 4))
    on = torch.tensor([[True] * 4, [False] * 4, [True, False, True, False]])
    rows = method.switched(facts, x, labels, on)
    built = torch.cat([rows.build(0, 1), rows.build(1, 3)])
    filling = built[1]
    assert torch.equal(built[0], x[0])
    assert torch.equal(built[2], torch.where(on[2][labels], x[0], filling))
    if hidden == "segment":
        for i in range(4):
            mean = x[0][:, labels == i].mean(1, keepdim=True)
            assert_close(filling[:, labels == i], mean.expand(3, 256))
    if hidden == "mean":
        assert filling.eq(0).all()
    if hidden in ("black", "grey", "#3366cc"):
        rgb = {"black": (0, 0, 0), "grey": (0.5, 0.5, 0.5), "#3366cc": (0.2, 0.4, 0.8)}[hidden]
        assert_close(facts.shown(filling[None])[0] + 1, 1 + torch.tensor(rgb).view(3, 1, 1).expand(3, 32, 32), 0.003)
    if hidden == "blur":
        assert 0 < float(filling.std()) < 0.5 * float(x.std())


def test_superpixels_are_of_the_picture_as_it_is_shown(small):
    facts, x = small(tiny.classifier).facts, tiny_input()
    assert torch.equal(LIME(count=20).labels(facts, x), slic(facts.shown(x)[0], 20))
    assert int(LIME(count=20).labels(facts, x).max()) + 1 <= LIME(count=20).most(facts) <= 20


def test_methods_of_one_picture_and_cut_share_what_they_both_ask(small):
    """A table is known by its rows: not by the method, nor by what is made of it."""
    subject = small(tiny.classifier)

    def key(method, x=None):
        probe = Watched(subject)
        method.explain(probe, tiny_input() if x is None else x, Targets(subject.facts, [1]))
        return probe.asked[0].key

    given = {"samples": 20, "count": 4}
    same = [LIME(**given), LIME(score="logit", **given), LIME(width=1.0, ridge=3.0, **given)]
    assert len({key(method) for method in same}) == 1
    others = [
        LIME(**given, segments="squares"),
        LIME(**given, hidden="black"),
        LIME(**given, seed=1),
        LIME(count=4, samples=21),
        LIME(count=6, samples=20),
        KernelSHAP(**given),
        SegmentAblation(count=4),
    ]
    assert len({key(same[0]), key(same[0], tiny_input(seed=9)), *map(key, others)}) == 9
    facts, x = subject.facts, tiny_input()
    on = torch.rand(5, 4) < 0.5
    one, other = LIME(count=4), KernelSHAP(count=4)
    labels = one.labels(facts, x)
    assert one.switched(facts, x, labels, on).key == other.switched(facts, x, labels, on).key


@pytest.mark.parametrize("method", [LIME(samples=40, count=9), KernelSHAP(samples=40, count=9)])
def test_a_second_target_takes_no_forward(small, method):
    subject, x = small(tiny.classifier), tiny_input()
    runs = [Run(), Run()]
    for run, targets in zip(runs, ([1], [1, 2, 3]), strict=True):
        found = method.explain(subject.probe(run), x, Targets(subject.facts, targets))
        assert len(found.maps) == len(targets)
    assert runs[0].usage.forwards == runs[1].usage.forwards + runs[1].usage.avoided > 0


def test_maps_have_each_segments_weight(small):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(LIME(samples=40, count=9), x, [1, 3])
    labels = LIME(count=9).labels(subject.facts, x)
    for m, weights in zip(found.maps, found.details["weights"], strict=True):
        assert len(weights) == found.details["segments"] == int(labels.max()) + 1
        assert_close(m.array, torch.tensor(weights)[labels])
        assert (m.kind, m.interpolation) == ("regions", "nearest")


def test_what_a_fit_explains():
    w = torch.tensor([1.0, 2.0, 1.0]).double()
    y = torch.tensor([[0.0, 5.0, 1.0], [1.0, 5.0, 1.0], [2.0, 5.0, 4.0]]).double()
    fitted = torch.tensor([[0.0, 5.0, 2.0], [1.0, 5.0, 2.0], [2.0, 5.0, 2.0]]).double()
    # Of the last column: mean 7/4, variation 1(9/16) + 2(9/16) + 1(81/16) = 27/4; left 1 + 2 + 4.
    exact, flat, poor = explained(y, fitted, w)
    assert exact == 1
    assert flat is None
    assert poor == pytest.approx(1 - 7 / 6.75)


def test_rows_of_several_requests_share_batches_and_answer_as_alone(small, monkeypatch):
    subject, x = small(tiny.classifier), tiny_input()
    methods = [RISE(masks=20), LIME(samples=16, count=4), KernelSHAP(samples=16, count=5), SegmentAblation(count=9)]
    targets, runs = Targets(subject.facts, [1]), [Run() for _ in methods]
    alone = [subject.explain(method, x, [1]).maps[0].array for method in methods]
    device, queued = Device(torch.device("cpu"), max_batch_rows=64), threading.Semaphore(0)
    put = device.put

    def counted(work, run):
        ticket = put(work, run)
        queued.release()
        return ticket

    with ThreadPoolExecutor(len(methods)) as pool:
        with held(device):
            monkeypatch.setattr(device, "put", counted)
            asked = [
                pool.submit(method.explain, subject.probe(run, device), x, targets)
                for method, run in zip(methods, runs, strict=True)
            ]
            for _ in methods:
                assert queued.acquire(timeout=20)
        found = [one.result().maps[0].array for one in asked]
    device.close()
    for a, b in zip(found, alone, strict=True):
        assert_close(a, b, 1e-4)
    rows = sum(run.usage.forwards for run in runs)
    assert [run.usage.batches for run in runs] == [1] * len(methods)
    assert {run.usage.batch_rows for run in runs} == {rows}
