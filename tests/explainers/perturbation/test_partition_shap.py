import itertools

import pytest
import torch
from torch import Tensor

from service.contract import Targets
from service.engine.scheduler.run import Run
from service.explainers.baselines import baseline
from service.explainers.perturbation.partition_shap import MOST_AT_ONCE, Node, PartitionSHAP, most_urgent
from tests import oracles, tiny
from tests.explainers.conftest import Watched, assert_close, tiny_input
from tests.oracles import Case
from tests.plain import PlainProbe

DEFAULTS = {"score": "probability", "evaluations": 500, "hidden": "blur"}
TOLERANCE = 1e-4  # values are small differences of scores


def blurred(x: Tensor) -> Tensor:
    """Return the picture blurred by a deviation of 20 pixels of 224, edges continued."""
    from scipy.ndimage import gaussian_filter

    deviation = 20 * min(x.shape[2:]) / 224
    smooth = gaussian_filter(x.double().numpy(), (0, 0, deviation, deviation), mode="nearest", truncate=4)
    return torch.from_numpy(smooth).float()


class Rounds(Watched):
    """Watches the rounds: of the two ends, which come first, nothing is drawn."""

    def scores(self, rows, *, sketch=None):
        if sketch is None:
            self.asked.append(rows)
            return PlainProbe.scores(self, rows)
        return super().scores(rows, sketch=sketch)


def halves(box: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """Return a rectangle (left, top, right, bottom) cut across its longer side, or below one row."""
    x0, y0, x1, y1 = box
    if x1 - x0 > y1 - y0:
        return [(x0, y0, (x0 + x1) // 2, y1), ((x0 + x1) // 2, y0, x1, y1)]
    return [(x0, y0, x1, (y0 + y1) // 2), (x0, (y0 + y1) // 2, x1, y1)]


def oracle(case: Case) -> Tensor:
    """Owen values over the tree, one mask after the other; each round halves the most urgent half of what there is."""
    how = {**DEFAULTS, **case.params}
    height, width = case.x.shape[2:]
    filling = blurred(case.x) if how["hidden"] == "blur" else torch.zeros_like(case.x)

    def f(shown: Tensor) -> float:
        return float(
            oracles.scores_of(case.network, [torch.where(shown, case.x, filling)], case.target, how["score"])[0]
        )

    def mask(box: tuple[int, int, int, int]) -> Tensor:
        painted = torch.zeros(height, width, dtype=torch.bool)
        painted[box[1] : box[3], box[0] : box[2]] = True
        return painted

    none, all_of_it = torch.zeros(height, width, dtype=torch.bool), torch.ones(height, width, dtype=torch.bool)
    # (rectangle, what shows before it, its share of the orders, f before, f after)
    nodes = [((0, 0, width, height), none, 1.0, f(none), f(all_of_it))]
    left = (how["evaluations"] - 2) // 2
    while left:
        areas = [(b[2] - b[0]) * (b[3] - b[1]) for b, *_ in nodes]
        urgency = [-abs(w * (after - before)) * a for (_, _, w, before, after), a in zip(nodes, areas, strict=True)]
        order = sorted((u, i) for i, u in enumerate(urgency) if areas[i] > 1)
        going = {i for _, i in order[: min(left, 16, max(1, len(order) // 2))]}
        following = []
        for i, (box, before_it, weight, before, after) in enumerate(nodes):
            if i not in going:
                following.append(nodes[i])
                continue
            one, other = halves(box)
            with_one, with_other = before_it | mask(one), before_it | mask(other)
            f_one, f_other = f(with_one), f(with_other)
            following += [
                (one, before_it, weight / 2, before, f_one),
                (other, before_it, weight / 2, before, f_other),
                (one, with_other, weight / 2, f_other, after),
                (other, with_one, weight / 2, f_one, after),
            ]
        left -= len(going)
        nodes = following
    found = torch.zeros(height, width, dtype=torch.float64)
    for (x0, y0, x1, y1), _, weight, before, after in nodes:
        found[y0:y1, x0:x1] += weight * (after - before) / ((x1 - x0) * (y1 - y0))
    return found.float()


def orders(boxes: list) -> list[list]:
    """Return all orders of eight cells in which each rectangle's halves stay together."""
    if len(boxes) == 1:
        return [boxes]
    one, other = boxes[: len(boxes) // 2], boxes[len(boxes) // 2 :]
    both = list(itertools.product(orders(one), orders(other)))
    return [[*a, *b] for a, b in both] + [[*b, *a] for a, b in both]


@pytest.mark.oracle("partition-shap")
@pytest.mark.parametrize("hidden", ["blur", "mean"])
def test_are_owen_values_where_the_tree_is_down_to_its_leaves(small, hidden):
    """Of a tree of eight cells: the mean of what each adds, over all 128 orders that the tree allows."""
    subject, x = small(tiny.vgg), tiny_input()
    # A full tree of eight cells takes 1 + 4 + 16 halvings: rounds of 1, 2, 2, 5, 8, 3 happen to fill each level, as
    # `most_urgent` is told to go by area alone.
    method = PartitionSHAP(evaluations=2 + 2 * 21, hidden=hidden, score="logit")
    cells = [(0, 0, 32, 32)]
    for _ in range(3):
        cells = [half for box in cells for half in halves(box)]
    filling = blurred(x) if hidden == "blur" else torch.zeros_like(x)

    def f(shown: list) -> float:
        built = filling.clone()
        for x0, y0, x1, y1 in shown:
            built[:, :, y0:y1, x0:x1] = x[:, :, y0:y1, x0:x1]
        return float(oracles.scores_of(subject.plain, [built], 1, "logit")[0])

    met: dict[tuple, float] = {}
    owen = dict.fromkeys(cells, 0.0)
    allowed = orders(cells)
    assert len(allowed) == 128
    for order in allowed:
        for i, box in enumerate(order):
            for shown in (order[:i], order[: i + 1]):
                if tuple(sorted(shown)) not in met:
                    met[tuple(sorted(shown))] = f(shown)
            owen[box] += (met[tuple(sorted(order[: i + 1]))] - met[tuple(sorted(order[:i]))]) / 128
    patch = pytest.MonkeyPatch()
    patch.setattr(Node, "urgency", property(lambda node: float(node.area)))
    found = subject.explain(method, x, [1])
    patch.undo()
    assert found.details["evaluations"] == [44]
    assert found.details["rectangles"] == [8]
    expected = torch.zeros(32, 32)
    for (x0, y0, x1, y1), value in owen.items():
        expected[y0:y1, x0:x1] = value / ((x1 - x0) * (y1 - y0))
    assert_close(found.maps[0].array, expected, 2e-5)


@pytest.mark.oracle("partition-shap")
@pytest.mark.parametrize("params", [{}, {"hidden": "mean"}, {"score": "logit", "evaluations": 17}])
def test_equals_one_mask_after_the_other(small, params):
    subject, x = small(tiny.vgg), tiny_input()
    params = {"evaluations": 90, **params}
    found = subject.explain(PartitionSHAP(**params), x, [1])
    assert_close(found.maps[0].array, oracle(Case(subject.plain, x, target=1, params=params)), 1e-4)


@pytest.mark.oracle("partition-shap")
def test_equals_one_mask_after_the_other_on_a_real_network(subjects):
    subject, x = subjects("resnet18"), oracles.photograph("chelsea", 64)
    params = {"evaluations": 40}
    found = subject.explain(PartitionSHAP(**params), x, [281])
    assert_close(found.maps[0].array, oracle(Case(subject.plain, x, target=281, params=params)), TOLERANCE)


@pytest.mark.oracle("partition-shap")
@pytest.mark.parametrize("evaluations", [16, 17, 500])
def test_values_add_up_to_what_hiding_all_changes(small, evaluations):
    subject, x = small(tiny.classifier), tiny_input()
    run, method = Run(), PartitionSHAP(evaluations=evaluations, score="logit")
    found = method.explain(subject.probe(run), x, Targets(subject.facts, [1, 3]))
    change = (subject.plain(x) - subject.plain(baseline(subject.facts, x, "blur")))[0, [1, 3]]
    sums = torch.stack([m.array.double().sum() for m in found.maps]).float()
    assert_close(sums, change, 1e-5)
    assert_close(torch.tensor(found.details["change"]), change, 1e-5)
    assert max(map(abs, found.details["residual"])) < 1e-10
    assert found.details["evaluations"] == [evaluations // 2 * 2] * 2
    assert 2 + 2 * (evaluations // 2 * 2 - 2) == run.usage.forwards + run.usage.avoided + found.avoided
    assert not found.exact


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_a_map_is_the_same_whatever_else_is_asked(small, score):
    """Each target's tree is its own: a peer, and a tree that goes by the largest of all, halve where another's is."""
    subject, x = small(tiny.vgg), tiny_input()
    method = PartitionSHAP(evaluations=50, score=score)
    together = subject.explain(method, x, [0, 1, 2, 3])
    for i, target in enumerate(range(4)):
        alone = subject.explain(method, x, [target])
        assert_close(together.maps[i].array, alone.maps[0].array, 1e-4)
        assert together.details["rectangles"][i : i + 1] == alone.details["rectangles"]


def test_down_to_single_pixels_they_are_exact(small):
    """What is a sum over pixels has each pixel's summand."""
    subject = small(tiny.Shares)
    x = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = PartitionSHAP(evaluations=64, hidden="mean", score="logit").explain(
        Rounds(subject), x, Targets(subject.facts, [0, 1])
    )
    assert found.exact
    assert found.details["evaluations"] == [2 + 2 * 5] * 2
    u = x[0, 0]
    assert_close(found.maps[0].array, torch.tensor([[1.0, 2.0], [-3.0, 4.0]]) * u)
    product = u[0, 0] * u[1, 1] / 2  # of two pixels; each has one half
    assert_close(found.maps[1].array, torch.stack([product, product]).diag())


def test_rectangles_are_halved_across_their_longer_side():
    node = Node((2, 3, 9, 5), ((0, 0, 1, 1),), 0.5, 1.0, 3.0)
    assert node.area == 14
    assert node.urgency == 14
    assert node.halves() == ((2, 3, 5, 5), (5, 3, 9, 5))
    assert node.shown() == [((0, 0, 1, 1), (2, 3, 5, 5)), ((0, 0, 1, 1), (5, 3, 9, 5))]
    first, second, third, fourth = node.split(1.5, 2.5)
    assert [n.box for n in (first, second, third, fourth)] == [(2, 3, 5, 5), (5, 3, 9, 5)] * 2
    assert third.context == ((0, 0, 1, 1), (5, 3, 9, 5))
    assert fourth.context == ((0, 0, 1, 1), (2, 3, 5, 5))
    assert [n.value for n in (first, second, third, fourth)] == [0.125, 0.375, 0.125, 0.375]
    assert Node((0, 0, 3, 4), (), 1, 1, 1).halves() == ((0, 0, 3, 2), (0, 2, 3, 4))


def test_the_most_urgent_go_first_but_no_more_than_a_batch_takes():
    nodes = [Node((0, 0, i % 7 + 1, 2), (), 1.0, 0.0, float(i % 5)) for i in range(60)]
    chosen = most_urgent(nodes, 1000)
    assert len(chosen) == MOST_AT_ONCE
    assert min(nodes[i].urgency for i in chosen) >= max(n.urgency for i, n in enumerate(nodes) if i not in chosen)
    assert chosen == sorted(chosen)
    assert len(most_urgent(nodes, 3)) == 3
    assert len(most_urgent(nodes[:8], 1000)) == 4
    pixel = Node((0, 0, 1, 1), (), 1.0, 0.0, 1.0)
    assert most_urgent([pixel], 5) == []


def test_the_same_again_is_answered_from_memory(small):
    """Each round is known by its rectangles."""
    subject, x = small(tiny.classifier), tiny_input()
    keys = []
    for params in ({}, {}, {"hidden": "mean"}):
        probe = Rounds(subject)
        PartitionSHAP(evaluations=40, **params).explain(probe, x, Targets(subject.facts, [1]))
        keys.append([rows.key for rows in probe.asked])
    assert keys[0] == keys[1]
    assert len({*keys[0], *keys[2]}) == len(keys[0]) + len(keys[2])


def test_callers_who_watch_see_what_the_rounds_before_found(small):
    subject, x = small(tiny.classifier), tiny_input()

    probe = Rounds(subject)
    found = PartitionSHAP(evaluations=40, score="logit").explain(probe, x, Targets(subject.facts, [2]))
    for shown in probe.shown:
        for m in shown:
            assert torch.equal(m, shown[0])
            assert float(m.double().sum()) == pytest.approx(found.details["change"][0], abs=1e-6)
    assert len(probe.shown[0][0].unique()) == 1
    assert len({shown[0].std().item() for shown in probe.shown}) == len(probe.shown)
