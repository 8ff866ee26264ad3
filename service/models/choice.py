"""Which models a server serves, by its settings: those that are named, a catalogue's, or a folder's."""

from dataclasses import replace
from pathlib import Path

from service.errors import CatalogError
from service.models.catalogue import requested
from service.models.spec import ModelSpec

CATALOGUE = "models.toml"


def chosen(
    models: tuple[str, ...] = (), catalog: Path | None = None, folder: Path | None = None, name: str | None = None
) -> tuple[dict[str, ModelSpec], str]:
    """Return all models by name, and the name of the default one; none of them is loaded.

    Args:
        models: `SOURCE[=WEIGHTS]` each; without them and a catalogue: the embedded ones.
        catalog: the file of one.
        folder: instead of both.
        name: what the only model is called.

    Raises:
        CatalogError: with the option or key, and the remedy.
    """
    if folder is not None:
        if models or catalog is not None:
            raise CatalogError("--models names all that is served; leave out --model and --catalog")
        models, catalog = _folder(folder)
    specs, default = requested(models, catalog)
    if name is None:
        return specs, default
    if len(specs) != 1:
        raise CatalogError(f"--name is for a single model, and there are {len(specs)}: {', '.join(list(specs)[:20])}")
    (spec,) = specs.values()
    return {name: replace(spec, name=name)}, name


def _folder(folder: Path) -> tuple[tuple[str, ...], Path | None]:
    """Return what a folder holds, as the option `--model` and a catalogue would name it.

    Raises:
        CatalogError: nothing that says which network it is.
    """
    if (folder / CATALOGUE).is_file():
        return (), folder / CATALOGUE
    if (folder / "config.json").is_file():
        return (str(folder.resolve()),), None
    if not folder.is_dir():
        raise CatalogError(f"--models {folder}: there is no such folder")
    files = sorted(path.name for path in folder.iterdir() if path.is_file())[:20]
    raise CatalogError(
        f"--models {folder}: weights alone do not say which network they are of; put a {CATALOGUE} beside them, or a "
        f"folder that transformers has saved (there are: {', '.join(files) or 'no files'})"
    )
