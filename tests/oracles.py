"""Independent truths that the methods are held against: what the tests of several of them need.

Nothing here imports the package under test. There are networks and pictures to ask about, the plumbing of two peers
(torch-cam, pytorch-grad-cam), and definitions as plain loops that several methods share. What one method alone needs
stands in that method's own test, and so does its `oracle`:

    def oracle(case: Case) -> Tensor

returns the raw map that the definition gives for a :class:`Case`, the first one where the method has several, with no
help of the package. `PEERS`, where a test has it, names other libraries that compute the same (:class:`Peer`).

A network is a plain ``nn.Module`` in eval mode, an input ``x`` has the shape (1, 3, H, W), a layer is a dotted module
path. Whatever installs hooks or changes modules works on a copy of them.
"""

from __future__ import annotations

import copy
import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Score = Literal["logit", "probability", "value"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PHOTOGRAPHS = ("chelsea", "astronaut", "coffee", "rocket")


@dataclass(frozen=True)
class Case:
    """What a method is asked, in terms that need no part of the package under test."""

    network: nn.Module
    x: Tensor  # (1, 3, H, W), normalised
    layer: str = ""
    target: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)  # of the request; what is left out has its default
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def colour(self, value: float) -> Tensor:
        """Return a grey (0: black, 1: white) as the network is shown it, (1, 3, 1, 1)."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (value - mean) / std


@dataclass(frozen=True)
class Peer:
    """Another library's raw map of a case, and the parameters that make ours speak its convention."""

    call: Callable[[Case], Tensor]
    params: Mapping[str, Any] = field(default_factory=dict)


# ----------------------------------------------------------------------------------------------------------
# Networks and pictures
# ----------------------------------------------------------------------------------------------------------


def _octave_noise(count: int, size: int) -> Tensor:
    """Seeded noise with power at every scale, which is closer to photographs than white noise is."""
    picture = torch.randn(count, 3, 1, 1).expand(count, 3, size, size).clone()
    side = 3
    while side <= size:
        coarse = torch.randn(count, 3, side, side)
        picture += functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
        side *= 2
    return (picture - picture.mean()) / picture.std()


def lively(model: nn.Module, seed: int = 0, size: int = 128) -> nn.Module:
    """Make a random-weight network's outputs depend on its input; changes ``model`` and returns it.

    A freshly initialised network has almost constant logits: signals fade layer by layer and the biases
    decide, so that a comparison at 1e-5 relative error would compare rounding noise. One forward pass on four
    photographs and four seeded noise pictures mends it:

    * each Conv2d and Linear is rescaled, in the order of execution, to an output of standard deviation one
      (the data-dependent initialisation of Mishkin & Matas 2016; a fifth in squeeze-excitation), with small
      seeded biases; one of zeros, as vision transformers' heads are before they learn, gets seeded weights first;
    * BatchNorm gets seeded affine parameters and, roughly, this pass's statistics instead of 0 and 1;
    * ConvNeXt's layer scale of 1e-6 becomes 0.5, or its blocks would be identities;
    * the head is rescaled to logits with a standard deviation of 2.5 over the photographs (and centred on
      them where it is linear), so that probabilities move as well without saturating.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        pictures = [photograph(name, size) for name in PHOTOGRAPHS]
        batch = torch.cat([*pictures, _octave_noise(4, size)]).to(next(model.parameters()).dtype)
        model.eval()
        handles = []

        def rescale(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not module.weight.any():
                nn.init.normal_(module.weight)
                output = module.forward(*inputs)
            # squeeze-excitation works on 1 x 1 maps: strong gates would multiply up from block to block
            gating = output.dim() == 4 and output.shape[2:] == (1, 1)
            module.weight.div_(output.std().clamp_min(1e-12) * (5 if gating else 1))
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
            return module.forward(*inputs)

        def standardise(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
            variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
            module.running_mean.copy_(mean)
            # a channel that hardly varies on these pictures would be blown up on others and at other sizes
            module.running_var.copy_((variance + 0.5 * mean**2).clamp_min(0.2 * float(variance.mean())))
            return module.forward(*inputs)

        head: nn.Conv2d | nn.Linear | None = None
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                head = module
                handles.append(module.register_forward_hook(rescale))
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.6, 1.4)
                nn.init.normal_(module.bias, std=0.3)
                handles.append(module.register_forward_hook(standardise))
        for name, parameter in model.named_parameters():
            if name.endswith("layer_scale"):
                parameter.fill_(0.5)

        model(batch)
        for handle in handles:
            handle.remove()
        if head is not None:
            logits = model(batch[: len(pictures)])
            centre = torch.zeros_like(logits[0])
            if isinstance(head, nn.Linear) and head.bias is not None:
                centre = logits.mean(dim=0)
            factor = 2.5 / float((logits - centre).std().clamp_min(1e-6))
            head.weight.mul_(factor)
            if head.bias is not None:
                head.bias.mul_(factor)
            if isinstance(head, nn.Linear) and head.bias is not None:
                head.bias.sub_(centre * factor)
    return model


_HIDDEN = 256  # features of a narrow classifier


def network(name: str, size: int = 128, light: bool = False) -> nn.Module:
    """Return a seeded torchvision network without pretrained weights, made lively on a size, in eval mode.

    AlexNet and VGG have narrow classifiers. A light one has fewer of what it repeats, where that is most of its cost:
    DenseNet and ConvNeXt fewer blocks, VGG half as many channels.
    """
    import torchvision

    extra: dict[str, Any] = {}
    if name == "googlenet":
        extra = {"aux_logits": False, "init_weights": False}
    elif name == "densenet121":
        extra = {"memory_efficient": False}
    made: AbstractContextManager[object] = nullcontext()
    if name.startswith("vgg"):  # what is replaced needs no hundred million random numbers first
        extra, made = {"init_weights": False}, mock.patch.object(nn.Linear, "reset_parameters", return_value=None)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        with made:
            light = light and name in _LIGHT
            model = _LIGHT[name]() if light else torchvision.models.get_model(name, weights=None, **extra)
        if name.startswith(("alexnet", "vgg")):
            model.classifier = _narrow(model.classifier)
    return lively(model, size=size)


def _narrow(classifier: nn.Module) -> nn.Sequential:
    """Return a classifier of the same make whose hidden layers are narrow.

    Those of AlexNet and VGG hold nearly all of their weights, are what loading and each forward wait for, and are like
    any other linear layer.
    """
    first, *_, last = (module for module in classifier.modules() if isinstance(module, nn.Linear))
    hidden = [nn.Linear(first.in_features, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(_HIDDEN, last.out_features))


def _light_densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=32, block_config=(2, 3, 4, 3), num_init_features=64)


def _light_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths, blocks = (96, 192, 384, 768, None), (2, 1, 2, 1)
    return ConvNeXt([CNBlockConfig(a, b, n) for (a, b), n in zip(itertools.pairwise(widths), blocks, strict=True)])


def _light_vgg() -> nn.Module:
    from torchvision.models.vgg import VGG, make_layers

    with torch.device("meta"):  # its classifier, which is replaced, has a hundred million weights
        model = VGG(nn.Identity(), init_weights=False)
    model.features = make_layers([32, "M", 64, "M", 128, 128, "M", 256, 256, "M", 256, 256, "M"])
    model.classifier[0] = nn.Linear(256 * 7 * 7, 1)
    return model


_LIGHT: dict[str, Callable[[], nn.Module]] = {
    "convnext_tiny": _light_convnext,
    "densenet121": _light_densenet,
    "vgg11": _light_vgg,
}

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    name: functools.partial(network, name, light=True)
    for name in (
        "alexnet",
        "vgg11",
        "resnet18",
        "densenet121",
        "squeezenet1_1",
        "googlenet",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "shufflenet_v2_x1_0",
        "efficientnet_b0",
        "convnext_tiny",
    )
}
"""Builders, not models: each call makes a fresh network, the same one every time."""

LAST_LAYER: dict[str, str] = {
    "alexnet": "features.11",
    "vgg11": "features.19",
    "resnet18": "layer4",
    "densenet121": "features",
    "squeezenet1_1": "features",
    "googlenet": "inception5b",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "features",
    "shufflenet_v2_x1_0": "conv5",
    "efficientnet_b0": "features",
    "convnext_tiny": "features",
}
"""The last feature map of each network (before the last pooling of AlexNet and VGG).

DenseNet's is the map *before* the functional ReLU of its ``forward``.
"""

CAM_HEADS: dict[str, tuple[str, str, bool]] = {
    "resnet18": ("layer4", "fc", False),
    "densenet121": ("features", "classifier", True),
    "googlenet": ("inception5b", "fc", False),
    "mobilenet_v2": ("features", "classifier.1", False),
    "shufflenet_v2_x1_0": ("conv5", "fc", False),
    "efficientnet_b0": ("features", "classifier.1", False),
}
"""Networks whose head is global average pooling -> linear: last map, linear layer, functional ReLU?"""


def photograph(name: str, size: int = 128) -> Tensor:
    """A photograph that ships inside scikit-image, as a normalised (1, 3, size, size) input.

    ``name`` is one of ``PHOTOGRAPHS`` (all bundled: no download). Central square, antialiased bilinear
    resize, ImageNet mean and standard deviation.
    """
    from skimage import data

    pixels = np.ascontiguousarray(getattr(data, name)()[..., :3])
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    height, width = picture.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    picture = picture[:, :, top : top + side, left : left + side]
    picture = functional.interpolate(
        picture,
        size=(size, size),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return (picture.clamp(0, 1) - mean) / std


# ----------------------------------------------------------------------------------------------------------
# Plumbing
# ----------------------------------------------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the peers' warnings here alone; the test run turns every other warning into an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Clone(nn.Module):
    """Hand on a copy, so that in-place operations further down cannot reach the tensor that was captured."""

    def forward(self, value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) else value


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode, on the same weights, whose modules never work in place."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    duplicate = copy.deepcopy(model, shared).eval()
    for module in duplicate.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return duplicate


def tap_path(layer: str) -> str:
    """Return where a network made by `rectifiers.with_module_relus` keeps a layer's output."""
    return "taps.at_" + layer.replace(".", "__")


def isolated(model: nn.Module, layer: str) -> tuple[nn.Module, nn.Module]:
    """Return a plain copy and its ``layer``, followed by a clone.

    A functional in-place ReLU behind the layer (DenseNet, Inception) would otherwise overwrite what a peer's hook has
    stored. In a network of `rectifiers.with_module_relus` the layer's tap stands for the layer.
    """
    duplicate = plain_copy(model)
    names = {name for name, _ in duplicate.named_modules()}
    path = tap_path(layer) if tap_path(layer) in names else layer
    if not path:
        raise ValueError("the layer must be a submodule, not the model itself")
    inner = duplicate.get_submodule(path)
    parent, _, leaf = path.rpartition(".")
    setattr(duplicate.get_submodule(parent), leaf, nn.Sequential(inner, Clone()).eval())
    return duplicate, inner


_ISOLATED: weakref.WeakKeyDictionary[nn.Module, tuple[str, nn.Module, nn.Module]] = weakref.WeakKeyDictionary()


def _isolated_once(model: nn.Module, layer: str) -> tuple[nn.Module, nn.Module]:
    """Return what `isolated` does, copied once for all questions about a layer in a row; nobody may change it."""
    kept = _ISOLATED.get(model)
    if kept is None or kept[0] != layer:
        kept = _ISOLATED[model] = (layer, *isolated(model, layer))
    return kept[1:]


def scored(model: nn.Module, score: Score) -> nn.Module:
    """Return a network whose output is the score: itself, or followed by a softmax."""
    return nn.Sequential(model, nn.Softmax(dim=1)) if score == "probability" else model


def score_of(model: nn.Module, x: Tensor, target: int, score: Score = "logit") -> Tensor:
    """Return the score of one class, or the value, for each picture (N, 3, H, W), as (N,)."""
    outputs = model(x)
    return (torch.softmax(outputs, dim=1) if score == "probability" else outputs)[:, target]


@torch.no_grad()
def scores_of(model: nn.Module, pictures: Iterable[Tensor], target: int, score: Score, at_once: int = 16) -> Tensor:
    """Return the score of one class for each of many pictures (1, 3, H, W), as (N,); few of them exist at a time."""
    found, waiting = [], []
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == at_once:
            found.append(score_of(model, torch.cat(waiting), target, score))
            waiting = []
    if waiting:
        found.append(score_of(model, torch.cat(waiting), target, score))
    return torch.cat(found)


def layer_output(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """Return what the layer itself returns, (1, K, h, w), before anything that follows it in place.

    Behind ``+relu`` it is what a rectifier makes of that.
    """
    path, _, rectified = layer.partition("+")
    duplicate, inner = _isolated_once(model, path)
    seen: list[Tensor] = []
    hook = inner.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach().clone()))
    with hook, torch.no_grad():
        duplicate(x)
    return seen[-1].relu() if rectified else seen[-1]


def maps_and_gradients(model: nn.Module, x: Tensor, layer: str, target: int) -> tuple[Tensor, Tensor]:
    """Return a layer's maps of one picture and the gradient of the class's logit there, (K, h, w) each."""
    a, g = all_maps_and_gradients(model, x, layer, target)
    return a[0], g[0]


def all_maps_and_gradients(model: nn.Module, x: Tensor, layer: str, target: int) -> tuple[Tensor, Tensor]:
    """Return the same of several pictures, (N, K, h, w) each, by plain autograd.

    Several at once, because rounding, which is another one in another batch, decides which ReLU near zero is open.
    """
    duplicate, inner = _isolated_once(model, layer)
    seen: list[Tensor] = []
    hook = inner.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with hook, torch.enable_grad():
        logit = score_of(duplicate, x.detach().clone().requires_grad_(), target)
        (gradient,) = torch.autograd.grad(logit.sum(), seen[-1])
    return seen[-1].detach(), gradient


def torchcam_raw(name: str, case: Case, *arguments: Any, **options: Any) -> Tensor:
    """Return a raw map (h, w) of one of torch-cam's methods, unscaled.

    The further arguments are those of the method's constructor, modules of the network by their paths.
    """
    with quiet(), torch.enable_grad():
        from torchcam import methods

        duplicate, inner = isolated(case.network, case.layer)
        given = [duplicate.get_submodule(argument) for argument in arguments]
        with getattr(methods, name)(duplicate, inner, *given, **options) as extractor:
            scores = duplicate(case.x.detach().clone().requires_grad_())
            wanted = (case.target, scores) if extractor._score_used else (case.target,)
            maps = extractor(*wanted, normalized=False)
    return maps[0][0].detach()


def pytorch_grad_cam_raw(name: str, case: Case, relu: bool = True) -> Tensor:
    """Return a raw map (h, w) of one of pytorch-grad-cam's methods: its sum, from before scaling and enlarging.

    The library goes on with ReLU (repeated here unless told otherwise), min-max scaling at the layer's size
    (denominator 1e-7 + max), OpenCV's bilinear enlargement and a second scaling.
    """
    with quiet(), torch.enable_grad():
        import pytorch_grad_cam
        import tqdm
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        duplicate, inner = isolated(case.network, case.layer)
        kept: list[np.ndarray] = []
        # some of its methods draw a progress bar on stderr unconditionally
        with (
            mock.patch.object(tqdm, "tqdm", lambda iterable: iterable),
            getattr(pytorch_grad_cam, name)(model=duplicate, target_layers=[inner]) as cam,
        ):
            original = cam.get_cam_image

            def keep(*args: Any, **kwargs: Any) -> np.ndarray:
                kept.append(original(*args, **kwargs))
                return kept[-1]

            cam.get_cam_image = keep
            cam(input_tensor=case.x.detach().clone().requires_grad_(), targets=[ClassifierOutputTarget(case.target)])
    raw = torch.from_numpy(np.array(kept[0][0]))
    return raw.clamp_min(0) if relu else raw


# ----------------------------------------------------------------------------------------------------------
# Definitions as loops
# ----------------------------------------------------------------------------------------------------------


def weighted_sum(weights: Iterable[Tensor | float], planes: Iterable[Tensor]) -> Tensor:
    """Return sum_k w_k A_k, (h, w), one plane after the other."""
    total: Tensor | None = None
    for weight, plane in zip(weights, planes, strict=True):
        total = weight * plane if total is None else total + weight * plane
    assert total is not None
    return total


@torch.no_grad()
def weighted_maps(case: Case) -> tuple[Tensor, Tensor]:
    """Return the head's signed map sum_k w_k A_k (h, w), and the output that it implies: its mean, and the bias.

    The head is the network's last linear layer. Zhou et al. 2016 (CAM) and Wang & Yang 2017 (RAM).
    """
    head = [module for module in case.network.modules() if isinstance(module, nn.Linear)][-1]
    m = weighted_sum(head.weight[case.target], layer_output(case.network, case.x, case.layer)[0])
    return m, m.mean() + (0 if head.bias is None else head.bias[case.target])


def enlarge(plane: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """Return a map (h, w) at another size; `-corners` aligns the corner points."""
    mode = interpolation.removesuffix("-corners")
    corners = {} if mode == "nearest" else {"align_corners": interpolation.endswith("-corners")}
    return functional.interpolate(plane[None, None], size=size, mode=mode, **corners)[0, 0]


def unit_range(plane: Tensor) -> Tensor:
    """Scale to 0..1 by the exact extremes, without an epsilon; a constant plane gives zeros."""
    low, high = plane.min(), plane.max()
    if low == high:
        return torch.zeros_like(plane)
    return (plane - low) / (high - low)


@torch.no_grad()
def masked_cam(case: Case, vary: Callable[[Tensor], Iterable[Tensor]] = lambda mask: [mask]) -> tuple[Tensor, Tensor]:
    """Score-CAM and its kin, Wang et al. 2020, Algorithm 1, one channel after the other.

    For each channel k: enlarge A_k to the input's size, min-max to 0..1, vary the mask (H, W), multiply each variation
    into X, forward; CIC_k = mean f(X * H_k) - f(X_b), X_b being X behind a mask of zeros (`black`), nothing, or X
    itself. The weights are the softmax of the CIC over channels (they sum to one) or the CIC as they are. A constant
    channel has an all-zero mask, so its CIC is that of the fully masked picture.

    ``space`` says what the mask multiplies: the ``pixels`` in 0..1, from which the input is then normalised anew (all
    zeros: a black picture), or the ``normalised`` input, as the libraries do (all zeros: the mean colour).
    ``normalise="before"`` scales at the layer's size and enlarges afterwards (not the paper; a peer does it).

    Returns:
        The map ReLU(sum_k w_k A_k) at the layer's own size (h, w), and the CIC (K,).
    """
    defaults = {"score": "probability", "baseline": "black", "weights": "softmax", "interpolation": "bilinear"}
    how = {**defaults, "normalise": "after", "space": "pixels", **case.params}
    a = layer_output(case.network, case.x, case.layer)[0]
    size = (case.x.shape[2], case.x.shape[3])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (case.mean, case.std))

    def masked(mask: Tensor) -> Tensor:
        if how["space"] == "normalised":
            return case.x * mask
        return ((case.x * std + mean) * mask - mean) / std

    def f(pictures: Iterable[Tensor]) -> Tensor:
        return scores_of(case.network, pictures, case.target, how["score"])

    behind = {"black": [masked(torch.zeros(size))], "input": [case.x], "none": []}[how["baseline"]]
    reference = f(behind)[0] if behind else 0.0

    def variations() -> Iterator[Tensor]:
        for plane in a:
            if how["normalise"] == "after":
                mask = unit_range(enlarge(plane, size, how["interpolation"]))
            else:
                mask = enlarge(unit_range(plane), size, how["interpolation"]).clamp(0, 1)
            yield from map(masked, vary(mask))

    cic = f(variations()).view(len(a), -1).mean(1) - reference
    weights = torch.softmax(cic, dim=0) if how["weights"] == "softmax" else cic
    return weighted_sum(weights, a).clamp_min(0), cic


# ----------------------------------------------------------------------------------------------------------
# Numbers
# ----------------------------------------------------------------------------------------------------------


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest absolute difference over the largest expected magnitude; 0 for two all-zero tensors."""
    difference = float((actual.double() - expected.double()).abs().max())
    scale = float(expected.double().abs().max())
    return difference / scale if scale > 0 else difference


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of all entries (ties get their mean rank); NaN if one is constant."""
    from scipy.stats import spearmanr

    with quiet():
        result = spearmanr(a.detach().double().flatten().numpy(), b.detach().double().flatten().numpy())
    return float(result.statistic)
