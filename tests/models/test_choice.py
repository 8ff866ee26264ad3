"""What a server serves, by its settings."""

from pathlib import Path

import pytest

from service.errors import CatalogError
from service.models.choice import chosen
from tests.conftest import CATALOG

ENTRY = "[models.m]\nfactory = 'tests.tiny:classifier'\ninput_size = 32\n"


def test_what_is_named_and_what_a_catalogue_holds() -> None:
    assert chosen()[1] == "efficientnet-lite0"
    assert chosen(catalog=CATALOG)[1] == "tiny"
    assert [*chosen(("resnet18=random",))[0]] == ["resnet18"]


def test_a_folder_with_a_catalogue(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(ENTRY, "utf-8")
    specs, default = chosen(folder=tmp_path, name="served-as")
    assert [*specs] == [default] == ["served-as"]
    assert specs[default].name == "served-as"


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    specs, default = chosen(folder=tmp_path, name="vit")
    assert [*specs] == [default] == ["vit"]


@pytest.mark.parametrize(
    ("files", "given", "said"),
    [
        (["weights.pth"], {}, r"put a models\.toml beside them.*weights\.pth"),
        ([], {}, "no files"),
        ([], {"models": ("resnet18=random",)}, "leave out --model and --catalog"),
    ],
)
def test_folders_that_say_too_little(tmp_path: Path, files: list[str], given: dict, said: str) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CatalogError, match=said):
        chosen(folder=tmp_path, **given)
    with pytest.raises(CatalogError, match="no such folder"):
        chosen(folder=tmp_path / "not")


def test_a_name_is_for_one_model() -> None:
    with pytest.raises(CatalogError, match="--name is for a single model, and there are"):
        chosen(name="one")
