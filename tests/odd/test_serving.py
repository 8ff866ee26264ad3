"""What goes wrong while odd networks serve is told as what it is, and stays with those that it concerns."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from PIL import Image

from tests.conftest import encoded
from tests.odd import nets
from tests.odd.cases import SIZE, seeded
from tests.odd.conftest import BOXES, MAPS, Odd, served
from tests.odd.nets import ON_BLACK, plain
from tests.odd.test_networks import inputs, picture

pytestmark = pytest.mark.filterwarnings("ignore")
BLACK = encoded(Image.new("RGB", (SIZE, SIZE)))
OTHER = picture((SIZE, SIZE))
SMALL = {"/explain/occlusion": {"params": {"window": 8, "stride": 8}}}  # no square hides the whole picture
NORMS = (
    "weight_norm",
    "weight_norm_new",
    "spectral_norm",
    "spectral_norm_new",
    "caches",
    "batch_statistics",
    "only_float32",
)
BESIDE = ("plain", "doubled", "embedding", "less_the_mean", "decides")
MISTAKEN = """
[models.broken]
factory = 5
[models."a name"]
factory = "tests.odd.nets:plain"
"""
PATHS = ("/predict", "/explain/occlusion", "/explain/grad-cam", "/explain/saliency")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    """Serve networks that fail on some pictures, and others beside them."""
    plain = f"input_size = {SIZE}\nmean = 0.0\nstd = 1.0\ntask = 'classification'\n"
    text = f"{MISTAKEN}[models.over_black]\nfactory = 'tests.odd.nets:over_black'\n{plain}"
    for name in (*MAPS, *BOXES):
        text += f"[models.{name}]\nfactory = 'tests.odd.nets:{name}'\ninput_size = {SIZE}\nmean = 0.0\nstd = 1.0\n"
    for what in ON_BLACK:
        arguments = f"arguments = {{what = '{what}'}}\n"
        text += f"[models.on_black_{what}]\nfactory = 'tests.odd.nets:on_black'\n{arguments}{plain}"
    with served(tmp_path_factory.mktemp("serving"), (*BESIDE, *NORMS), text) as served_here:
        yield served_here


def told(answer: httpx.Response, kind: str) -> str:
    """Return what a refusal says."""
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, f"urn:heatlens:problem:{kind}"), answer.text
    detail: str = problem["detail"]
    return detail


@pytest.mark.parametrize("path", PATHS)
def test_no_finite_number_is_no_answer(odd: Odd, path: str) -> None:
    assert "infinite or not a number" in told(odd.post(path, "over_black", BLACK), "model-output")
    answer = odd.post(path, "over_black", encoded(OTHER), **SMALL.get(path, {}))
    assert answer.status_code == 200, answer.text
    assert "null" not in json.dumps([m["array"] for m in answer.json().get("maps", [])])


# Two networks answer a black picture otherwise, which is no fault: of one the default layer is not met then.
FAILING = [what for what in ON_BLACK if what not in ("layers", "skips")]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("what", FAILING)
def test_a_network_that_fails_on_a_picture_is_the_cause(odd: Odd, what: str, path: str) -> None:
    name = f"on_black_{what}"
    detail = told(
        odd.post(path, name, BLACK, targets=[0]) if "explain" in path else odd.post(path, name, BLACK), "model-failed"
    )
    assert f"the network of model '{name}' fails on this picture" in detail
    assert "shadow" not in detail
    assert odd.post(path, name, encoded(OTHER), **SMALL.get(path, {})).status_code == 200


def test_a_layer_that_a_picture_does_not_come_by(odd: Odd) -> None:
    name = "on_black_layers"
    assert odd.post("/predict", name, BLACK).status_code == 200
    assert "does not come by layer" in told(odd.post("/explain/grad-cam", name, BLACK), "model-failed")
    early = {"layer": "early"}
    assert odd.post("/explain/grad-cam", name, encoded(OTHER), params=early).status_code == 200
    assert "layer 'early'" in told(odd.post("/explain/grad-cam", "on_black_skips", BLACK, params=early), "model-failed")


def test_whoever_shares_a_batch_with_it_is_answered(odd: Odd) -> None:
    """Both in one forward, as the scheduler packs them: the other's numbers are its own."""
    expected = seeded(plain).eval()(inputs(OTHER, 3))[0].softmax(0)
    for _ in range(3):
        assert odd.post("/predict", "on_black_raises", BLACK).status_code == 422
        answer = odd.post("/predict", "on_black_raises", encoded(OTHER)).json()
        found = torch.tensor([p["probability"] for p in sorted(answer["predictions"], key=lambda p: p["index"])])
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
    assert odd.client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("name", ["broken", "a name"])
def test_one_mistaken_entry_leaves_the_others_serving(odd: Odd, name: str) -> None:
    entry = odd.store.entries[name]
    assert entry.status == "failed"
    assert entry.error
    assert f"models.{name}" in entry.error
    assert odd.post("/predict", "plain", BLACK).status_code == 200


# Networks whose weights are made in each forward


@pytest.mark.parametrize("name", NORMS)
def test_less_precision_is_an_answer_near_the_full_one_or_a_refusal(odd: Odd, name: str) -> None:
    image = encoded(OTHER)
    answer = odd.post("/predict", name, image, precision="bf16")
    assert answer.status_code in (200, 422), answer.text
    assert answer.status_code == 200 or "use fp32" in answer.json()["detail"]
    full = odd.post("/predict", name, image, precision="fp32").json()["predictions"]
    found = {p["index"]: p["probability"] for p in answer.json().get("predictions", ())}
    assert all(abs(found.get(p["index"], p["probability"]) - p["probability"]) < 0.03 for p in full)


# Tasks whose answers are no table


@pytest.mark.parametrize("name", MAPS)
def test_segmentations(odd: Odd, name: str) -> None:
    """A class in a part of the picture: the mean of its logits there, by plain PyTorch."""
    assert odd.get(f"/models/{name}")["task"] == "segmentation"
    network, x = seeded(getattr(nets, name)).eval(), inputs(OTHER, 3)
    last = network.head

    def score(x: torch.Tensor) -> float:
        with torch.no_grad():
            logits = last(network.body(x).relu())
            scale = SIZE // logits.shape[2]
            return float(logits[0, 1, : 16 // scale, : 16 // scale].mean())

    hidden = x.clone()
    hidden[:, :, 16:, 16:] = 0
    other = x.clone()
    other[:, :, :16, :16] = 0
    asked = {"class": 1, "region": [0, 0, 16, 16]}
    params = {"window": 16, "stride": 16, "fill": "black", "score": "logit"}
    answer = odd.post("/explain/occlusion", name, encoded(OTHER), targets=[asked], params=params)
    assert answer.status_code == 200, answer.text
    grid = answer.json()["details"]["grid"][0]
    assert grid[0][0] == pytest.approx(score(x) - score(other), rel=1e-3, abs=1e-5)
    assert grid[1][1] == pytest.approx(score(x) - score(hidden), rel=1e-2, abs=1e-5)


@pytest.mark.parametrize("name", BOXES)
def test_detections(odd: Odd, name: str) -> None:
    assert odd.get(f"/models/{name}")["task"] == "detection"
    with torch.no_grad():
        (truth,) = seeded(nets.boxes).eval()(inputs(OTHER, 3))
    found = odd.post("/predict", name, encoded(OTHER)).json()["predictions"]
    order = truth["scores"].argsort(descending=True)
    assert [p["index"] for p in found] == order.tolist()
    assert [p["score"] for p in found] == pytest.approx(truth["scores"][order].tolist(), rel=1e-4)
    assert found[0]["box"] == pytest.approx([8, 8, 24, 24], abs=1e-3)
    answer = odd.post("/explain/saliency", name, encoded(OTHER), targets=[{"detection": 0}])
    assert answer.status_code == 200, answer.text
    assert not answer.json()["maps"][0]["flat"]


def test_an_embedding_needs_other_pictures(odd: Odd) -> None:
    image, other = encoded(OTHER), base64.b64encode(encoded(picture((SIZE, SIZE), 1))).decode()
    for path in ("/explain/occlusion", "/explain/saliency"):
        assert "means nothing alone" in told(odd.post(path, "embedding", image), "not-applicable")
        like = odd.post(path, "embedding", image, targets=[{"like": [0]}], pictures=[other])
        assert like.status_code == 200, like.text
        assert not like.json()["maps"][0]["flat"]


def test_two_models_of_the_same_weights_never_answer_for_each_other(odd: Odd) -> None:
    image = encoded(picture((SIZE, SIZE), 7))
    for method, params in (
        ("occlusion", {"window": 16, "stride": 16, "score": "logit"}),
        ("score-cam", {"score": "logit"}),
    ):
        maps = {}
        for name in ("plain", "doubled"):
            answer = odd.post(f"/explain/{method}", name, image, targets=[0], params=params).json()
            assert answer["usage"]["cache"] != "hit"
            maps[name] = torch.tensor(answer["maps"][0]["array"]["data"])
        if method == "occlusion":
            torch.testing.assert_close(maps["doubled"], 8 * maps["plain"], rtol=1e-3, atol=1e-5)
    versions = {odd.get(f"/models/{name}")["version"] for name in ("plain", "doubled")}
    assert len(versions) == 2


def test_the_same_picture_beside_others_is_the_same(odd: Odd) -> None:
    """Batches of many callers' pictures, by threads that ask at once."""
    others = [encoded(Image.new("RGB", (SIZE, SIZE), colour)) for colour in ("white", "red", "blue", "green")]
    mine = encoded(OTHER)

    def numbers(name: str, image: bytes) -> list[float]:
        found = odd.post("/predict", name, image).json()["predictions"]
        return [round(p["probability"], 5) for p in sorted(found, key=lambda p: p["index"])]

    for name in ("batch_statistics", "less_the_mean", "decides"):
        expected = numbers(name, mine)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i, name=name: numbers(name, mine if i % 2 else others[i % 4]), range(24)))
        assert all(one == expected for one in found[1::2])
