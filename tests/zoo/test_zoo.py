"""Some of the zoo, one of each kind, and whether it can tell right from wrong; `python -m tests.zoo` has all of it."""

import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.explainers.base import registry
from tests.zoo import __main__ as zoo
from tests.zoo.holding import FOLLOWING, TRIED, Answer, Found, held
from tests.zoo.networks import LIBRARIES, ZOO

# One of each kind: maps and a linear head, a head that is a convolution, tokens behind none, one, two and five leading
# ones, tokens averaged, a mean of two heads, channels last, ReLUs of an attention only, maps in the middle alone.
CHOSEN = (
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
    "torchvision/mnasnet0_5",
    "timm/levit_128s",
    "transformers/vit",
    "transformers/deit-teacher",
    "transformers/dinov2-registers",
    "transformers/siglip",
    "transformers/swinv2",
    "transformers/pvtv2",
    "transformers/mobilevitv2",
    "timm/efficientvit_b0",
)
# What each of them is asked here, in little time; `python -m tests.zoo` asks all that is tried.
QUICK = (
    "cam",
    "deconvnet",
    "feature-maps",
    "filters",
    "grad-cam",
    "grad-cam++",
    "layer-cam",
    "occlusion",
    "saliency",
    "score-cam",
    "integrated-gradients",
    "rise",
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folders")


@pytest.mark.parametrize("name", CHOSEN)
def test_a_network_is_right_as_it_comes(name: str, folder: Path) -> None:
    pytest.importorskip(ZOO[name].library)
    found = held(ZOO[name], folder, budget_s=0.1, only=f"^({'|'.join(map(re.escape, QUICK))})$")
    assert found.faults == []
    assert {*found.methods} == {*QUICK}
    assert found.methods["saliency"].mark == found.methods["grad-cam"].mark == "="


def test_what_is_wrong_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    network = ZOO["transformers/vit"]
    wrong = replace(network, layer="vit.layers.1", layout="hwc")
    library = LIBRARIES[network.library]
    monkeypatch.setattr(type(library), "labels", lambda *_: tuple("abcdefg"))
    monkeypatch.setattr(
        "tests.zoo.truths.OWN", {"grad-cam": lambda case: case.x[0, 0], "saliency": lambda case: case.x[0, 0]}
    )
    monkeypatch.setattr("tests.zoo.holding._REASONS", {})
    found = held(wrong, folder, 0.5, "^(grad-cam|saliency|cam)$")
    told = "\n".join(found.faults)
    for part in ("labels: ", "default layer is ", "saliency: off by ", "cam: cam needs global average pooling"):
        assert part in told
    assert {name: answer.mark for name, answer in found.methods.items()} == {
        "cam": "x",
        "grad-cam": "E",  # of another shape
        "saliency": "!",
    }


def test_all_is_tried_but_what_follows_modules() -> None:
    assert {*FOLLOWING} <= {*registry()}
    assert {*QUICK} <= {*TRIED} == {*registry()} - FOLLOWING


def test_a_network_that_does_not_load_is_a_fault(folder: Path) -> None:
    pytest.importorskip("timm")
    found = held(replace(ZOO["timm/levit_128s"], name="levit_1s"), folder)
    assert not found.loaded
    assert "timm has no network 'levit_1s'" in found.faults[0]


def test_the_zoo_has_the_networks_of_three_libraries() -> None:
    counts = [sum(network.library == library for network in ZOO.values()) for library in LIBRARIES]
    assert counts == [22, 56, 26]
    for network in ZOO.values():
        re.compile(network.layer)


def test_what_is_done_is_kept_and_the_table_counts_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in ZOO if name.startswith("timm/")][:2]
    marks = {"cam": Answer("-", reason="why"), "saliency": Answer("=", error=0.0)}
    done = [
        Found(names[0], "classification", "a", "chw", (1, 2, 2), True, 3, marks, [], [], 1.5, 2.5),
        Found(names[1], faults=["does not load"]),
    ]
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({found.network: found.as_json() for found in done}))
    with pytest.raises(SystemExit) as ended:
        zoo.main(["--only", f"^({'|'.join(names)})$", "--json", str(kept)])
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "| timm | 2 | 1 | 1 | 1 | 1 | 0 | 1 | 2 |" in printed
    assert f"| {names[0]} | classification | a | chw | 1 x 2 x 2 | `-=` | 1.5 | 2 |" in printed
    assert Found.of(done[0].as_json()) == done[0]
