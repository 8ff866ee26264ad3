"""Five tasks over HTTP, held against where shapes were painted: each target's map has to lie on its own shape.

Two shapes of different kinds are in each picture, and each is a target once. A map that ignores its target is the same
for both, so that what of it lies on the target's own shape, and not on the other one, is one half on average whatever
the map shows. That is what no method may come near to.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from annotated_types import Ge
from PIL import Image
from pydantic.fields import FieldInfo

from service.explainers.base import registry
from service.settings import Settings
from tests.conftest import serving
from tests.training.shapes.asking import HELD_OUT, mask, pairs, question, text, upload, uploaded
from tests.training.shapes.learning import inputs, knows, train
from tests.training.shapes.networks import CATALOG, HERE, NETWORKS, trained
from tests.training.shapes.painting import KINDS, SIDE, paint, paint_many

SCENES = 3
NEAR = 6  # pixels around a shape in which a map may lie: edges are seen from both sides
FEW = {"cam": 2, "gradient": 4}  # samples of a family's methods; others need what hides each part now and then
OTHERS = 200
# What is made for pictures of 224 pixels, on these of 96.
CLOSER: Mapping[str, Mapping[str, Any]] = {
    "extremal-perturbation": {"grain": 6, "smoothness": 12, "steps": 30},
    "guided-ig": {"steps": 20},
    "occlusion": {"window": 16, "stride": 8},
    # Soft spots of black on the ground are shapes, too, to networks that know shapes by their contrast.
    "rise": {"space": "normalised", "masks": 1000},
    "sobol": {"designs": 8},
    "partition-shap": {"evaluations": 200},
}
NUMBERS = {"array": "base64", "heatmap": False, "overlay": False}
scenes = cache(lambda: pairs(SCENES))


@pytest.fixture(scope="module")
def client():
    with serving(Settings(catalog=CATALOG, device="cpu")) as client:
        yield client


def ask(client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def arrays(client, method: str, body: dict[str, Any], params: dict[str, Any]) -> list[np.ndarray]:
    """Return the positive part of each target's map, (96, 96)."""
    found = ask(client, f"/explain/{method}", body | {"params": params, "output": NUMBERS})
    return [enlarged(m["array"]) for m in found["maps"]]


def enlarged(array: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(array["data"]), np.float32).reshape(array["shape"])
    heat = np.abs(values).sum(0) if values.ndim == 3 else values.clip(min=0)  # a picture in colours has no sign
    drawn = Image.fromarray(heat).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(drawn, dtype=np.float64)


def around(box: Sequence[int]) -> np.ndarray:
    """Return the pixels in a box and near it, (96, 96)."""
    x0, y0, x1, y1 = box
    inside = np.zeros((SIDE, SIDE), bool)
    inside[max(y0 - NEAR, 0) : y1 + NEAR, max(x0 - NEAR, 0) : x1 + NEAR] = True
    return inside


class Figures(NamedTuple):
    """How well maps lie where their shapes are; each the mean over pictures and targets."""

    own: float
    """Of what lies on the two shapes, the share that lies on the target's own: 0.5 where the target is ignored."""
    inside: float
    """Of all that is positive, the share that lies on the target's own shape, over that of the area: 1 is chance."""
    either: float
    """The same of both shapes together."""
    pointing: float
    """Share of the maps whose largest value lies on the target's own shape: at most 0.5 where it is ignored."""


def figures(maps: Sequence[tuple[np.ndarray, Sequence[int], Sequence[int]]]) -> Figures:
    """Return the figures of maps, each with the box of its shape and that of the other one."""
    rows = []
    for values, own, other in maps:
        here, there = around(own), around(other)
        on, off, total = values[here & ~there].sum(), values[there & ~here].sum(), values.sum()
        shares = [values[where].sum() / total / where.mean() if total else 0.0 for where in (here, here | there)]
        pointed = bool(total and here.flat[values.argmax()])
        rows.append((on / (on + off) if on + off else 0.5, *shares, pointed))
    return Figures(*np.array(rows, dtype=float).mean(0).tolist())


# What a method needs to tell targets apart. An absolute gradient is large wherever anything speaks for or against the
# target, and the softmax of some thirty numbers within 0..1 is nearly the same for all of them.
SIGNED = {"sign": "signed", "times_input": True}
TELLING: Mapping[str, Mapping[str, Any]] = {"weights": {"weights": "raw"}, "times_input": SIGNED}


def telling(method: str) -> dict[str, Any]:
    """Return the parameters of a method under which its maps depend on the target."""
    fields = registry()[method].model_fields
    return {key: value for field, params in TELLING.items() if field in fields for key, value in params.items()}


def explained(client, model: str, method: str, params: Mapping[str, Any], pictures: int = SCENES) -> Figures:
    """Return the figures of a method's maps of both shapes of some pictures."""
    fields = registry()[method].model_fields
    closer = CLOSER.get(method, {})
    count = FEW.get(registry()[method].family, OTHERS)
    few = {"samples": _least(fields["samples"], count)} if "samples" in fields else {}
    maps = []
    for pair in scenes()[:pictures]:
        one, other = (shape.box for shape in pair.scene.shapes)
        found = arrays(client, method, dict(question(model, pair)), {**closer, **few, **params})
        if method in LEVEL:
            found = [(heat - heat.mean()).clip(min=0) for heat in found]
        maps += [(found[0], one, other), (found[1], other, one)]
    return figures(maps)


def _least(field: FieldInfo, count: int) -> int:
    """Return a number, or the least one above it that a field takes."""
    return max([count, *(bound.ge for bound in field.metadata if isinstance(bound, Ge))])


def applies(client, model: str, method: str) -> bool:
    """Whether a method applies to a network, as the service says."""
    uses = client.get(f"/models/{model}").json()["methods"]
    return next(use["applies"] for use in uses if use["name"] == method)


METHODS = [name for name, cls in registry().items() if cls.takes_targets and cls.needs_image]
# How much of its map a method has to have on the target's own shape, and not the other one, on all networks.
OWN: Mapping[str, float] = {
    "cam": 0.9,
    "grad-cam": 0.9,
    "occlusion": 0.95,
    "layer-cam": 0.7,
    "xgrad-cam": 0.7,
    "grad-cam++": 0.6,
    "saliency": 0.55,
    "score-cam": 0.53,
    "ss-cam": 0.53,
    "is-cam": 0.53,
}
LEVEL = {"recipro-cam", "rise"}  # whose maps are scores, and not differences of them: what is above their mean counts
SHARP = 0.7  # from where on the largest value has to lie there, too


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_each_target_s_map_lies_on_its_own_shape(client, model, method) -> None:
    if applies(client, model, method):
        # Of those that promise no side, as absolute values, it is asked that they lie on shapes at all.
        found = explained(client, model, method, telling(method), SCENES if method in OWN else 1)
        assert found.own > OWN.get(method, 0.44)
        assert found.either > 1.05
        if OWN.get(method, 0) > SHARP:
            assert found.pointing > 0.8
    else:
        assert method not in ("occlusion", "score-cam", "saliency", "grad-cam")
        answer = client.post(f"/explain/{method}", json=dict(question(model, scenes()[0])))
        assert answer.status_code == 422
        assert answer.json()["type"].endswith("not-applicable")


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("method", [method for method in METHODS if telling(method)])
def test_maps_lie_on_shapes_by_default(client, model, method) -> None:
    if applies(client, model, method):
        found = explained(client, model, method, {})
        assert found.either > 1.1


def test_a_network_that_knows_nothing_shows_nothing_of_its_target(tmp_path) -> None:
    """The same measure, on weights that were never trained: no picture is so easy that any map would do."""
    known = CATALOG.read_text("utf-8").partition("[models.grey]")[2].replace('"kinds.txt"', f'"{HERE / "kinds.txt"}"')
    (tmp_path / "models.toml").write_text("[models.grey]" + known.replace('"grey.safetensors"', '"random"'))
    with serving(Settings(catalog=tmp_path / "models.toml", device="cpu")) as random:
        for method in ("grad-cam", "occlusion"):
            found = explained(random, "grey", method, {})
            assert found.own < 0.65
            assert found.pointing <= 0.7


def test_two_shapes_of_one_kind_are_told_apart_by_where_they_are_asked_about(client) -> None:
    """The same class twice: only box, region and mask say which of the two is meant."""
    maps: dict[str, list[Any]] = {"box": [], "region": [], "mask": []}
    rng = np.random.default_rng(5)
    for kind in KINDS * 2:
        scene = paint(rng, [kind, kind])
        one, other = (shape.box for shape in scene.shapes)
        pictures = [text(mask(shape)) for shape in scene.shapes]
        asked = {
            "box": ("detector", [{"box": uploaded(box), "class": kind} for box in (one, other)]),
            "region": ("segmenter", [{"class": kind, "region": uploaded(box)} for box in (one, other)]),
            "mask": ("segmenter", [{"class": kind, "region": {"mask": i}} for i in range(2)]),
        }
        for form, (model, targets) in asked.items():
            body = {"model": model, "image": text(upload(scene)), "targets": targets, "pictures": pictures}
            found = arrays(client, "occlusion", body, {"window": 16, "stride": 8})
            maps[form] += [(found[0], one, other), (found[1], other, one)]
    for form, some in maps.items():
        found = figures(some)
        assert found.own > 0.9, form
        assert found.pointing > 0.8, form


def test_a_detection_s_rank_is_its_box(client) -> None:
    for pair in scenes():
        body = dict(question("detector", pair))
        boxes = [uploaded(shape.box) for shape in pair.scene.shapes]
        found = ask(client, "/predict", {"model": "detector", "image": body["image"]})["predictions"]
        sure = [one for one in found if one["score"] > 0.5]
        assert len(sure) == 2
        ranks = [max(sure, key=lambda one, box=box: iou(one["box"], box)) for box in boxes]
        for shape, one, box in zip(pair.scene.shapes, ranks, boxes, strict=True):
            assert (one["label"], one["index"]) == (shape.kind, shape.number + 1)
            assert iou(one["box"], box) > 0.7
        by_rank = body | {"targets": [{"detection": one["rank"]} for one in ranks]}
        by_class = body | {"targets": [shape.kind for shape in pair.scene.shapes]}
        a, b = (arrays(client, "saliency", asked, {}) for asked in (by_rank, by_class))
        for mine, theirs in zip(a, b, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of boxes (x0, y0, x1, y1)."""
    w, h = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in range(2))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return w * h / (sum(areas) - w * h)


def test_shares_are_those_of_the_painted_pixels(client) -> None:
    for pair in scenes():
        answer = ask(client, "/predict", {"model": "segmenter", "image": question("segmenter", pair)["image"]})
        shares = {one["label"]: one["share"] for one in answer["predictions"]}
        assert sum(shares.values()) == pytest.approx(1)
        for shape in pair.scene.shapes:
            assert shares[shape.kind] == pytest.approx(shape.mask.mean(), rel=0.25)


def test_an_embedding_s_score_is_the_difference_of_cosines(client) -> None:
    network = trained("embedding")
    for pair in scenes():
        with torch.inference_mode():
            e = network(inputs([pair.scene, *pair.alone])).numpy()
        e /= np.linalg.norm(e, axis=1, keepdims=True)
        like, unlike = float(e[0] @ e[1]), float(e[0] @ e[2])
        body = dict(question("embedding", pair))
        body["targets"] = [{"like": [0]}, {"like": [1]}, {"like": [0], "unlike": [1]}, {"like": [0, 1]}]
        found = ask(client, "/explain/saliency", body | {"output": NUMBERS})
        scores = [m["target"]["score"] for m in found["maps"]]
        # Enlarged and made small again, pictures are a little smoother than they were.
        assert scores == pytest.approx([like, unlike, like - unlike, (like + unlike) / 2], abs=0.06)
        assert scores[2:] == pytest.approx([scores[0] - scores[1], (scores[0] + scores[1]) / 2], abs=1e-4)


def test_labels_of_a_multilabel_network_do_not_share_one_probability(client) -> None:
    for pair in scenes():
        answer = ask(client, "/predict", {"model": "multilabel", "image": question("multilabel", pair)["image"]})
        probability = {one["label"]: one["probability"] for one in answer["predictions"]}
        there = {shape.kind for shape in pair.scene.shapes}
        assert {kind for kind, one in probability.items() if one > 0.5} == there
        assert sum(probability.values()) > 1.5


@pytest.mark.parametrize("name", NETWORKS)
def test_the_weights_that_are_shipped_are_small_and_know_their_task(name) -> None:
    assert (HERE / f"{name}.safetensors").stat().st_size < 100_000
    assert knows(name, trained(name), paint_many(60, HELD_OUT)) > (0.85 if name in ("segmenter", "embedding") else 0.95)


def test_training_is_seeded() -> None:
    first, second = (train("detector", steps=2, seed=3, pictures=12).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train("detector", steps=2, seed=4, pictures=12).state_dict()
    assert not torch.equal(first["head.weight" if "head.weight" in first else "kinds.weight"], other["kinds.weight"])
