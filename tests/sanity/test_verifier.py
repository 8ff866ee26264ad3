"""Verdicts on the small networks: planted failures are caught, and what is found is kept."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from service.contract import Explanation, Map, Rows
from service.errors import EngineUnavailable, ModelOutput
from service.explainers.cam.grad_cam import GradCAM
from service.explainers.cam.score_cam import ScoreCAM
from service.explainers.perturbation.occlusion import Occlusion
from service.images import crops
from service.sanity import cutting
from service.sanity import verifier as module
from service.sanity.permuting import permute
from service.sanity.verifier import Verifier
from service.settings import Settings
from tests.tiny import classifier

OPEN = threading.Event()
FEW = ["grad-cam", "saliency", "cam", "eigen-cam", "filters", "ram", "feature-maps"]


@pytest.fixture
def verify(tiny, tmp_path):  # type: ignore[no-untyped-def]
    entry = tiny.store.entry("tiny")

    def run(only=FEW, closing=OPEN, settings=None):  # type: ignore[no-untyped-def]
        made = Verifier(tiny.device, settings or Settings(cache_dir=tmp_path))
        return made, made.verify(entry.spec, entry.model, closing, only)

    return run


def test_every_method_has_a_verdict_or_a_reason(verify, tiny) -> None:
    said = list(tiny.store.entry("tiny").spec.said)
    made, found = verify()
    assert set(found) == set(FEW)
    for name in ("grad-cam", "saliency", "cam"):
        one = found[name]
        assert one.verdict != "not yet tested"
        assert one.pictures == 8
        assert one.random_logit is not None
        assert [stage.share for stage in one.stages] == [0.25, 0.5, 0.75, 1.0]
    assert found["eigen-cam"].random_logit is None
    assert found["filters"].reason == "it looks at no picture"
    assert found["ram"].verdict == "not yet tested"
    version = tiny.store.get("tiny").version
    assert made.verdict(version, "cam") == found["cam"]
    assert made.verdict(version, "rise").verdict == "not yet tested"
    assert list(tiny.store.entry("tiny").spec.said) == said


def _planted(monkeypatch, make) -> None:  # type: ignore[no-untyped-def]
    def explain(self, probe, image, targets):  # type: ignore[no-untyped-def]
        outputs = probe.scores(Rows.of(image))[0]
        return Explanation([Map(self.name, make(image), target=t) for t in targets.chosen(outputs)], {}, outputs)

    monkeypatch.setattr(GradCAM, "explain", explain)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda image: (image[0].mean(0).diff(dim=0)[:, :-1]).abs(), "learnt nothing"),  # an edge detector
        (lambda image: torch.ones(8, 8), "flat"),
    ],
    ids=["edges", "constant"],
)
def test_what_ignores_the_network_fails(verify, monkeypatch, make, why) -> None:
    _planted(monkeypatch, make)
    _, found = verify(["grad-cam"])
    assert found["grad-cam"].verdict == "fails"
    assert why in found["grad-cam"].reason


def test_what_ignores_the_class_fails(verify, monkeypatch) -> None:
    """It depends on the weights, and not on the class."""

    def explain(self, probe, image, targets):  # type: ignore[no-untyped-def]
        found = Occlusion(window=8, stride=8).explain(probe, image, targets.__class__(targets.facts, [0]))
        outputs = found.outputs
        return replace(found, maps=[replace(found.maps[0], target=t) for t in targets.chosen(outputs)])

    monkeypatch.setattr(GradCAM, "explain", explain)
    _, found = verify(["grad-cam"])
    assert found["grad-cam"].verdict == "fails"
    assert found["grad-cam"].random_logit == pytest.approx(1)


def test_what_is_found_is_kept(verify, monkeypatch) -> None:
    _, found = verify(["cam"])
    monkeypatch.setattr(Verifier, "_copy", None)  # it would be called
    _, again = verify(["cam"])
    assert again["cam"] == found["cam"]


def test_what_was_found_earlier_is_told_where_nothing_is_tested(verify, tiny, tmp_path) -> None:
    _, found = verify(["cam"])
    model = tiny.store.get("tiny")
    told = Verifier(tiny.device, Settings(cache_dir=tmp_path), tests=False)
    assert told.verdict(model.version, "cam") is None
    told.recall(model)
    assert told.verdict(model.version, "cam") == found["cam"]
    assert told.verdict(model.version, "rise") is None


@pytest.mark.parametrize(("off", "same"), [(0.0, True), (5e-4, True), (2e-3, False), (float("nan"), False)])
def test_what_was_found_belongs_to_what_answers_alike(verify, tiny, tmp_path, off, same) -> None:
    """The same weights in other code, or with another library, are another network."""
    _, found = verify(["cam"])
    model = tiny.store.get("tiny")
    (file,) = tmp_path.glob("sanity-*.json")
    stored = json.loads(file.read_text())
    stored["answer"][2] += off * max(map(abs, stored["answer"]))
    file.write_text(json.dumps(stored))
    again = Verifier(tiny.device, Settings(cache_dir=tmp_path))
    again.recall(model)
    assert (again.verdict(model.version, "cam") == found["cam"]) is same


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"cam": {"verdict": "passes"}},
        {"answer": 3, "verdicts": {}},
        {"answer": [10**400] * 5, "verdicts": {}},
        {"verdicts": []},
        {"answer": [], "verdicts": {"cam": {"verdict": "passes", "mprt": float("nan")}}},
        {"answer": [], "verdicts": {"cam": {"verdict": "passes", "passes": 10**400}}},
    ],
)
def test_what_is_kept_in_another_form_is_found_anew(verify, tiny, tmp_path, form) -> None:
    verify(["cam"])
    (file,) = tmp_path.glob("sanity-*.json")
    file.write_text(json.dumps(form))
    again = Verifier(tiny.device, Settings(cache_dir=tmp_path))
    again.recall(tiny.store.get("tiny"))
    assert again.verdict(tiny.store.get("tiny").version, "cam").verdict == "not yet tested"
    assert file.with_suffix(".damaged").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ModelOutput("outputs are infinite"), "infinite"), (ZeroDivisionError(), "defect")],
    ids=["answer", "defect"],
)
@pytest.mark.parametrize("staged", [cutting.MOST, 0], ids=["stages", "last stage"])
def test_a_method_that_fails_fails_alone(verify, monkeypatch, error, reason, staged) -> None:  # type: ignore[no-untyped-def]
    def broken(self, probe, image, targets):  # type: ignore[no-untyped-def]
        raise error

    monkeypatch.setattr(module, "STAGED", staged)
    monkeypatch.setattr(GradCAM, "explain", broken)
    _, found = verify(["grad-cam", "cam"])
    assert found["grad-cam"].verdict == "not yet tested"
    assert reason in found["grad-cam"].reason
    assert found["cam"].verdict != "not yet tested"


def test_what_was_found_before_the_end_is_kept(verify, monkeypatch) -> None:
    """Methods above the bound of stages are tested one after the other, the cheapest first."""
    closing, explain = threading.Event(), Occlusion.explain

    def last(self, probe, image, targets):  # type: ignore[no-untyped-def]
        closing.set()
        return explain(self, probe, image, targets)

    monkeypatch.setattr(module, "STAGED", 0)
    monkeypatch.setattr(Occlusion, "explain", last)
    with pytest.raises(EngineUnavailable):
        verify(["occlusion", "cam"], closing)
    monkeypatch.setattr(Verifier, "_copy", None)  # it would be called
    _, found = verify(["cam"])
    assert found["cam"].verdict != "not yet tested"
    assert found["cam"].passes > 0


def test_closing_ends_it(verify) -> None:
    closing = threading.Event()
    closing.set()
    with pytest.raises(EngineUnavailable):
        verify(["cam"], closing)


def test_where_memory_runs_out_it_says_so(verify, monkeypatch) -> None:
    def full(*_):  # type: ignore[no-untyped-def]
        raise MemoryError

    monkeypatch.setattr(module, "Model", full)
    _, found = verify(["cam"])
    assert (found["cam"].verdict, found["cam"].reason) == ("not yet tested", "memory")


def test_who_needs_the_memory_of_a_copy_gets_it(verify, tiny, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """What the copy itself lacked is met by smaller batches; what others lack, by giving it up."""
    explain, asked, limits = GradCAM.explain, [], tiny.device.limits

    def lacking(self, probe, image, targets):  # type: ignore[no-untyped-def]
        asked.append(probe.facts.name)
        if asked[-1] == "tiny-permuted":
            limits.lacked(
                probe._model if len(asked) == 17 else "another network"
            )  # after eight pictures and a class each
        return explain(self, probe, image, targets)

    monkeypatch.setattr(GradCAM, "explain", lacking)
    _, found = verify(["grad-cam", "cam"])
    assert asked[16:] == ["tiny-permuted"] * 2
    assert {(one.verdict, one.reason) for one in found.values()} == {("not yet tested", "memory")}


def test_numbers_are_those_of_a_slow_loop(verify, tiny) -> None:  # type: ignore[no-untyped-def]
    """A backward of its own for each map, through the plain network; SciPy's ranks, scikit-image's likeness."""
    pictures = crops(tiny.store.entry("tiny").spec.transform)
    plain, permuted = classifier(), classifier()
    permute(permuted, 1.0, pictures)

    def slowly(network, picture, c):  # type: ignore[no-untyped-def]
        x = picture[None].clone().requires_grad_()
        return torch.autograd.grad(network(x)[0, c], x)[0][0].abs().amax(0).double().numpy()

    ranks, shapes, classes = [], [], []
    for picture in pictures:
        logits = plain(picture[None])[0].tolist()
        order = sorted(range(5), key=lambda c: -logits[c])
        before, after, low = (
            slowly(network, picture, c) for network, c in ((plain, order[0]), (permuted, order[0]), (plain, order[3]))
        )
        ranks.append(spearmanr(before.ravel(), after.ravel()).statistic)
        classes.append(spearmanr(before.ravel(), low.ravel()).statistic)
        a, b = (one / (one**2).mean() ** 0.5 for one in (before, after))
        reach = max(a.max(), b.max()) - min(a.min(), b.min())
        shapes.append(structural_similarity(a, b, win_size=7, data_range=reach))
    found = verify(["saliency"])[1]["saliency"]
    assert found.mprt == pytest.approx(sum(map(abs, ranks)) / 8, abs=1e-3)
    assert found.random_logit == pytest.approx(sum(map(abs, classes)) / 8, abs=1e-3)
    assert found.stages[-1].spearman == pytest.approx(sum(ranks) / 8, abs=1e-3)
    assert found.stages[-1].ssim == pytest.approx(sum(shapes) / 8, abs=1e-3)


def test_what_goes_beyond_the_budget_is_left_out(verify, monkeypatch) -> None:
    monkeypatch.setattr(module, "BUDGET", 8 * 6 * 2)
    _, found = verify(["cam", "occlusion"])
    assert found["occlusion"].verdict == "not yet tested"
    assert "passes" in found["occlusion"].reason
    assert found["cam"].verdict != "not yet tested"


def test_it_gives_way_to_everybody_after_each_batch(verify, tiny, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """All of it is rows and traces of the least priority, which the device cuts into batches: no step of its own."""
    seen, put = set(), tiny.device.put

    def noting(work, run):  # type: ignore[no-untyped-def]
        seen.add((work.kind, run.priority))
        return put(work, run)

    monkeypatch.setattr(tiny.device, "put", noting)
    verify(["saliency", "occlusion"])
    # A call of one row is what it is known again by.
    assert seen == {("rows", module.IDLE), ("traces", module.IDLE), ("none", module.IDLE)}
    assert module.IDLE < -10  # what requests may ask for at least


def test_so_many_channels_are_seen_as_the_verdict_says(verify, tiny, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(cutting, "MOST", 6)
    seen, explain = set(), ScoreCAM.explain

    def noting(self, probe, image, targets):  # type: ignore[no-untyped-def]
        found = explain(self, probe, image, targets)
        seen.add(len(found.details["cic"][0]))
        return found

    monkeypatch.setattr(ScoreCAM, "explain", noting)
    _, found = verify(["score-cam"])
    whole = tiny.store.get("tiny").facts.layer(None).shape[0]
    (channels,) = seen
    assert channels == 6 * whole // (whole + 2)
    assert found["score-cam"].cut == [f"channels: the {channels} strongest ones of {whole}"]
