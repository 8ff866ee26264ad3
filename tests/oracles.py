"""Independent truths that the explainers are tested against.

Two kinds of oracle live here, and neither imports anything of the package under test:

* *peers*: wrappers that call another library (Captum, torch-cam, pytorch-grad-cam) and hand back its raw map,
  before any scaling for a picture;
* *slow re-implementations*: the papers' definitions written as plain loops, one forward at a time.

Every oracle takes a plain ``nn.Module`` in eval mode, an input ``x`` of shape (1, 3, H, W), a dotted module
path for the layer and integer targets, and returns detached tensors. Whatever installs hooks or changes
modules works on a deep copy, so that the caller's model is never touched.

Score-CAM: what each peer computes, in the parameters of :func:`slow_score_cam`
------------------------------------------------------------------------------
================  ==========  ==================  =========  ==================  ===================
peer              score       baseline            weights    interpolation       normalise
================  ==========  ==================  =========  ==================  ===================
torch-cam         logit       input (no effect)   softmax    bilinear            before
pytorch-grad-cam  logit       none (no effect)    softmax    bilinear-corners    after
================  ==========  ==================  =========  ==================  ===================

The baseline is one number subtracted from every channel's score, and a softmax over channels is blind to it;
it matters for ``weights="raw"`` and for the CIC that is reported. Both peers multiply the normalised input
(``space="normalised"``).
"""

from __future__ import annotations

import copy
import functools
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

Score = Literal["logit", "probability"]
Baseline = Literal["black", "none", "input"]
Weights = Literal["softmax", "raw"]
Interpolation = Literal["bilinear", "bilinear-corners", "bicubic", "nearest"]
Normalise = Literal["after", "before"]
Space = Literal["pixels", "normalised"]
Rule = Literal["deconvnet", "guided", "gradient"]
Position = tuple[int, int] | Literal["all"] | None

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PHOTOGRAPHS = ("chelsea", "astronaut", "coffee", "rocket")


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
      seeded biases;
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


def _network(name: str) -> nn.Module:
    """One seeded torchvision network without pretrained weights, made lively, in eval mode."""
    import torchvision

    extra: dict[str, Any] = {}
    if name == "googlenet":
        extra = {"aux_logits": False, "init_weights": False}
    elif name == "densenet121":
        extra = {"memory_efficient": False}
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, **extra)
    return lively(model)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    name: functools.partial(_network, name)
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
def _quiet() -> Iterator[None]:
    """Silence the peers' warnings here alone; the test run turns every other warning into an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Clone(nn.Module):
    """Hand on a copy, so that in-place operations further down cannot reach the tensor that was captured."""

    def forward(self, value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) else value


def _plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode whose modules never work in place."""
    duplicate = copy.deepcopy(model).eval()
    for module in duplicate.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return duplicate


def _tap_path(layer: str) -> str:
    return "taps.at_" + layer.replace(".", "__")


def _isolated(model: nn.Module, layer: str) -> tuple[nn.Module, nn.Module]:
    """A plain copy and its ``layer``, followed by a clone.

    A functional in-place ReLU behind the layer (DenseNet, Inception) would otherwise overwrite what a peer's
    hook has stored. In a model made by :func:`with_module_relus` the layer's tap stands for the layer.
    """
    duplicate = _plain_copy(model)
    names = {name for name, _ in duplicate.named_modules()}
    path = _tap_path(layer) if _tap_path(layer) in names else layer
    if not path:
        raise ValueError("the layer must be a submodule, not the model itself")
    inner = duplicate.get_submodule(path)
    parent, _, leaf = path.rpartition(".")
    setattr(duplicate.get_submodule(parent), leaf, nn.Sequential(inner, _Clone()).eval())
    return duplicate, inner


def _scored(model: nn.Module, score: Score) -> nn.Module:
    return nn.Sequential(model, nn.Softmax(dim=1)) if score == "probability" else model


def _score_of(model: nn.Module, x: Tensor, target: int, score: Score) -> Tensor:
    """The score of one class for one picture, as a 0-dimensional tensor."""
    logits = model(x)[0]
    return logits[target] if score == "logit" else torch.softmax(logits, dim=0)[target]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def layer_output(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """What the layer itself returns, (1, K, h, w), before anything that follows it in place."""
    duplicate, inner = _isolated(model, layer)
    seen: list[Tensor] = []
    inner.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach().clone()))
    with torch.no_grad():
        duplicate(x)
    return seen[-1]


def deconv_seed(activation: Tensor, channel: int, position: Position = None) -> Tensor:
    """The signal that a deconvnet starts from: the chosen activations with their own values, zero elsewhere.

    ``position`` is a (row, column), ``None`` for the channel's strongest activation (the first of equals), or
    ``"all"`` for the whole channel. ``activation`` is (1, K, h, w).
    """
    seed = torch.zeros_like(activation)
    plane = activation[0, channel].detach()
    if position == "all":
        seed[0, channel] = plane
        return seed
    if position is None:
        strongest = int(plane.flatten().argmax())
        position = (strongest // plane.shape[1], strongest % plane.shape[1])
    row, column = position
    seed[0, channel, row, column] = plane[row, column]
    return seed


# ----------------------------------------------------------------------------------------------------------
# Peers
# ----------------------------------------------------------------------------------------------------------


def captum_grad_cam(model: nn.Module, x: Tensor, layer: str, target: int, relu: bool = True) -> Tensor:
    """Captum ``LayerGradCam``, raw, at the layer's own size (h, w).

    Convention: the gradient of the class *logit*, averaged over space (a mean, not a sum), times the
    activation, summed over channels (``attr_dim_summation``), ReLU last if asked for. No scaling, no
    enlargement.
    """
    with _quiet(), torch.enable_grad():
        from captum.attr import LayerGradCam

        duplicate, inner = _isolated(model, layer)
        cam = LayerGradCam(duplicate, inner).attribute(
            x.detach().clone(), target=target, relu_attributions=relu, attr_dim_summation=True
        )
    return cam[0, 0].detach()


def captum_saliency(
    model: nn.Module, x: Tensor, target: int, *, score: Score = "logit", signed: bool = False
) -> Tensor:
    """Captum ``Saliency``: the absolute gradient at every input value, (3, H, W); no channel maximum."""
    with _quiet(), torch.enable_grad():
        from captum.attr import Saliency

        duplicate = _scored(_plain_copy(model), score)
        gradient = Saliency(duplicate).attribute(x.detach().clone(), target=target, abs=not signed)
    return gradient[0].detach()


def captum_occlusion(
    model: nn.Module,
    x: Tensor,
    target: int,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    fill: Tensor | float = 0,
    *,
    score: Score = "logit",
) -> Tensor:
    """Captum ``Occlusion`` with a window over all three channels, (H, W).

    Convention: f(X) - f(X occluded), positive where hiding a region lowers the score; each pixel gets the
    mean of the drops of the windows that cover it. Windows start at 0, s, 2s, ... until the far edge is
    reached, so that the last one may be cut off. Captum refuses a stride larger than the window. ``fill`` is
    a number or anything that broadcasts to x.
    """
    height, width = _pair(window)
    down, right = _pair(stride)
    baseline = fill.expand_as(x).clone() if isinstance(fill, Tensor) else fill
    with _quiet(), torch.no_grad():
        from captum.attr import Occlusion

        attribution = Occlusion(_scored(_plain_copy(model), score)).attribute(
            x.detach().clone(),
            sliding_window_shapes=(x.shape[1], height, width),
            strides=(x.shape[1], down, right),
            baselines=baseline,
            target=target,
            perturbations_per_eval=16,
        )
    return attribution[0, 0].detach()


class _Neuron(nn.Module):
    """A network cut at a layer: its one output has the deconvnet seed as its gradient at that layer."""

    def __init__(self, body: nn.Module, inner: nn.Module, channel: int, position: Position) -> None:
        super().__init__()
        self.body = body
        self._choice = (channel, position)
        self._seen: list[Tensor] = []
        inner.register_forward_hook(lambda _module, _inputs, output: self._seen.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self._seen.clear()
        self.body(x)
        activation = self._seen[-1]
        # d/da (a.detach() * a) = a: the projection starts from the activation's own value and not from one
        seed = deconv_seed(activation, *self._choice)
        return (seed * activation).flatten(1).sum(dim=1)


def captum_deconvolution(
    model: nn.Module,
    x: Tensor,
    layer: str,
    channel: int,
    position: Position = None,
    *,
    guided: bool = False,
) -> Tensor:
    """Captum ``Deconvolution`` (or ``GuidedBackprop``) of the chosen activation of an inner layer, (3, H, W).

    Captum starts from a model's output, so the network is cut at the layer (see :func:`deconv_seed` for the
    choice; the signal is the activation's own value). Captum hooks ``nn.ReLU`` *modules* alone: hand it
    ``with_module_relus(model)`` where a network rectifies by function or by ReLU6, or the result is silently
    the plain gradient. Its hook sits on the ReLU's input tensor and replaces the whole gradient there, so it
    is right only where that tensor has no second consumer; that holds for every network of ``NETWORKS``, not
    for pre-activation residual networks.
    """
    with _quiet(), torch.enable_grad():
        from captum.attr import Deconvolution, GuidedBackprop

        duplicate, inner = _isolated(model, layer)
        neuron = _Neuron(duplicate, inner, channel, position).eval()
        method = GuidedBackprop(neuron) if guided else Deconvolution(neuron)
        projection = method.attribute(x.detach().clone())
    return projection[0].detach()


def torchcam_cam(model: nn.Module, x: Tensor, layer: str, head: str, target: int) -> Tensor:
    """torch-cam's base ``CAM``, raw (h, w): the head's weights over the layer's channels; no ReLU, no bias.

    Its documentation writes a ReLU, which the code does not apply. The layer is a module: a functional ReLU
    in front of the pooling (DenseNet) is not seen.
    """
    with _quiet(), torch.no_grad():
        from torchcam.methods import CAM

        duplicate, inner = _isolated(model, layer)
        with CAM(duplicate, inner, duplicate.get_submodule(head)) as extractor:
            duplicate(x)
            maps = extractor(target, normalized=False)
    return maps[0][0].detach()


def torchcam_grad_cam(model: nn.Module, x: Tensor, layer: str, target: int) -> Tensor:
    """torch-cam ``GradCAM``, raw (h, w): mean gradient of the logit times activation, ReLU *always*."""
    with _quiet(), torch.enable_grad():
        from torchcam.methods import GradCAM

        duplicate, inner = _isolated(model, layer)
        with GradCAM(duplicate, inner) as extractor:
            scores = duplicate(x.detach().clone().requires_grad_())
            maps = extractor(target, scores, normalized=False)
    return maps[0][0].detach()


def torchcam_score_cam(model: nn.Module, x: Tensor, layer: str, target: int) -> Tensor:
    """torch-cam ``ScoreCAM``, raw (h, w), after its ReLU and before its scaling to 0..1.

    Convention, from its source:

    * masks: each channel is min-max scaled to 0..1 at the layer's *own* size (denominator max + 1e-8; a
      constant channel gives an all-zero mask) and enlarged afterwards, bilinearly with
      ``align_corners=False``, so that an enlarged mask need not reach 0 or 1;
    * score: the model's raw output for the class (a logit for a classifier, no softmax over classes);
    * baseline: the score of the *unmasked* input is subtracted;
    * weights: softmax over the channels, which makes the baseline immaterial;
    * map: weights times the *raw* activations, summed, ReLU, not enlarged.

    Reproduced by ``slow_score_cam(..., score="logit", baseline="input", weights="softmax",
    interpolation="bilinear", normalise="before")``.
    """
    with _quiet(), torch.no_grad():
        from torchcam.methods import ScoreCAM

        duplicate, inner = _isolated(model, layer)
        with ScoreCAM(duplicate, inner) as extractor:
            duplicate(x)
            maps = extractor(target, normalized=False)
    return maps[0][0].detach()


def _pytorch_grad_cam_raw(method: str, model: nn.Module, x: Tensor, layer: str, target: int) -> Tensor:
    """Run one of pytorch-grad-cam's methods as it is and keep its sum from before ReLU and scaling."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    duplicate, inner = _isolated(model, layer)
    kept: list[np.ndarray] = []
    with getattr(pytorch_grad_cam, method)(model=duplicate, target_layers=[inner]) as cam:
        original = cam.get_cam_image

        def keep(*args: Any, **kwargs: Any) -> np.ndarray:
            kept.append(original(*args, **kwargs))
            return kept[-1]

        cam.get_cam_image = keep
        cam(input_tensor=x.detach().clone(), targets=[ClassifierOutputTarget(target)])
    return torch.from_numpy(np.array(kept[0][0]))


def pytorch_grad_cam_grad_cam(
    model: nn.Module,
    x: Tensor,
    layer: str,
    target: int,
    relu: bool = True,
) -> Tensor:
    """pytorch-grad-cam ``GradCAM``, raw (h, w): mean gradient of the logit times activation.

    The library goes on with ReLU, min-max scaling at the layer's size (denominator 1e-7 + max), OpenCV's
    bilinear enlargement to the input's size and a second scaling; only the ReLU is repeated here.
    """
    with _quiet(), torch.enable_grad():
        raw = _pytorch_grad_cam_raw("GradCAM", model, x, layer, target)
    return raw.clamp_min(0) if relu else raw


def pytorch_grad_cam_score_cam(
    model: nn.Module,
    x: Tensor,
    layer: str,
    target: int,
    relu: bool = True,
) -> Tensor:
    """pytorch-grad-cam ``ScoreCAM``, raw (h, w), before its scaling to 0..1 and enlargement.

    Convention, from its source:

    * masks: each channel is enlarged first (``nn.UpsamplingBilinear2d``, which is ``align_corners=True``) and
      then min-max scaled at the *input's* size (denominator max - min + 1e-8; a constant channel gives an
      all-zero mask);
    * score: the model's raw output for the class (a logit for a classifier, no softmax over classes);
    * baseline: none is subtracted;
    * weights: softmax over the channels of the scores;
    * map: weights times the *raw* activations, summed, then ReLU (repeated here), min-max scaling and
      OpenCV's bilinear enlargement (left out here).

    Reproduced by ``slow_score_cam(..., score="logit", baseline="none", weights="softmax",
    interpolation="bilinear-corners", normalise="after")``.
    """
    with _quiet(), torch.no_grad():
        import tqdm

        # the library draws a progress bar on stderr unconditionally
        with mock.patch.object(tqdm, "tqdm", lambda iterable: iterable):
            raw = _pytorch_grad_cam_raw("ScoreCAM", model, x, layer, target)
    return raw.clamp_min(0) if relu else raw


# ----------------------------------------------------------------------------------------------------------
# Slow re-implementations
# ----------------------------------------------------------------------------------------------------------


def _enlarge(plane: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    if interpolation == "nearest":
        return functional.interpolate(plane[None, None], size=size, mode="nearest")[0, 0]
    mode = "bicubic" if interpolation == "bicubic" else "bilinear"
    corners = interpolation == "bilinear-corners"
    return functional.interpolate(plane[None, None], size=size, mode=mode, align_corners=corners)[0, 0]


def _unit_range(plane: Tensor) -> Tensor:
    """Min-max to 0..1 by the exact extremes, without an epsilon; a constant plane gives zeros."""
    low, high = plane.min(), plane.max()
    if low == high:
        return torch.zeros_like(plane)
    return (plane - low) / (high - low)


@torch.no_grad()
def slow_score_cam(
    model: nn.Module,
    x: Tensor,
    layer: str,
    target: int,
    score: Score = "probability",
    baseline: Baseline = "black",
    weights: Weights = "softmax",
    interpolation: Interpolation = "bilinear",
    normalise: Normalise = "after",
    space: Space = "pixels",
) -> tuple[Tensor, Tensor]:
    """Score-CAM, Wang et al. 2020, Algorithm 1, one channel and one forward at a time.

    For each channel k: enlarge A_k to the input's size, min-max to 0..1, multiply into X, forward;
    CIC_k = f(X * H_k) - f(baseline), the baseline being X behind a mask of zeros, nothing, or X itself. The
    weights are the softmax of the CIC over channels (they sum to one) or the CIC as they are. Returns the map
    ReLU(sum_k w_k A_k) at the layer's own size (h, w) and the CIC (K,). A constant channel has an all-zero
    mask, so its CIC is that of the fully masked picture.

    ``space`` says what the mask multiplies: the ``pixels`` in 0..1, from which the input is then normalised anew
    (all zeros: a black picture), or the ``normalised`` input, as the libraries do (all zeros: the mean colour).
    Pixels are those of ImageNet's mean and deviation.

    ``normalise="before"`` scales at the layer's size and enlarges afterwards (not the paper; a peer does it).
    """
    activation = layer_output(model, x, layer)[0]
    size = (x.shape[2], x.shape[3])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def masked(mask: Tensor) -> Tensor:
        if space == "normalised":
            return x * mask
        picture = x * std + mean
        return (picture * mask - mean) / std

    if baseline == "black":
        reference = _score_of(model, masked(torch.zeros(size)), target, score)
    elif baseline == "input":
        reference = _score_of(model, x, target, score)
    else:
        reference = torch.zeros((), dtype=x.dtype)

    increases = []
    for plane in activation:
        if normalise == "after":
            mask = _unit_range(_enlarge(plane, size, interpolation))
        else:
            mask = _enlarge(_unit_range(plane), size, interpolation)
        increases.append(_score_of(model, masked(mask), target, score) - reference)
    cic = torch.stack(increases)

    importance = torch.softmax(cic, dim=0) if weights == "softmax" else cic
    total = torch.zeros_like(activation[0])
    for weight, plane in zip(importance, activation, strict=True):
        total = total + weight * plane
    return total.clamp_min(0), cic


@torch.no_grad()
def slow_occlusion(
    model: nn.Module,
    x: Tensor,
    target: int,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    fill: Tensor | float = 0,
    score: Score = "logit",
) -> tuple[Tensor, Tensor]:
    """Occlusion, Zeiler & Fergus 2014, one forward per position.

    Returns the grid of drops f(X) - f(X occluded), (rows, columns), and the map (H, W) in which each pixel
    has the mean over the windows that cover it (zero where a stride larger than the window leaves a pixel
    uncovered). Windows start at 0, s, 2s, ... until one reaches the far edge, and are cut off there. ``fill``
    is a number or anything that broadcasts to x.
    """
    height, width = _pair(window)
    down, right = _pair(stride)
    size = (x.shape[2], x.shape[3])
    filled = fill.expand_as(x) if isinstance(fill, Tensor) else torch.full_like(x, fill)

    def starts(length: int, extent: int, step: int) -> list[int]:
        found = [0]
        while found[-1] + extent < length:
            found.append(found[-1] + step)
        # a step beyond the window may jump over the edge: a window that hides nothing is none
        return [start for start in found if start < length]

    tops, lefts = starts(size[0], height, down), starts(size[1], width, right)
    clean = _score_of(model, x, target, score)
    grid = torch.zeros(len(tops), len(lefts), dtype=x.dtype)
    total = torch.zeros(size, dtype=x.dtype)
    covered = torch.zeros(size, dtype=x.dtype)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            hidden = (slice(top, top + height), slice(left, left + width))
            occluded = x.clone()
            occluded[:, :, *hidden] = filled[:, :, *hidden]
            drop = clean - _score_of(model, occluded, target, score)
            grid[row, column] = drop
            total[hidden] += drop
            covered[hidden] += 1
    return grid, total / covered.clamp_min(1)


@torch.no_grad()
def slow_cam(
    model: nn.Module,
    x: Tensor,
    layer: str,
    weight: Tensor,
    bias: Tensor | None,
    target: int,
    *,
    functional_relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """CAM, Zhou et al. 2016 (and RAM, Wang & Yang 2017, with the regression output as the target).

    Returns the signed map M = sum_k weight[target, k] A_k, (h, w), with no ReLU and no bias, and the logit
    that it implies, mean(M) + bias[target], which must be the model's own. ``functional_relu`` rectifies the
    layer's output first, for networks whose ``forward`` does so between the layer and the pooling (DenseNet).
    """
    activation = layer_output(model, x, layer)[0]
    if functional_relu:
        activation = activation.clamp_min(0)
    total = torch.zeros_like(activation[0])
    for factor, plane in zip(weight[target], activation, strict=True):
        total = total + factor * plane
    logit = total.mean() if bias is None else total.mean() + bias[target]
    return total, logit.detach()


def input_gradient(model: nn.Module, x: Tensor, target: int, score: Score = "logit") -> Tensor:
    """The signed gradient of a score at the input, (3, H, W): Simonyan et al. 2014, no absolute value."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_score_of(model, leaf, target, score), leaf)
    return gradient[0]


def slow_smooth_grad(
    model: nn.Module,
    x: Tensor,
    target: int,
    noises: Sequence[Tensor],
    score: Score = "logit",
    *,
    magnitude: bool = False,
) -> Tensor:
    """SmoothGrad, Smilkov et al. 2017: the mean over given noises of the gradient at x + noise, (3, H, W).

    Signed gradients are averaged, as in the paper; ``magnitude`` averages their absolute values instead.
    """
    total = torch.zeros_like(x[0])
    for noise in noises:
        gradient = input_gradient(model, x + noise, target, score)
        total = total + (gradient.abs() if magnitude else gradient)
    return total / len(noises)


@torch.no_grad()
def explicit_deconvnet(
    features: nn.Sequential, x: Tensor, index: int, channel: int, position: Position = None
) -> Tensor:
    """A real deconvnet, Zeiler & Fergus 2014, for VGG-style features; the projection (3, H, W).

    ``features[index]`` is the layer whose activation is kept (see :func:`deconv_seed`). On the way back every
    max-pool is an ``nn.MaxUnpool2d`` fed with its switches, every ReLU rectifies the *signal*, every
    convolution is a transposed convolution with the same filters and no bias. BatchNorm, which the paper does
    not have, multiplies by its eval-mode scale, as its own transpose does. Only pools that do not overlap:
    elsewhere unpooling overwrites what a gradient would add up.
    """
    signal = x
    records: list[tuple[nn.Module, torch.Size, Tensor | None]] = []
    for module in list(features)[: index + 1]:
        shape, switches = signal.shape, None
        if isinstance(module, nn.Conv2d):
            signal = functional.conv2d(
                signal,
                module.weight,
                module.bias,
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
            )
        elif isinstance(module, nn.BatchNorm2d):
            signal = functional.batch_norm(
                signal,
                module.running_mean,
                module.running_var,
                module.weight,
                module.bias,
                training=False,
                eps=module.eps,
            )
        elif isinstance(module, nn.ReLU):
            signal = signal.clamp_min(0)
        elif isinstance(module, nn.MaxPool2d):
            if _pair(module.kernel_size) != _pair(module.stride) or _pair(module.padding) != (0, 0):
                raise ValueError("only pools that do not overlap have an exact unpooling")
            signal, switches = functional.max_pool2d(
                signal, module.kernel_size, module.stride, ceil_mode=module.ceil_mode, return_indices=True
            )
        else:
            raise ValueError(f"no deconvnet counterpart here for {type(module).__name__}")
        records.append((module, shape, switches))

    signal = deconv_seed(signal, channel, position)
    for module, shape, switches in reversed(records):
        if isinstance(module, nn.Conv2d):
            if isinstance(module.padding, str):
                raise ValueError("named paddings are not supported")
            leftover = [
                shape[2 + axis]
                - (
                    (signal.shape[2 + axis] - 1) * module.stride[axis]
                    - 2 * module.padding[axis]
                    + module.dilation[axis] * (module.kernel_size[axis] - 1)
                    + 1
                )
                for axis in (0, 1)
            ]
            signal = functional.conv_transpose2d(
                signal,
                module.weight,
                bias=None,
                stride=module.stride,
                padding=module.padding,
                output_padding=leftover,
                groups=module.groups,
                dilation=module.dilation,
            )
        elif isinstance(module, nn.BatchNorm2d):
            scale = module.weight / torch.sqrt(module.running_var + module.eps)
            signal = signal * scale.view(1, -1, 1, 1)
        elif isinstance(module, nn.ReLU):
            signal = signal.clamp_min(0)
        elif isinstance(module, nn.MaxPool2d):
            unpool = nn.MaxUnpool2d(module.kernel_size, module.stride)
            signal = unpool(signal, switches, output_size=shape)
    return signal[0]


# ----------------------------------------------------------------------------------------------------------
# Rectifiers as modules, and backward rules by hand
# ----------------------------------------------------------------------------------------------------------


class Rectifier(nn.ReLU):
    """One use of a ReLU (or ReLU6, with ``ceiling=6``), never in place.

    It stays a subclass of ``nn.ReLU`` so that Captum's hooks recognise it. For ReLU6 the rules are:
    *deconvnet* rectifies the signal and ignores both bends of the forward function; *guided* also multiplies
    by 0 < x < 6, which is the function's own derivative. Captum does the same, since it rectifies grad_output
    or grad_input.
    """

    def __init__(self, ceiling: float | None = None) -> None:
        super().__init__(inplace=False)
        self.ceiling = ceiling

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x) if self.ceiling is None else functional.hardtanh(x, 0.0, self.ceiling)


class _TapTracer(fx.Tracer):
    """Symbolic tracer that passes every module's output through a clone at ``taps.at_<path>``.

    A traced graph has no ``layer4`` any more, only the leaves inside; the taps keep such layers reachable. A
    module that is called several times has one tap, which the last call leaves its value in.
    """

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        if not isinstance(output, fx.Proxy):
            return output
        target = _tap_path(self.path_of_module(m))
        self.root.get_submodule("taps").add_module(target.removeprefix("taps."), _Clone())
        return self.create_proxy("call_module", target, (output,), {})


_RELU_FUNCTIONS = {functional.relu, functional.relu_, torch.relu, torch.relu_}
_RELU_METHODS = {"relu", "relu_"}
_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def _ceiling_of(node: fx.Node, model: nn.Module) -> tuple[bool, float | None]:
    """Whether a node rectifies, and at which ceiling."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return isinstance(module, nn.ReLU | nn.ReLU6), 6.0 if isinstance(module, nn.ReLU6) else None
    if node.op == "call_function":
        return (
            node.target in _RELU_FUNCTIONS or node.target is functional.relu6,
            6.0 if node.target is functional.relu6 else None,
        )
    return node.op == "call_method" and node.target in _RELU_METHODS, None


def with_module_relus(model: nn.Module) -> fx.GraphModule:
    """An equivalent copy in which every use of a ReLU or ReLU6 is a :class:`Rectifier` module of its own.

    For networks that rectify by function (GoogLeNet, the tail of DenseNet), by ReLU6 (MobileNetV2), in place,
    or with one module used twice (ResNet): module hooks miss or confuse these. The copy is a traced graph;
    the oracles here find its layers by the original paths, composite ones included. Smooth activations (SiLU,
    Hardswish, GELU) are left alone: neither the deconvnet nor the guided rule speaks of them.
    """
    duplicate = _plain_copy(model)
    duplicate.add_module("taps", nn.Module())
    tracer = _TapTracer()
    graph = tracer.trace(duplicate)
    duplicate.add_module("rectifiers", nn.Module())
    count = 0
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _OUT_OF_PLACE:
            node.target = _OUT_OF_PLACE[node.target]
            continue
        rectifies, ceiling = _ceiling_of(node, duplicate)
        if not rectifies:
            continue
        target = f"rectifiers.relu_{count}"
        duplicate.get_submodule("rectifiers").add_module(f"relu_{count}", Rectifier(ceiling))
        count += 1
        signal = node.args[0] if node.args else node.kwargs["input"]
        with graph.inserting_after(node):
            replacement = graph.call_module(target, (signal,))
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    graph.lint()
    return fx.GraphModule(duplicate, graph).eval()


def manual_backward_rule(model: nn.Module, x: Tensor, layer: str, seed: Tensor, rule: Rule) -> Tensor:
    """Send a signal from a layer back to the input by a rule for rectifiers, written by hand; (3, H, W).

    ``deconvnet`` (Zeiler & Fergus 2014): relu(grad_out), whatever the forward value was; ``guided``
    (Springenberg et al. 2015): relu(grad_out) where the forward value passed (0 < x, and x < 6 for ReLU6);
    ``gradient``: no rule. All other layers, max-pools with overlaps included, use their gradient. ``seed``
    has the shape of the layer's output and is not rectified itself unless the layer ends in a ReLU.
    """
    duplicate = with_module_relus(model)
    forward_values: dict[nn.Module, Tensor] = {}
    captured: list[Tensor] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        forward_values[module] = inputs[0].detach().clone()

    def change(
        module: nn.Module,
        _grad_in: tuple[Tensor, ...],
        grad_out: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        passed = grad_out[0].clamp_min(0)
        if rule == "guided":
            value = forward_values[module]
            passed = passed * (value > 0)
            if module.ceiling is not None:
                passed = passed * (value < module.ceiling)
        return (passed,)

    if rule != "gradient":
        for module in duplicate.modules():
            if isinstance(module, Rectifier):
                module.register_forward_pre_hook(remember)
                module.register_full_backward_hook(change)
    tap = duplicate.get_submodule(_tap_path(layer))
    tap.register_forward_pre_hook(lambda _module, inputs: captured.append(inputs[0]))
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        duplicate(leaf)
        (signal,) = torch.autograd.grad(captured[-1], leaf, grad_outputs=seed.detach())
    return signal[0].detach()


# ----------------------------------------------------------------------------------------------------------
# Numbers
# ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def finite_difference(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    index: tuple[int, ...],
    eps: float = 1e-6,
) -> float:
    """Central difference of the scalar function ``f`` along one entry of x; meant for float64."""
    ahead, behind = x.detach().clone(), x.detach().clone()
    ahead[index] += eps
    behind[index] -= eps
    return float((f(ahead) - f(behind)) / (ahead[index] - behind[index]))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest absolute difference over the largest expected magnitude; 0 for two all-zero tensors."""
    difference = float((actual.double() - expected.double()).abs().max())
    scale = float(expected.double().abs().max())
    return difference / scale if scale > 0 else difference


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of all entries (ties get their mean rank); NaN if one is constant."""
    from scipy.stats import spearmanr

    with _quiet():
        result = spearmanr(a.detach().double().flatten().numpy(), b.detach().double().flatten().numpy())
    return float(result.statistic)
