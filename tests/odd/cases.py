"""What has to come of each odd network: the right numbers and maps, or a refusal with its reason."""

import argparse
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.odd import nets

SIZE = 32
Answers = Callable[[Tensor], Tensor]


def seeded(make: Callable[[], Any]) -> Any:
    """Make a network as a factory of a catalogue is called: its random weights are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def module(make: Callable[[], Any] = nets.plain, **changed: nn.Module) -> Callable[[], nn.Module]:
    """Return how to make the plain network that an odd one has to answer like."""

    def made() -> nn.Module:
        network: nn.Module = seeded(make).float().eval()
        for name, part in changed.items():
            setattr(network, name, part)
        return network.requires_grad_(False)

    return made


def alone(make: Callable[[], Any]) -> Callable[[], Answers]:
    """Return how to make the network itself, run on one picture at a time by plain PyTorch."""

    def made() -> Answers:
        network = seeded(make).eval()
        return lambda x: torch.cat([network(row[None]) for row in x])

    return made


PLAIN = module()


@dataclass(frozen=True)
class Case:
    """One odd network, as an entry of a catalogue.

    truth: makes what answers as it has to: (N, C, H, W) of 0..1 to logits, or values, (N, K).
    factory: its name in `nets`; default: the case's own.
    keys: further lines of the entry.
    task: what its outputs are known as.
    refused: part of the reason, where it does not load.
    checks: those of `GET /models/{name}` that are no `passed`, by name.
    lacks: methods that do not apply, each with part of the reason.
    size: of the input, (height, width).
    tolerance: relative, of numbers and maps.
    unit: what a network's input makes of 1, by which its gradient is smaller.
    file: makes the weights' file: bytes, or what torch.save takes.
    source: the whole network is that file.
    """

    truth: Callable[[], Answers] | None = PLAIN
    factory: str = ""
    keys: str = ""
    task: str = "classification"
    refused: str = ""
    checks: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (SIZE, SIZE)
    tolerance: float = 1e-3
    unit: float = 1.0
    file: Callable[[], Any] | None = None
    source: bool = False


def refused(why: str, **more: Any) -> Case:
    """A network that does not load, and why."""
    return Case(None, refused=why, **more)


ASSUMED = {"task": "warning"}
SINGLY = ASSUMED | {"batch": "warning"}
NO_GRADIENT = ASSUMED | {"gradient": "warning"}
NEEDS_GRADIENT = dict.fromkeys(("saliency", "grad-cam"), "gradient")
BLACK_BOX = ASSUMED | {"layers": "warning"}
SCRIPT = {"grad-cam": "TorchScript", "score-cam": "TorchScript"}
INT8 = {"grad-cam": "int8", "saliency": "int8"}

CASES: dict[str, Case] = {
    # What outputs mean
    "plain": Case(checks=ASSUMED),
    "plain_told": Case(factory="plain", keys="task = 'classification'"),
    "multilabel_told": Case(factory="plain", keys="task = 'multilabel'", task="multilabel"),
    "colours": Case(
        module(nets.colours),
        keys="task = 'multilabel'",
        task="multilabel",
        checks={"layers": "warning"},
        lacks={"grad-cam": "none of its layers answers with a grid"},
    ),
    "sigmoid": Case(task="multilabel"),
    "sigmoid_as_classes": refused("do not add up to 1", factory="sigmoid", keys="task = 'classification'"),
    "softmax": Case(),
    "log_softmax": Case(),
    "rounded_softmax": Case(tolerance=2e-3),
    "in_a_plain_list": Case(checks={"task": "warning", "weights": "warning"}),
    "one": Case(module(nets.one), task="binary", checks=ASSUMED),
    "one_measured": Case(module(nets.one), factory="one", keys="task = 'regression'", task="regression"),
    "one_as_classes": refused("its softmax is 1 for every picture", factory="one", keys="task = 'classification'"),
    "one_sigmoid": Case(module(nets.one), task="binary"),
    "bright": Case(module(nets.bright), task="binary", checks=ASSUMED),
    "embedding": Case(module(nets.embedding), task="embedding"),
    "embedding_told": Case(module(nets.plain), factory="plain", keys="task = 'embedding'", task="embedding"),
    "doubled": Case(module(nets.doubled), checks=ASSUMED),  # the same weights as `plain`
    "wrong_task": refused("set task = 'classification'", factory="plain", keys="task = 'detection'"),
    # Where the answer is
    "a_dict": Case(checks=ASSUMED),
    "a_tuple": Case(checks=ASSUMED),
    "a_list": Case(checks=ASSUMED),
    "an_object": Case(checks=ASSUMED),
    "several": refused("name one of these items, such as output = 0"),
    "several_named": Case(factory="several", keys="output = 1", checks=ASSUMED),
    "output_misspelt": refused("did you mean 'logits'?", factory="a_dict", keys="output = 'logit'"),
    "no_axis": Case(module(nets.one), task="binary", checks=ASSUMED),
    "two_axes_more": Case(checks=ASSUMED),
    "squeezed_at_the_end": Case(checks=ASSUMED),
    "boxes_of_shares": refused("as shares of the picture do; let it return pixels of the input"),
    # Rules that are broken
    "dropout": refused("two answers"),
    "counts": refused("'seen'"),
    "counts_calls": Case(checks=ASSUMED | {"state": "warning"}),
    "batch_statistics": Case(alone(nets.batch_statistics), checks=SINGLY),
    "less_the_mean": Case(alone(nets.less_the_mean), checks=SINGLY),
    "decides": Case(alone(nets.decides), checks=SINGLY),
    "forgets": Case(checks=ASSUMED),
    "no_return": Case(checks=ASSUMED),
    "no_grad": Case(checks=NO_GRADIENT, lacks=NEEDS_GRADIENT),
    "inferring": Case(checks=NO_GRADIENT, lacks=NEEDS_GRADIENT),
    "detached": Case(checks=NO_GRADIENT, lacks=NEEDS_GRADIENT),
    "data_taken": Case(checks=NO_GRADIENT, lacks=NEEDS_GRADIENT),
    "frozen_body": Case(checks=NO_GRADIENT, lacks=NEEDS_GRADIENT),
    "frozen": Case(checks=ASSUMED),
    "nan": refused("not a number"),
    "infinite": refused("infinite or not a number"),
    "nan_for_some": refused("not a number"),
    "argmax": refused("whole numbers"),
    # Inputs
    "grey": refused("set channels = 1"),
    "grey_told": Case(module(nets.grey), factory="grey", keys="channels = 1", checks=ASSUMED),
    "grey_by_its_mean": Case(module(nets.grey), factory="grey", keys="mean = [0.0]\nstd = [1.0]", checks=ASSUMED),
    "four": refused("set channels = 4"),
    "four_told": Case(module(nets.four), factory="four", keys="channels = 4", checks=ASSUMED),
    "six": refused("pictures have 1, 3 or 4"),
    "film": refused("five axes"),
    "two": refused("bind 'age'"),
    "last": refused("channels last"),
    "sized": refused("set input_size = 96"),
    "sized_told": Case(module(nets.sized), factory="sized", keys="input_size = 96", size=(96, 96), checks=ASSUMED),
    "wide": Case(factory="plain", keys="input_size = [48, 96]", size=(48, 96), checks=ASSUMED),
    "in_255_by_std": Case(
        module(lambda: nets.Before(lambda x: x * 255)),
        factory="plain",
        keys="std = 0.00392156862745098",
        checks=ASSUMED,
        unit=255.0,
    ),
    "in_255_by_range": Case(
        module(lambda: nets.Before(lambda x: x * 255)),
        factory="plain",
        keys="range = [0, 255]",
        checks=ASSUMED,
        unit=255.0,
    ),
    "mean_in_255": refused("set range = [0, 255]", factory="plain", keys="mean = [123.7, 116.3, 103.5]"),
    "squeezes": refused("flatten(1)"),
    "writes": Case(module(lambda: nets.Before(lambda x: x * 2)), checks=ASSUMED | {"input": "warning"}),
    "casts": refused("float16"),
    # Forms
    "half": Case(module(nets.half), checks=ASSUMED),
    "bfloat16": Case(module(nets.bfloat16), checks=ASSUMED),
    "double": Case(checks=ASSUMED),
    "parallel": Case(checks=ASSUMED),
    "swa": Case(checks=ASSUMED),
    "compiled": Case(checks=ASSUMED),
    "scripted": Case(checks=BLACK_BOX, lacks=SCRIPT),
    "traced": Case(checks=BLACK_BOX, lacks=SCRIPT),
    "scripted_inside": Case(checks=BLACK_BOX, lacks=SCRIPT),
    "exported": Case(checks=BLACK_BOX, lacks={"grad-cam": "exported"}),
    "exported_for_two": refused("dynamic_shapes"),
    "quantised": Case(checks=NO_GRADIENT | SINGLY, lacks=INT8, tolerance=0.1),
    "static": Case(alone(nets.static), checks=NO_GRADIENT, lacks={"saliency": "int8"}, tolerance=0.05),
    "extra": Case(checks=ASSUMED),
    "lazy": refused("run the network once"),
    "meta": refused("meta device"),
    "bag": refused("its attribute 'model' is one: return that"),
    "one_at_a_time": Case(checks=SINGLY),
    "rowwise": Case(checks=SINGLY),
    "raises": refused("the factory 'tests.odd.nets:raises' raised RuntimeError"),
    "raises_in_forward": refused("its forward raises ValueError"),
    "talks": Case(checks=ASSUMED),
    # Sound ones that were right, and have to stay so
    "custom_function": Case(module(nets.custom_function), checks=ASSUMED),
    "in_place": Case(module(lambda: nets.After(lambda y: y * 2 + 1)), checks=ASSUMED),
    "leaky": Case(module(nets.leaky), checks=ASSUMED),
    "gem": Case(module(nets.gem), checks=ASSUMED),
    "weight_norm": Case(checks=ASSUMED),
    "weight_norm_new": Case(checks=ASSUMED),
    "spectral_norm": Case(alone(nets.spectral_norm), checks=ASSUMED),
    "spectral_norm_new": Case(alone(nets.spectral_norm_new), checks=ASSUMED),
    "caches": Case(alone(nets.caches), checks=ASSUMED),
    "only_float32": Case(checks=ASSUMED),
    "symbolic": Case(checks=ASSUMED),
    "ensemble": Case(module(nets.ensemble), checks=ASSUMED),
    "checkpointed": Case(keys="arguments = {reentrant = false}", checks=ASSUMED),
    "checkpointed_reentrant": Case(factory="checkpointed", keys="arguments = {reentrant = true}", checks=ASSUMED),
    "linear_attention": Case(
        module(nets.linear_attention), checks=ASSUMED, lacks={"deconvnet": "has no ReLU", "cam": ""}
    ),
    "channels_last": Case(module(nets.channels_last), checks=ASSUMED, lacks={"deconvnet": "has no ReLU"}),
    "class_token": Case(module(nets.class_token), checks=ASSUMED, lacks={"deconvnet": "has no ReLU", "cam": ""}),
    "dead_class": Case(module(nets.dead_class), checks=ASSUMED),
    # What an entry says that is not so
    "too_few_labels": refused("2 labels for 3 outputs", factory="plain", keys="labels = 'two.txt'"),
    "too_many_labels": refused("4 labels for 3 outputs", factory="plain", keys="labels = 'four.txt'"),
    "no_such_factory": refused("cannot be imported"),
    "unknown_key": refused("did you mean 'labels'?", factory="plain", keys="lables = 'four.txt'"),
}


# Files: the weights of a plain network with another seed, as tools write them


def state(offset: float = 0.25) -> dict[str, Tensor]:
    """Return weights that no factory makes."""
    return {
        key: value + offset if value.is_floating_point() else value
        for key, value in seeded(nets.plain).state_dict().items()
    }


def prefixed(prefix: str) -> dict[str, Tensor]:
    """Return the same under a prefix."""
    return {prefix + key: value for key, value in state().items()}


def trained(offset: float = 0.25) -> Callable[[], nn.Module]:
    """Return how to make the network that a file's weights make."""

    def made() -> nn.Module:
        network = nets.plain().eval().requires_grad_(False)
        network.load_state_dict(state(offset))
        return network

    return made


def whole() -> nn.Module:
    """Return a whole module, as `torch.save(model)` writes it."""
    network = nets.plain()
    network.load_state_dict(state())
    return network


def exported_file(batch: str | None = "batch") -> bytes:
    """Return a file of torch.export."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(nets.export(batch), buffer)
    return buffer.getvalue()


FILES: dict[str, Callable[[], Any]] = {
    "file": state,
    "file_model_state_dict": lambda: {"model_state_dict": state(), "epoch": 3},
    "file_net": lambda: {"net": state(), "acc": 0.9},
    "file_params": lambda: {"params": state()},
    "file_orig_mod": lambda: prefixed("_orig_mod."),
    "file_module_orig_mod": lambda: prefixed("module._orig_mod."),
    "file_lightning": lambda: {"state_dict": prefixed("model."), "epoch": 3, "pytorch-lightning_version": "2.4"},
    "file_module": lambda: prefixed("module."),
    "file_namespace": lambda: {"model": state(), "args": argparse.Namespace(lr=0.1)},
    "file_numpy": lambda: {"state_dict": state(), "best": np.float64(0.5)},
    "file_ema": lambda: {"state_dict": state(9.0), "state_dict_ema": state()},
    "file_old_batch_norms": lambda: {key: value for key, value in state().items() if "num_batches" not in key},
    "file_safetensors_called_pth": lambda: safetensors.torch.save(state()),
}
CASES |= {name: Case(trained(), "plain", checks=ASSUMED, file=made) for name, made in FILES.items()}
CASES |= {
    "file_own_module": Case(trained(), "own", checks=ASSUMED, file=lambda: prefixed("module.")),
    "file_module_on_both_sides": Case(trained(), "parallel", checks=ASSUMED, file=lambda: prefixed("module.")),
    "file_averaged": Case(
        trained(), "swa", checks=ASSUMED, file=lambda: prefixed("module.") | {"n_averaged": torch.tensor(3)}
    ),
    "file_lightning_of_its_own": Case(
        trained(),
        "lightning",
        checks=ASSUMED,
        file=lambda: {"state_dict": prefixed("model.") | {"loss.weight": torch.ones(3)}, "hyper_parameters": {}},
    ),
    "file_half": Case(
        trained(),
        "plain",
        checks=ASSUMED,
        file=lambda: {key: value.half() if value.is_floating_point() else value for key, value in state().items()},
        tolerance=0.02,
    ),
    "file_whole_module": refused("allow_pickle = true", factory="plain", file=whole),
    "file_whole_module_allowed": Case(trained(), "plain", "allow_pickle = true", checks=ASSUMED, file=whole),
    "file_of_more_classes": refused(
        "2 of another shape", factory="plain", file=lambda: seeded(nets.wide_head).state_dict()
    ),
    "file_without_buffers": refused(
        "missing",
        factory="plain",
        file=lambda: {key: value for key, value in state().items() if "running" not in key},
    ),
    "file_pointer": refused(
        "Git LFS", factory="plain", file=lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    ),
    "file_page": refused("HTML page", factory="plain", file=lambda: b"<!DOCTYPE html><html></html>"),
    "file_empty": refused("empty", factory="plain", file=lambda: b""),
    "file_rubbish": refused("it is text, which begins 'rubbishr", factory="plain", file=lambda: b"rubbish" * 9),
    "file_of_a_script": refused("TorchScript archive", factory="plain", file=nets.script_file),
    "source_script": Case(checks=BLACK_BOX, lacks=SCRIPT, file=lambda: seeded(nets.script_file), source=True),
    "source_export": Case(checks=ASSUMED, file=lambda: seeded(exported_file), source=True),
    "source_export_of_two": refused("dynamic_shapes", file=lambda: exported_file(None), source=True),
}
