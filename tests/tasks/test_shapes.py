"""Five tasks over HTTP, held against where shapes were painted: each target's map has to lie on its own shape.

Two shapes of different kinds are in each picture, and each is a target once. A map that ignores its target is the same
for both, so that what of it lies on the target's own shape, and not on the other one, is one half on average whatever
the map shows. That is what no method may come near to.
"""

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from service.explainers.base import registry
from service.settings import Settings
from tests.conftest import serving
from tests.training.shapes.asking import mask, pairs, question, text, upload, uploaded
from tests.training.shapes.learning import inputs, knows, train
from tests.training.shapes.networks import CATALOG, HERE, NETWORKS, trained
from tests.training.shapes.painting import KINDS, SIDE, paint, paint_many

SCENES = 6
NEAR = 6  # pixels around a shape in which a map may lie: edges are seen from both sides
SAMPLES = 4  # of methods that draw some
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
    drawn = Image.fromarray(values.clip(min=0)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
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
    """Of what lies on the two shapes, the share that lies on the target's own."""
    inside: float
    """Of all that is positive, the share that lies on the target's own shape, over that of the area: 1 is chance."""
    pointing: float
    """Share of the maps whose largest value lies on the target's own shape."""


def figures(maps: Sequence[tuple[np.ndarray, Sequence[int], Sequence[int]]]) -> Figures:
    """Return the figures of maps, each with the box of its shape and that of the other one."""
    rows = []
    for values, own, other in maps:
        here, there = around(own), around(other)
        on, off, total = values[here & ~there].sum(), values[there & ~here].sum(), values.sum()
        inside = values[here].sum() / total / here.mean() if total else 0.0
        rows.append((on / (on + off) if on + off else 0.5, inside, bool(total and here.flat[values.argmax()])))
    return Figures(*np.array(rows, dtype=float).mean(0).tolist())


def explained(client, model: str, method: str, params: dict[str, Any] | None = None) -> Figures:
    """Return the figures of a method's maps of both shapes of all pictures."""
    fields = registry()[method].model_fields
    closer = {"window": 16, "stride": 8} if method == "occlusion" else {}
    few = {"samples": SAMPLES} if "samples" in fields else {}
    maps = []
    for pair in scenes():
        one, other = (shape.box for shape in pair.scene.shapes)
        found = arrays(client, method, dict(question(model, pair)), closer | few | (params or {}))
        maps += [(found[0], one, other), (found[1], other, one)]
    return figures(maps)


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("method", [name for name, cls in registry().items() if cls.takes_targets and cls.needs_image])
def test_each_target_s_map_lies_on_its_own_shape(client, model, method) -> None:
    uses = {use["name"]: use for use in client.get(f"/models/{model}").json()["methods"]}
    if not uses[method]["applies"]:
        assert method not in ("occlusion", "score-cam", "saliency", "grad-cam")
        answer = client.post(f"/explain/{method}", json=question(model, scenes()[0]))
        assert answer.status_code == 422
        assert answer.json()["type"].endswith("not-applicable")
        return
    got = explained(client, model, method)
    print(f"{model:11}{method:20} own {got.own:.2f} inside {got.inside:.2f} pointing {got.pointing:.2f}")


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
        got = figures(some)
        print(form, got)


def test_a_detection_s_rank_is_its_box(client) -> None:
    for pair in scenes():
        body = dict(question("detector", pair))
        boxes = [uploaded(shape.box) for shape in pair.scene.shapes]
        found = ask(client, "/predict", {"model": "detector", "image": body["image"]})["predictions"]
        ranks = [max(found, key=lambda one, box=box: iou(one["box"], box)) for box in boxes]
        for shape, one, box in zip(pair.scene.shapes, ranks, boxes, strict=True):
            assert (one["label"], one["index"]) == (shape.kind, shape.number + 1)
            assert iou(one["box"], box) > 0.7
            assert one["score"] > 0.5
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
        assert scores == pytest.approx([like, unlike, like - unlike, (like + unlike) / 2], abs=0.02)


def test_labels_of_a_multilabel_network_do_not_share_one_probability(client) -> None:
    for pair in scenes():
        answer = ask(client, "/predict", {"model": "multilabel", "image": question("multilabel", pair)["image"]})
        probability = {one["label"]: one["probability"] for one in answer["predictions"]}
        there = {shape.kind for shape in pair.scene.shapes}
        print(probability, there)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_weights_that_are_shipped_are_small_and_know_their_task(name) -> None:
    assert (HERE / f"{name}.safetensors").stat().st_size < 100_000
    print(name, knows(name, trained(name), paint_many(60, 77)))


def test_training_is_seeded() -> None:
    first, second = (train("detector", steps=2, seed=3, pictures=12).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train("detector", steps=2, seed=4, pictures=12).state_dict()
    assert not torch.equal(first["head.weight" if "head.weight" in first else "kinds.weight"], other["kinds.weight"])
