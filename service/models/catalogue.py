"""Which models are asked for: options of the command line, and the user's own from a TOML file, each mistake named."""

import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract import Scale
from service.errors import CatalogError, did_you_mean
from service.images import Fit, Interpolation, Order
from service.models.making import broken, make
from service.models.sources import Network, Wish, find, split
from service.models.sources.base import named, written
from service.models.sources.embedded import EMBEDDED
from service.models.sources.factory import ADDRESS
from service.models.spec import ModelSpec

NAME = r"[A-Za-z0-9_-]+"  # no dots: a model name is one segment of inference routes
Channels = Literal[1, 3, 4]
Numbers = float | list[float]
_NO_WEIGHTS = "no weights follow its '='; write 'default', 'random' or a file behind it, or leave it out"
Side = Annotated[int, Field(ge=1, le=4096)]


class CatalogModel(BaseModel):
    """One `[models.NAME]` table of a catalogue."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    factory: Annotated[
        str | None,
        Field(
            pattern=rf"^{ADDRESS.pattern}$",
            description="`package.module:callable` that returns an nn.Module; looked for beside the file, too.",
        ),
    ] = None
    arguments: Annotated[dict[str, Any], Field(description="Keyword arguments of the factory or network.")] = {}
    torchvision: Annotated[
        str | None, Field(min_length=1, description="Name of a torchvision network, instead of a source.")
    ] = None
    source: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Where the network comes from, `SOURCE[=default|random|FILE]`, as after `--model`: "
            "`timm/NAME`, `hf/ORG/NAME` or a folder of transformers, `torchvision/NAME`, `FILE.pt2`, "
            "`package.module:callable`.",
        ),
    ] = None
    weights: Annotated[
        str | None,
        Field(
            min_length=1,
            description="State dict file (.safetensors, .pth); `random`: seeded random weights; `default`: what the "
            "factory returns, or the source's own.",
        ),
    ] = None
    allow_pickle: Annotated[
        bool,
        Field(
            description="Read files whose code runs while they are read, as whole pickled modules: only trusted ones."
        ),
    ] = False
    labels: Annotated[
        Path | None,
        Field(description="Text file, one label a line in the order of outputs, or JSON: list or index to label."),
    ] = None
    task: Annotated[str | None, Field(description="What the outputs mean; default: what the source says.")] = None
    scale: Annotated[Scale | None, Field(description="What the outputs are, where numbers do not tell.")] = None
    output: Annotated[
        str | int | None, Field(description="Which item of what the network returns, by name or number.")
    ] = None
    channels: Annotated[Channels | None, Field(description="Of the input: 1 grey, 3 colour, 4 colour and alpha.")] = (
        None
    )
    input_size: Annotated[
        int | tuple[int, int] | None, Field(description="Side of the square input, or [height, width].")
    ] = None
    resize: Annotated[
        Side | tuple[Side, Side] | None,
        Field(
            description="Shorter side before the crop, or the [height, width] that is covered (`crop`), filled "
            "(`squash`) or fitted into (`pad`); default: the input size."
        ),
    ] = None
    fit: Annotated[
        Fit | None,
        Field(
            description="`crop`: keep the shape and cut the centre; `squash`: press the whole picture into the input; "
            "`pad`: keep the shape and show all of it, the mean colour around."
        ),
    ] = None
    interpolation: Annotated[Interpolation | None, Field(description="Of resizing.")] = None
    mean: Annotated[Numbers | None, Field(description="Per channel, on the scale of `range`; one number for all.")] = (
        None
    )
    std: Annotated[Numbers | None, Field(description="Per channel, on the scale of `range`; one number for all.")] = (
        None
    )
    range: Annotated[
        tuple[float, float] | None,
        Field(description="What black and white become before mean and std; default [0, 1]."),
    ] = None
    order: Annotated[Order | None, Field(description="Of the channels: `rgb` or `bgr`.")] = None
    window: Annotated[
        tuple[float, float] | None,
        Field(description="[low, high] of pictures of more than 8 bits: the values that become black and white."),
    ] = None

    @model_validator(mode="after")
    def _one_source(self) -> "CatalogModel":
        given = [self.source, self.factory, self.torchvision]
        if given.count(None) != 2:
            raise ValueError(
                "give either factory = 'package.module:callable' or torchvision = 'NAME', or source = 'SOURCE' for "
                "these and all others"
            )
        if any(value <= 0 for value in ([self.std] if isinstance(self.std, float) else self.std or ())):
            raise ValueError("std has to be above 0 in each channel")
        sides = (self.input_size,) if isinstance(self.input_size, int) else self.input_size or ()
        if any(not 16 <= side <= 2048 for side in sides):
            raise ValueError("input_size has to lie between 16 and 2048 pixels")
        return self

    @property
    def key(self) -> str:
        """Return the key that the network is named by."""
        return "source" if self.source is not None else "factory" if self.factory is not None else "torchvision"


class CatalogFile(BaseModel):
    """A catalogue: `[models.NAME]` tables, and which one is the default."""

    model_config = ConfigDict(extra="forbid")

    default: str | None = None
    models: dict[str, Any]


def read_catalog(path: Path) -> tuple[dict[str, ModelSpec], str | None]:
    """Read a catalogue; return its models and the name of its default one.

    An entry with a mistake leaves the others standing: its model is there, and fails to load with the reason.

    Raises:
        CatalogError: naming the file, the key and the remedy, where the file cannot be read or no entry stands.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise CatalogError(f"catalogue {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"catalogue {str(path)!r} is not TOML: {error}") from None
    try:
        catalog = CatalogFile.model_validate(raw)
    except ValidationError as error:
        raise CatalogError(f"catalogue {str(path)!r}: {_mistakes(error, CatalogFile.model_fields)}") from None
    specs = {name: _entry(name, entry, path) for name, entry in catalog.models.items()}
    if specs and all(spec.mistake for spec in specs.values()):
        raise CatalogError("; ".join(str(spec.mistake) for spec in specs.values()))
    if catalog.default is not None and catalog.default not in specs:
        near = did_you_mean(catalog.default, specs)
        raise CatalogError(f"catalogue {str(path)!r}: default: there is no [models.{catalog.default}]{near}")
    return specs, catalog.default


def _entry(name: str, raw: Any, path: Path) -> ModelSpec:
    where = f"catalogue {str(path)!r}: models.{name}"
    if written(name) != name:
        return broken(name, f"{where}: a model name consists of letters, digits, '-' and '_'")
    try:
        entry = CatalogModel.model_validate(raw)
    except ValidationError as error:
        return broken(name, f"catalogue {str(path)!r}: {_mistakes(error, CatalogModel.model_fields, ('models', name))}")
    try:
        return _own(name, entry, path.parent)
    except CatalogError as error:
        return broken(name, f"{where}.{error}")
    except Exception as error:  # a library's own, of values that it did not expect
        return broken(name, f"{where}: {_unforeseen(error)}")


def _unforeseen(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return (
        f"its source could not be asked for it ({type(error).__name__}: {text}); look at the arguments and at what the "
        "source is installed with"
    )


def _mistakes(error: ValidationError, known: Mapping[str, Any], above: tuple[str, ...] = ()) -> str:
    told: dict[Any, Any] = {}  # of several types that a value could have, the complaint that reaches deepest into it
    for mistake in error.errors(include_url=False):
        key = mistake["loc"][:1] if known is CatalogModel.model_fields else mistake["loc"]
        if key not in told or len(mistake["loc"]) > len(told[key]["loc"]):
            told[key] = mistake
    return "; ".join(_explain(mistake, known, above) for mistake in told.values())


def _explain(error: Any, known: Mapping[str, Any], above: tuple[str, ...]) -> str:
    # The last parts of a place inside a union name the type that was tried.
    parts = [
        str(part)
        for part in error["loc"]
        if isinstance(part, int) or part in known or error["type"] == "extra_forbidden"
    ]
    key = ".".join([*above, *parts])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key" + did_you_mean(parts[-1], known, then=f"the keys are {', '.join(known)}")
    if error["type"] == "string_pattern_mismatch" and parts == ["factory"]:
        return f"{key}: write it as 'package.module:callable', not {error['input']!r}"
    if error["type"] == "string_too_short":
        return f"{key}: it is empty; name one, or leave it out"
    if error["type"] == "path_type":
        return f"{key}: name a file of labels, as a text of one label a line (got {error['input']!r})"
    return f"{key}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"


def _own(name: str, entry: CatalogModel, folder: Path) -> ModelSpec:
    """Make one model of a catalogue; messages begin with the key."""
    text, weights = str(entry.source or entry.factory or f"torchvision/{entry.torchvision}"), entry.weights
    if entry.source is not None:
        text, beside = split(text, folder)
        if not beside and text != entry.source:
            raise CatalogError(f"source: {_NO_WEIGHTS}")
        if beside and weights is not None:
            raise CatalogError(f"weights: source already names them ({beside!r}); leave one out")
        weights = beside or weights
    wish = Wish(weights or "default", entry.arguments, folder, entry.allow_pickle)
    if wish.file is not None and not wish.file.is_file():
        raise CatalogError(
            f"weights: no file {str(wish.file)!r}; name a .safetensors or .pth file, 'default' or 'random'"
        )
    try:
        network = find(text, wish)
    except CatalogError as error:
        if str(error).startswith("arguments"):  # which names its key
            raise
        published = str(error).startswith("the published weights")
        raise CatalogError(f"{'weights' if published else entry.key}: {error}") from None
    return make(name, network, wish, entry.model_dump(), f"catalogue: {network.words}")


# What was asked for


def requested(models: tuple[str, ...], catalog: Path | None) -> tuple[dict[str, ModelSpec], str]:
    """Resolve `SOURCE[=WEIGHTS]` options and a catalogue to models, and the name of the default one.

    The first named model is the default one, or else the catalogue's `default` or first model, or else the embedded
    classifier. A name may be one of the catalogue's; with names given, all of the catalogue is served too.

    Raises:
        CatalogError: with the option or key, and the remedy.
    """
    own, own_default = read_catalog(catalog) if catalog is not None else ({}, None)
    specs: dict[str, ModelSpec] = {}
    asked: dict[str, str] = {}
    for option in models:
        try:
            name, spec = _option(option, own, specs, asked)
        except CatalogError as error:
            raise CatalogError(f"--model {option}: {error}") from None
        except Exception as error:  # a library's own, of values that it did not expect
            raise CatalogError(f"--model {option}: {_unforeseen(error)}") from error
        specs[name] = spec
    specs |= {name: spec for name, spec in own.items() if name not in specs}
    if not specs:
        specs = requested(tuple(EMBEDDED), None)[0]
    default = next(iter(specs)) if models or own_default is None else own_default
    return specs, default


def _option(
    option: str, own: Mapping[str, ModelSpec], specs: Mapping[str, ModelSpec], asked: dict[str, str]
) -> tuple[str, ModelSpec]:
    """Return the name and the model of one `SOURCE[=WEIGHTS]`; `asked` is what was written for each source so far."""
    text, weights = (option.partition("=")[::2]) if option.partition("=")[0] in own else split(option, Path())
    if not weights and text != option:
        raise CatalogError(_NO_WEIGHTS)
    if text in own:
        if weights:
            raise CatalogError(f"set the weights of {text!r} in the catalogue")
        _once(text, text, asked)
        return text, own[text]
    wish = Wish(weights or "default")
    network = find(text, wish)
    _once(network.source, text, asked)
    name = _free_name(network, own.keys() | specs.keys())
    return name, make(name, network, wish, {}, network.words)


def _once(source: str, text: str, asked: dict[str, str]) -> None:
    if source in asked:
        as_well = "" if asked[source] == text else f", as {asked[source]!r} before"
        raise CatalogError(
            f"{text!r} is given twice{as_well}; leave one out, or, to serve one network with several weights, name "
            "each in a catalogue, as [models.NAME]"
        )
    asked[source] = text


def _free_name(network: Network, taken: Set[str]) -> str:
    """Return a name for a network that no other model has: its own, or its whole source."""
    for name in (named(network.source), written(network.source)):
        if name not in taken:
            return name
    raise CatalogError(
        f"another model has its name, {named(network.source)!r}; name both in a catalogue, as [models.NAME] with "
        f"source = {network.source!r}"
    )
