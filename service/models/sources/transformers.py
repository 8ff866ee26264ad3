"""transformers' networks: `hf/ORG/NAME` from the local cache, or a folder that `save_pretrained` wrote."""

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from service.errors import CatalogError, did_you_mean
from service.images import Interpolation
from service.models.arguments import calling
from service.models.measured import Floats, Process, measured
from service.models.networks import holding
from service.models.sources.base import Network, Wish, fitted, seeded

_PREFIX = "hf/"
_RESAMPLING: Mapping[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
# Of a configuration: where it was saved, and by which version of the library.
_ENVIRONMENT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation")
_FAR = 0.02  # mean difference from the processor's own picture that is worth saying
# The end of an architecture's name, and the task and the output that it tells.
_TASKS: tuple[tuple[str, str, str | None], ...] = (
    ("ForImageClassification", "classification", "logits"),
    ("ForImageClassificationWithTeacher", "classification", "logits"),
    ("ForSemanticSegmentation", "segmentation", "logits"),
    ("ForObjectDetection", "detection", None),
    ("VisionModelWithProjection", "embedding", "image_embeds"),
    ("VisionModel", "embedding", "pooler_output"),
    ("Model", "embedding", "pooler_output"),
)


@contextmanager
def _quiet() -> Iterator[Any]:
    """Give the library, without its warnings and progress bars."""
    if importlib.util.find_spec("transformers") is None:
        raise CatalogError("transformers is not installed: pip install 'heatlens[transformers]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        library: Any = transformers.logging
        level = library.get_verbosity()
        library.disable_progress_bar()
        library.set_verbosity(logging.ERROR)
        try:
            yield transformers
        finally:
            library.set_verbosity(level)


class Transformers:
    """Vision networks of transformers, with the preprocessing and labels that are saved beside them."""

    name, form = "transformers", "hf/ORG/NAME (from the local cache) or a folder with config.json"

    def takes(self, text: str, folder: Path) -> bool:
        """Whether it has the prefix, or is a folder with a configuration."""
        return text.startswith(_PREFIX) or (bool(text) and (folder / text / "config.json").is_file())

    def names(self) -> Sequence[str]:
        """Return the networks in the local cache."""
        home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
        cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
        folders = (path.name.removeprefix("models--") for path in cache.glob("models--*"))
        return sorted(_PREFIX + name.replace("--", "/") for name in folders)

    def network(self, text: str, wish: Wish) -> Network:
        """See `Source.network`."""
        with _quiet() as transformers:
            place = text.removeprefix(_PREFIX) if text.startswith(_PREFIX) else str(wish.folder / text)
            config = _config(transformers, text, place, wish)
            task, output, kind = _meaning(transformers, config, text)
            known, said = _preprocessing(transformers, config, place)
            labels = dict(getattr(config, "id2label", None) or {}) if task not in ("embedding",) else {}
        return Network(
            source=text if text.startswith(_PREFIX) else str(Path(text)),
            build=partial(_build, text, place, kind, config, wish),
            identity=lambda network: ["transformers", kind.__name__, _content(config)],
            preprocessing=known,
            labels=_labels(labels),
            task=task,
            output=output,
            words=f"transformers {text}, weights: {wish.weights}",
            said=said,
        )


def _config(transformers: Any, text: str, place: str, wish: Wish) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(place, local_files_only=True, **wish.arguments)
    except Exception as error:
        if text.startswith(_PREFIX):
            raise CatalogError(
                f"{text!r} is not in the local cache ({type(error).__name__}), and nothing is downloaded here; fetch "
                "it where "
                f"there is a network (`hf download {place}`), or name a folder that save_pretrained wrote: --model "
                "FOLDER"
            ) from None
        raise CatalogError(
            f"the folder {text!r} holds no configuration that transformers reads ({type(error).__name__}: "
            f"{str(error)[:200]}); write it by save_pretrained"
        ) from None
    for name in wish.arguments:  # those it does not know, it passes over in silence
        if not hasattr(config, name):
            raise CatalogError(
                f"arguments: a {type(config).__name__} has no {name!r}"
                + did_you_mean(name, [*config.to_dict(), "num_labels"])
            )
    return config


def _meaning(transformers: Any, config: Any, text: str) -> tuple[str | None, str | None, Any]:
    """Return task, output and class of a configuration's network.

    Raises:
        CatalogError: it is no network of pictures, or one that the library does not have.
    """
    name = (getattr(config, "architectures", None) or [""])[0]
    if not name:
        mapping = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
        if type(config) not in mapping:
            raise CatalogError(f'{text!r}: its config.json names no architecture; add "architectures": ["..."]')
        found = mapping[type(config)]
        name = (found[0] if isinstance(found, tuple) else found).__name__
    kind = getattr(transformers, name, None)
    if kind is None:
        raise CatalogError(
            f"{text!r} is a {name}, which transformers {transformers.__version__} does not have, and code beside "
            "weights is "
            "never run here; build it in a factory of your own"
        )
    for end, task, output in _TASKS:
        if name.endswith(end) and getattr(kind, "main_input_name", "pixel_values") == "pixel_values":
            return _classification(config) if task == "classification" else task, output, kind
    raise CatalogError(
        f"{text!r} is a {name}; classifiers, segmenters, detectors and encoders of single pictures are explained here "
        "(...ForImageClassification, ForSemanticSegmentation, ForObjectDetection, Model)"
    )


def _classification(config: Any) -> str:
    """Return the task of a classifier, as its loss takes it."""
    told = getattr(config, "problem_type", None)
    by_type = {"multi_label_classification": "multilabel", "regression": "regression"}
    if told is None and getattr(config, "num_labels", 2) == 1:
        return "regression"
    return by_type.get(str(told), "classification")


def _labels(by_index: Mapping[Any, str]) -> tuple[str, ...]:
    labels = {int(index): str(label) for index, label in by_index.items()}
    named = tuple(labels[index] for index in sorted(labels))
    # `LABEL_0` is what is written where nobody named anything.
    return () if all(label == f"LABEL_{i}" for i, label in enumerate(named)) else named


def _preprocessing(transformers: Any, config: Any, place: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the processor beside the weights does, and what is not quite that."""
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(place, local_files_only=True)
    except Exception:
        size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
        known = {"input_size": tuple(size) if isinstance(size, list) else size, "channels": channels}
        return {key: value for key, value in known.items() if value is not None}, ()

    def process(picture: Image.Image) -> Floats:
        found = processor(picture, return_tensors="np")["pixel_values"]
        return np.asarray(found[0], np.float64)

    def grey(picture: Image.Image) -> Floats:
        return process(picture.convert("L"))

    if getattr(config, "num_channels", 3) == 1 and _channels(process) != 1 and _channels(grey) == 1:
        followed = grey  # a processor that leaves pictures the channels they have
    else:
        followed = process
    resample = getattr(processor, "resample", None)
    hint = None if resample is None else _RESAMPLING.get(int(resample))
    try:
        found = measured(followed, [hint] if hint else ["bilinear", "bicubic", "nearest", "lanczos"])
    except Exception as error:
        raise CatalogError(
            f"{place!r}: the processor beside the weights makes no picture that can be followed ({error}); build the "
            "network in "
            "a factory of your own, and say its preprocessing in the catalogue"
        ) from None
    said: tuple[str, ...] = ()
    if found.varies:
        said = (
            f'fit = "pad", input_size = {list(found.known["input_size"])}: the processor follows each picture\'s shape',
        )
    elif found.error > _FAR:
        said = (f"preprocessing: about the processor's own, off by {found.error:.3f} of the range on average",)
    return found.known, said


def _channels(process: Process) -> int | None:
    """Return how many channels a preprocessing makes of a picture; None where it takes none such."""
    try:
        return len(process(Image.new("RGB", (64, 64))))
    except Exception:  # the library's own
        return None


def _content(config: Any) -> Any:
    return {
        key: value
        for key, value in json.loads(config.to_json_string(use_diff=False)).items()
        if key not in _ENVIRONMENT
    }


def _build(text: str, place: str, kind: Any, config: Any, wish: Wish, said: list[str]) -> nn.Module:
    with _quiet():
        if wish.weights == "default":
            return _saved(text, place, kind, config)
        network: nn.Module = seeded(lambda: calling(f"transformers' {kind.__name__}", partial(kind, config), {}))
        if wish.file is None:
            return network

        def convert(values: Mapping[str, Any]) -> Mapping[str, Any]:
            loaded, found = kind.from_pretrained(None, config=config, state_dict=dict(values), output_loading_info=True)
            if found["missing_keys"] or found.get("mismatched_keys"):
                raise ValueError("not all of them")
            state: Mapping[str, Any] = holding.state(loaded)
            return state

        return fitted(network, wish.state(wish.file), said, convert)


def _saved(text: str, place: str, kind: Any, config: Any) -> nn.Module:
    try:
        network, found = kind.from_pretrained(place, config=config, local_files_only=True, output_loading_info=True)
    except Exception as error:
        raise CatalogError(
            f"{text!r}: its weights cannot be read ({type(error).__name__}: {str(error).splitlines()[0][:200]}); put "
            f"model.safetensors into the folder, or ask for {text}=FILE or {text}=random"
        ) from None
    missing = sorted(found["missing_keys"])
    if missing:
        raise CatalogError(
            f"{text!r}: its weights lack {len(missing)} of the network's (such as {missing[0]!r}), which would be "
            "left random; "
            "save the whole network by save_pretrained"
        )
    built: nn.Module = network
    return built


SOURCE = Transformers()
