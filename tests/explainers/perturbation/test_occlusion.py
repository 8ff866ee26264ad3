import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from service.contract import Targets
from service.engine.incremental import Incremental
from service.engine.probe import ModelProbe
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import Run
from service.explainers.perturbation.occlusion import Occlusion, starts
from tests import oracles, tiny
from tests.explainers.conftest import Watched, assert_within, tiny_input
from tests.oracles import Case, Peer

TOLERANCE = 1e-4  # a drop is a small difference of scores
FILLS = {"mean": None, "black": 0.0, "white": 1.0, "grey": 0.5, "#3366cc": (0.2, 0.4, 0.8)}  # in 0..1; None: normalised


def oracle(case: Case) -> Tensor:
    """The mean drop of the windows that cover each pixel."""
    return drops(case)[1]


def drops(case: Case) -> tuple[Tensor, Tensor]:
    """Occlusion, Zeiler & Fergus 2014, one window after the other.

    Returns the grid of drops f(X) - f(X occluded), (rows, columns), and the map (H, W) in which each pixel has the
    mean over the windows that cover it. Windows start at 0, s, 2s, ... until one reaches the far edge.
    """
    how = {"window": 32, "stride": 16, "fill": "mean", "score": "probability", **case.params}
    window, colour = how["window"], FILLS[how["fill"]]
    if colour is None:
        filled = torch.zeros_like(case.x)
    else:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (case.mean, case.std))
        filled = ((torch.tensor(colour).expand(3).view(1, 3, 1, 1) - mean) / std).expand_as(case.x)

    def starts(length: int) -> list[int]:
        found = [0]
        while found[-1] + window < length:
            found.append(found[-1] + how["stride"])
        return found

    tops, lefts = starts(case.x.shape[2]), starts(case.x.shape[3])
    windows = [(slice(top, top + window), slice(left, left + window)) for top in tops for left in lefts]

    def pictures() -> Iterator[Tensor]:
        yield case.x
        for hidden in windows:
            occluded = case.x.clone()
            occluded[:, :, *hidden] = filled[:, :, *hidden]
            yield occluded

    clean, *scores = oracles.scores_of(case.network, pictures(), case.target, how["score"])
    total, covered = torch.zeros(2, *case.x.shape[2:])
    for hidden, score in zip(windows, scores, strict=True):
        total[hidden] += clean - score
        covered[hidden] += 1
    return (clean - torch.stack(scores)).view(len(tops), len(lefts)), total / covered


def captum(case: Case) -> Tensor:
    """Captum's `Occlusion` with a window over all three channels and the model's mean colour, (H, W)."""
    window, stride = case.params["window"], case.params["stride"]
    with oracles.quiet(), torch.no_grad():
        from captum.attr import Occlusion as Theirs

        network = oracles.scored(oracles.plain_copy(case.network), case.params["score"])
        found = Theirs(network).attribute(
            case.x.clone(),
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=0,
            target=case.target,
            perturbations_per_eval=16,
        )
    return found[0, 0]


PEERS = {"captum": Peer(captum, {"window": 32, "stride": 16, "score": "logit"})}


@pytest.mark.oracle("occlusion")
def test_equals_captum(subject, x):
    params = {"window": 48, "stride": 36, "score": "logit"}
    found = subject.explain(Occlusion(**params), x, [281]).maps[0]
    largest = subject.plain(x).abs().max().clamp(min=1)  # rounding is that of the logits, not of their differences
    assert_within(found.array, captum(Case(subject.plain, x, target=281, params=params)), 2e-5, largest)


@pytest.mark.oracle("occlusion")
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize(("window", "stride"), [(8, 8), (7, 5), (32, 32), (40, 3)])
def test_equals_one_forward_per_window(small, fill, score, window, stride):
    _equals_the_definition(small, {"window": window, "stride": stride, "fill": fill, "score": score})


@pytest.mark.oracle("occlusion")
def test_equals_one_forward_per_pixel(small):
    _equals_the_definition(small, {"window": 1, "stride": 1, "score": "logit"})


def _equals_the_definition(small, params):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(Occlusion(**params), x, [1, 3])
    for i, target in enumerate((1, 3)):
        grid, averaged = drops(Case(subject.plain, x, target=target, params=params))
        assert_within(torch.tensor(found.details["grid"][i]), grid, 2e-5)
        assert_within(found.maps[i].array, averaged, 2e-5)


def test_blur_hides_detail_only(small):
    subject = small(tiny.classifier)
    flat = torch.full((1, 3, 32, 32), 0.7)
    found = subject.explain(Occlusion(window=8, stride=8, fill="blur", score="logit"), flat, [0])
    assert float(found.maps[0].array.abs().max()) < 1e-5


def test_windows_that_change_nothing_cost_nothing(small):
    subject, x = small(tiny.classifier), tiny_input()
    x[:, :, :16] = 0  # the upper half already shows the model's mean colour
    found = subject.explain(Occlusion(window=8, stride=8, score="logit"), x, [2])
    assert found.avoided == 8
    case = Case(subject.plain, x, target=2, params={"window": 8, "stride": 8, "score": "logit"})
    assert_within(found.maps[0].array, oracle(case), 2e-5)


def test_what_changes_is_asked_of_the_device_once(small, monkeypatch):
    """Each question to an accelerator waits for all that it was given before."""

    subject, here, asked, equal = small(tiny.classifier), threading.current_thread(), [], torch.equal

    def counted(a, b):
        asked.extend([1] if threading.current_thread() is here else [])  # not those of the device's own thread
        return equal(a, b)

    monkeypatch.setattr(torch, "equal", counted)
    assert subject.explain(Occlusion(window=8, stride=8), tiny_input(), [0]).avoided == 0
    assert len(asked) <= 1


def test_callers_who_watch_see_the_windows_that_are_done(small):
    """Pixels under no window that is done are zero, the others have the mean of those that are."""
    subject, x = small(tiny.classifier), tiny_input()
    x[:, :, :8] = 0  # windows there change nothing, which is known from the start
    method, probe = Occlusion(window=8, stride=8, score="logit"), Watched(subject)
    found = method.explain(probe, x, Targets(subject.facts, [2])).maps[0].array
    (shown,) = probe.shown
    assert len(shown) == 1 + 12
    assert torch.equal(shown[-1], found)
    windows = [m.view(4, 8, 4, 8).abs().amax((1, 3)).ne(0) for m in shown]  # (rows, columns) of the grid
    assert [int(there.sum()) for there in windows] == list(range(13))
    # The first ones are spread over the picture: every second row and column before those between.
    assert windows[2].nonzero().tolist() == [[2, 0], [2, 2]]
    for m, there in zip(shown, windows, strict=True):
        covered = there.repeat_interleave(8, 0).repeat_interleave(8, 1)
        assert torch.equal(m, torch.where(covered, found, 0))


def test_starts_cover_every_pixel():
    for length, window, stride in [(224, 32, 16), (224, 33, 16), (10, 20, 4), (100, 7, 7), (5, 1, 1)]:
        first = starts(length, window, stride)
        covered = {p for s in first for p in range(s, min(s + window, length))}
        assert covered == set(range(length))
        assert len(first) == 1 or first[-2] + window < length  # and none is superfluous


def test_stride_above_window_is_refused():
    with pytest.raises(ValidationError, match="choose a stride of at most the window"):
        Occlusion(window=8, stride=9)


@contextmanager
def incremental(subject):
    """Let a model compute only what boxes reach, however little that pays."""
    model = subject.model
    model.incremental = Incremental.of(model.module, model.example()[:1])
    try:
        yield
    finally:
        model.incremental = None


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (7, 5), (31, 9), (40, 3), (5, 2)])
def test_only_what_changes_is_computed_and_equals_the_whole(small, monkeypatch, window, stride):
    monkeypatch.setattr("service.engine.incremental.work.PAYS", 0.0)
    subject, x = small(tiny.vgg), tiny_input()
    method = Occlusion(window=window, stride=stride, score="logit", fill="#3366cc")
    whole, run = subject.explain(method, x, [1, 3]), Run()
    assert subject.model.incremental is None
    with incremental(subject):
        found = method.explain(ModelProbe(subject.model, subject.device, run), x, Targets(subject.facts, [1, 3]))
    assert run.usage.incremental is not None
    for a, b in zip(found.maps, whole.maps, strict=True):
        assert_within(a.array, b.array, 3e-5, b.array.abs().max())
    torch.testing.assert_close(found.outputs, whole.outputs, rtol=1e-5, atol=1e-6)


def test_real_networks_too(subjects, x):
    for name in ("resnet18", "efficientnet_lite0"):
        subject = subjects(name)
        method = Occlusion(window=32, stride=16, score="logit")
        whole, run = subject.explain(method, x, [281]).maps[0].array, Run()
        with incremental(subject):
            found = method.explain(ModelProbe(subject.model, subject.device, run), x, Targets(subject.facts, [281]))
        assert 0 < run.usage.incremental < 1, name
        assert_within(found.maps[0].array, whole, 3e-5, max(whole.abs().max(), subject.plain(x).abs().max()))


def test_boxes_of_several_pictures_share_batches_within_memory(small, monkeypatch):
    monkeypatch.setattr("service.engine.incremental.work.PAYS", 0.0)
    subject, method = small(tiny.vgg), Occlusion(window=8, stride=4, score="logit")
    pictures = [tiny_input(seed=i) for i in range(6)]
    whole = [subject.explain(method, picture, [1]).maps[0].array for picture in pictures]
    held = []
    with incremental(subject):
        for clean_bytes in (0, 1 << 30):
            device = Device(torch.device("cpu"), max_batch_rows=32, clean_bytes=clean_bytes)
            cut = device._claims.queue.cut
            held.clear()

            def watched(limit_of, cut=cut, waiting=device._claims.queue):
                held.append(sum(getattr(work, "clean", None) is not None for work in waiting))
                return cut(limit_of)

            device._claims.queue.cut = watched
            runs = [Run() for _ in pictures]

            def ask(i, device=device, runs=runs):
                return (
                    method.explain(ModelProbe(subject.model, device, runs[i]), pictures[i], Targets(subject.facts, [1]))
                    .maps[0]
                    .array
                )

            with ThreadPoolExecutor(6) as pool:
                found = list(pool.map(ask, range(6)))
            device.close()
            for a, b in zip(found, whole, strict=True):
                assert_within(a, b, 3e-5, b.abs().max())
            if clean_bytes == 0:
                assert max(held) <= 1  # one after the other
            else:
                assert max(run.usage.batch_rows / run.usage.batches for run in runs) > 8
