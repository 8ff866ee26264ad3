"""transformers' networks from folders that the tests write, held against transformers' own processors."""

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.engine.network.capture import install
from service.engine.network.forms.adapted import prepared
from service.engine.network.proofs.answering import Answering
from service.engine.network.proofs.checks import Checks, state
from service.errors import CatalogError
from service.images import prepare, to_input
from service.models.catalogue import read_catalog, requested
from service.models.sources.transformers import SOURCE
from service.models.spec import ModelSpec
from tests.conftest import photograph

transformers = pytest.importorskip("transformers")
LABELS = {0: "cat", 1: "dog", 2: "bird"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def asked(option: str) -> ModelSpec:
    (spec,) = requested((option,), None)[0].values()
    return spec


def vit(**more: Any) -> Any:
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        id2label=LABELS,
        label2id={v: k for k, v in LABELS.items()},
        **more,
    )
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(config)


def resnet(**more: Any) -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=LABELS, **more
    )
    torch.manual_seed(0)
    return transformers.ResNetForImageClassification(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my.vit"
    vit().save_pretrained(path)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(path)
    return path


def test_folder_as_it_comes(folder: Path) -> None:
    """Its own pixels, labels and outputs, with no other key."""
    spec = asked(str(folder))
    assert (spec.name, spec.labels, spec.task.name, spec.task_known) == (
        "my-vit",
        tuple(LABELS.values()),
        "classification",
        True,
    )
    assert (spec.output, spec.assumed) == ("logits", ())
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = processor(photograph("chelsea"), return_tensors="pt")["pixel_values"]
    ours = to_input(prepare(photograph("chelsea"), spec.transform), spec.transform)
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)
    network = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    torch.testing.assert_close(spec.build()(ours).logits, network(theirs).logits, atol=1e-3, rtol=1e-3)


PROCESSORS = {
    "vit": lambda: transformers.ViTImageProcessor(size={"height": 64, "width": 64}),
    "deit": lambda: transformers.DeiTImageProcessor(
        size={"height": 73, "width": 73}, crop_size={"height": 64, "width": 64}
    ),
    "convnext, with a margin": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875),
    "convnext, with an odd margin": lambda: transformers.ConvNextImageProcessor(
        size={"shortest_edge": 128}, crop_pct=0.875
    ),
    "convnext, large": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "bit": lambda: transformers.BitImageProcessor(size={"shortest_edge": 70}, crop_size={"height": 64, "width": 64}),
    "levit": lambda: transformers.LevitImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    ),
    "mobilevit, which takes blue first": lambda: transformers.MobileViTImageProcessor(
        size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}
    ),
    "efficientnet, normalised twice": lambda: transformers.EfficientNetImageProcessor(size={"height": 64, "width": 64}),
    "0 to 255": lambda: transformers.ViTImageProcessor(
        size={"height": 64, "width": 64}, do_rescale=False, image_mean=[120.0, 110, 100], image_std=[60.0, 50, 40]
    ),
    "rectangular": lambda: transformers.ViTImageProcessor(size={"height": 48, "width": 96}),
    "nearest": lambda: transformers.ViTImageProcessor(size={"height": 64, "width": 64}, resample=0),
}


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("photo", ["chelsea", "astronaut"])
def test_input_is_the_processors(tmp_path: Path, kind: str, photo: str) -> None:
    resnet().save_pretrained(tmp_path)
    PROCESSORS[kind]().save_pretrained(tmp_path)
    spec = asked(f"{tmp_path}=random")
    theirs = PROCESSORS[kind]()(photograph(photo), return_tensors="pt")["pixel_values"]
    ours = to_input(prepare(photograph(photo), spec.transform), spec.transform)
    assert ours.shape == theirs.shape
    scale = max(1 / value for value in spec.transform.std)
    assert float((ours - theirs).abs().mean()) <= 0.004 * scale  # of values 0..1: one level of 255
    assert spec.assumed == ()


def test_grey_network_is_given_grey_pictures(tmp_path: Path) -> None:
    """Its processor has one mean, and leaves pictures the channels they have."""
    vit(num_channels=1).save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.4], image_std=[0.2])
    processor.save_pretrained(tmp_path)
    spec = asked(str(tmp_path))
    assert (spec.transform.channels, spec.transform.crop, spec.assumed) == ("l", (64, 64), ())
    ours = to_input(prepare(photograph("chelsea"), spec.transform), spec.transform)
    theirs = processor(photograph("chelsea").convert("L"), return_tensors="pt")["pixel_values"]
    assert float((ours - theirs).abs().mean()) <= 0.004 / 0.2
    network = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(spec.build()(ours).logits, network(ours).logits, atol=1e-3, rtol=1e-3)


def test_processor_that_follows_the_picture_says_what_was_taken(tmp_path: Path) -> None:
    resnet().save_pretrained(tmp_path)
    transformers.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path)
    spec = asked(f"{tmp_path}=random")
    assert (spec.transform.fit, spec.transform.crop) == ("pad", (64, 64))
    assert "follows each picture's shape" in spec.assumed[-1]


def test_folder_without_a_processor_says_what_is_assumed(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path)
    spec = asked(str(tmp_path))
    assert spec.transform.crop == (64, 64)  # the configuration knows it
    assert {line.split(" = ")[0] for line in spec.assumed} == {"resize", "fit", "interpolation", "mean", "std"}


def test_channels_that_pictures_do_not_have(tmp_path: Path) -> None:
    vit(num_channels=6).save_pretrained(tmp_path)
    with pytest.raises(CatalogError, match="channels: the network takes 6, and pictures have 1, 3 or 4"):
        asked(f"{tmp_path}=random")


def test_misspelt_argument(folder: Path, tmp_path: Path) -> None:
    text = f"[models.m]\nsource = '{folder}=random'\narguments = {{num_labls = 3}}\n"
    (tmp_path / "catalog.toml").write_text(text)
    with pytest.raises(
        CatalogError, match=r"models\.m\.arguments: a ViTConfig has no 'num_labls'; did you mean 'num_l"
    ):
        read_catalog(tmp_path / "catalog.toml")


@pytest.mark.parametrize(
    ("more", "task"),
    [
        ({}, "classification"),
        ({"problem_type": "single_label_classification"}, "classification"),
        ({"problem_type": "multi_label_classification"}, "multilabel"),
        ({"problem_type": "regression"}, "regression"),
    ],
)
def test_task_is_what_the_loss_takes(tmp_path: Path, more: dict[str, str], task: str) -> None:
    from service.models.sources.base import Wish, find

    resnet(**more).save_pretrained(tmp_path)
    assert find(str(tmp_path), Wish()).task == task


@pytest.mark.parametrize(
    ("kind", "task", "output"),
    [
        ("ViTModel", "embedding", "pooler_output"),
        ("CLIPVisionModelWithProjection", "embedding", "image_embeds"),
        ("SegformerForSemanticSegmentation", "segmentation", "logits"),
        ("YolosForObjectDetection", "detection", None),
    ],
)
def test_other_tasks_are_known(tmp_path: Path, kind: str, task: str, output: str | None) -> None:
    from service.models.sources.base import Wish, find

    cls = getattr(transformers, kind)
    cls.config_class(architectures=[kind]).save_pretrained(tmp_path)
    found = find(str(tmp_path), Wish("random"))
    assert (found.task, found.output) == (task, output)


def test_single_output_is_a_regression_as_in_the_librarys_loss(tmp_path: Path) -> None:
    from service.models.sources.base import Wish, find

    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=1)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    found = find(str(tmp_path), Wish())
    assert (found.task, found.labels) == ("regression", ())


def test_network_of_text_is_refused(tmp_path: Path) -> None:
    transformers.BertConfig(architectures=["BertForSequenceClassification"]).save_pretrained(tmp_path)
    with pytest.raises(CatalogError, match="is a BertForSequenceClassification; classifiers, segmenters, detectors"):
        asked(f"{tmp_path}=random")


def test_code_beside_weights_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["Own"], "auto_map": {"AutoConfig": "own.Config"}, "model_type": "own"})
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'harmed')!r}, 'w')")
    with pytest.raises(CatalogError, match="holds no configuration that transformers reads"):
        asked(str(tmp_path))
    assert not (tmp_path / "harmed").exists()


def test_weights_that_lack_the_head_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "classifier" not in k}, file, {"format": "pt"})
    with pytest.raises(
        CatalogError, match=r"lack 2 of the network's \(such as 'classifier.bias'\), which would be left"
    ):
        asked(str(folder)).build()


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CatalogError, match=r"weights cannot be read \(OSError.*=FILE or .*=random"):
        asked(str(folder)).build()
    assert asked(f"{folder}=random").build()(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 3)


def test_its_own_file_as_weights(folder: Path, tmp_path: Path) -> None:
    """The library renames weights on reading: its files are its own, whatever loads them."""
    moved = tmp_path / "w.safetensors"
    shutil.move(folder / "model.safetensors", moved)
    built = asked(f"{folder}={moved}").build().state_dict()
    assert all(torch.equal(value, built[name]) for name, value in vit().state_dict().items())


def test_random_weights_are_seeded_and_alive(folder: Path) -> None:
    first, again = (asked(f"{folder}=random").build() for _ in range(2))
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    a, b = first(pictures).logits
    assert torch.equal(first(pictures).logits, again(pictures).logits)
    assert float((a - b).abs().max()) > 0.02


def test_cache_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        CatalogError, match=r"'hf/nobody/nothing' is not in the local cache .*hf download nobody/nothing"
    ):
        asked("hf/nobody/nothing")


def test_names_are_those_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models--google--vit-base").mkdir()
    (tmp_path / "datasets--a--b").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert SOURCE.names() == ["hf/google/vit-base"]
    with pytest.raises(CatalogError, match="nearest: 'hf/google/vit-base'"):
        asked("vit_base")


def test_version_is_that_of_the_configuration_and_not_of_its_place(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"transformers_version": "4.0.0", "_name_or_path": "/x"}))
    specs = [asked(str(path)) for path in (folder, other)]
    same = {spec.identity(spec.build()) for spec in specs}
    assert len(same) == 1
    (other / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    changed = asked(str(other))
    assert changed.identity(changed.build()) not in same


def test_in_a_catalogue(folder: Path) -> None:
    (folder.parent / "catalog.toml").write_text("[models.m]\nsource = 'my.vit'\nfit = 'crop'\nmean = 0.4\n")
    spec = read_catalog(folder.parent / "catalog.toml")[0]["m"]
    assert (spec.transform.fit, spec.transform.mean, spec.transform.resize) == ("crop", (0.4, 0.4, 0.4), 64)
    assert np.all(spec.labels == tuple(LABELS.values()))


SEGMENTERS = {
    "Segformer": {
        "hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 1, 1],
        "decoder_hidden_size": 8,
    },
    "Beit": {
        "image_size": 32,
        "patch_size": 16,
        "hidden_size": 8,
        "num_hidden_layers": 4,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "out_indices": [1, 2, 3, 4],
        "use_auxiliary_head": False,
    },
}


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_hooks_that_the_library_adds_at_a_first_forward_are_added_once(tmp_path: Path, kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(id2label=LABELS, initializer_range=0.5, **SEGMENTERS[kind])
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}ForSemanticSegmentation")(config).eval()
    made.save_pretrained(tmp_path)
    transformers.SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    spec = asked(str(tmp_path))
    network, _ = prepared(spec.build(), torch.device("cpu"), spec.name)
    install(network)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    answering = Answering(spec, network, x, Checks(spec.name))
    answering.first(state(network))
    with torch.no_grad():
        torch.testing.assert_close(answering.adapted()(x), made(x).logits, atol=1e-4, rtol=1e-4)
