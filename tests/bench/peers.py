"""Other libraries, called as they document it. Each is made once and keeps its hooks, which is in its favour.

A contestant takes an input (1, 3, H, W) and returns a raw map: what is computed besides it, as pytorch-grad-cam's
scaling and enlargement, is part of their call and of its time.
"""

import functools
import multiprocessing
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from service.process import keep_freed_memory

Contestant = Callable[[Tensor], Tensor]


def _quietly(call: Contestant) -> Contestant:
    @functools.wraps(call)
    def quiet(x: Tensor) -> Tensor:
        # Our service turns TF32 off in its process; peers have PyTorch's own default.
        ours, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return call(x)
        finally:
            torch.backends.cudnn.allow_tf32 = ours

    return quiet


class Apart:
    """A contestant in a process of its own: as its users run it, without the allocator that our commands set up.

    It times itself, so that sending inputs and maps to and fro is not its loss. With `keep_memory` it is given our
    allocator's setting, which is a part of what a server gains over it.
    """

    def __init__(self, make: Callable[..., Contestant], *args: Any, keep_memory: bool = False) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._line, far = spawning.Pipe()
        self._process = spawning.Process(target=_answer, args=(far, make, args, keep_memory), daemon=True)
        self._process.start()
        far.close()
        self.seconds = self.processor_s = 0.0  # of the last call

    def __call__(self, x: Tensor) -> Tensor:
        self._line.send(x.numpy())
        self.seconds, self.processor_s, found = self._line.recv()
        return torch.from_numpy(found)

    def close(self) -> None:
        """End its process."""
        self._line.close()
        self._process.join(30)


def _answer(line: Any, make: Callable[..., Contestant], args: tuple[Any, ...], keep_memory: bool) -> None:
    if keep_memory:
        keep_freed_memory()
    contestant = make(*args)
    while True:
        try:
            x = torch.from_numpy(line.recv())
        except EOFError:
            return
        started, before = time.perf_counter(), time.process_time()
        found = contestant(x)
        line.send((time.perf_counter() - started, time.process_time() - before, found.numpy()))


def apart(device: torch.device, make: Callable[..., Contestant], *args: Any) -> Contestant:
    """Make a contestant in a process of its own; on an accelerator, whose memory is another matter, in this one."""
    return make(*args) if device.type == "cuda" else Apart(make, *args)


def pytorch_grad_cam(method: str, model: nn.Module, layer: str, target: int | None) -> Contestant:
    """`GradCAM` or `ScoreCAM` of pytorch-grad-cam; `target` None takes the top class."""
    import pytorch_grad_cam
    import tqdm
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam: Any = getattr(pytorch_grad_cam, method)(model=model, target_layers=[model.get_submodule(layer)])
    targets = None if target is None else [ClassifierOutputTarget(target)]
    original, kept = cam.get_cam_image, []

    def keep(*args: Any, **kwargs: Any) -> Any:
        kept.append(original(*args, **kwargs))
        return kept[-1]

    cam.get_cam_image = keep

    @_quietly
    def call(x: Tensor) -> Tensor:
        kept.clear()
        with mock.patch.object(tqdm, "tqdm", iter):  # it draws a progress bar on the terminal, which would take time
            cam(input_tensor=x, targets=targets)
        return torch.from_numpy(kept[0][0]).clamp_min(0)

    return call


def torchcam(method: str, model: nn.Module, layer: str, target: int | None) -> Contestant:
    """`GradCAM` or `ScoreCAM` of torch-cam; `target` None takes the top class."""
    import torchcam.methods

    extractor = getattr(torchcam.methods, method)(model, layer)
    gradients = method != "ScoreCAM"

    @_quietly
    def call(x: Tensor) -> Tensor:
        with torch.enable_grad() if gradients else torch.inference_mode():
            scores = model(x)
            chosen = int(scores[0].argmax()) if target is None else target
            maps = extractor(chosen, scores, normalized=False)
        return maps[0][0].detach().clone()

    return call


def captum_saliency(model: nn.Module, target: int) -> Contestant:
    """Captum's `Saliency`, and the maximum over the colours that it leaves to the caller."""
    from captum.attr import Saliency

    method = Saliency(model)
    return _quietly(lambda x: method.attribute(x.clone().requires_grad_(), target=target)[0].amax(0).detach())


def captum_occlusion(model: nn.Module, target: int | None, window: int, stride: int) -> Contestant:
    """Captum's `Occlusion` with 32 windows a forward; `target` None takes the top class."""
    from captum.attr import Occlusion

    method = Occlusion(model)

    @_quietly
    def call(x: Tensor) -> Tensor:
        with torch.no_grad():
            chosen = int(model(x)[0].argmax()) if target is None else target
        maps = method.attribute(
            x,
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=0,
            target=chosen,
            perturbations_per_eval=32,
        )
        return maps[0, 0].detach()

    return call


def plain_method(name: str, model: nn.Module, layer: str, window: int, stride: int) -> Contestant:
    """Return `LIBRARY METHOD` for the top class, as the plain handler serves it."""
    library, method = name.split()
    if library == "captum":
        return captum_occlusion(model, None, window, stride)
    make = {"pytorch-grad-cam": pytorch_grad_cam, "torch-cam": torchcam}[library]
    return make({"grad-cam": "GradCAM", "score-cam": "ScoreCAM"}[method], model, layer, None)


def grad_cam_map(method: str, model: nn.Module, layer: str, target: int) -> Contestant:
    """Any method of pytorch-grad-cam, as it draws its map: at the picture's size, scaled to 0..1."""
    import pytorch_grad_cam
    import tqdm
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam: Any = getattr(pytorch_grad_cam, method)(model=model, target_layers=[model.get_submodule(layer)])

    @_quietly
    def call(x: Tensor) -> Tensor:
        with mock.patch.object(tqdm, "tqdm", iter):
            return torch.from_numpy(cam(input_tensor=x, targets=[ClassifierOutputTarget(target)])[0])

    return call


def grad_cam_projection(a: Tensor) -> Tensor:
    """Return pytorch-grad-cam's first component (h, w) of maps (1, K, h, w)."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    return torch.from_numpy(get_2d_projection(a.numpy())[0])


def captum_integrated_gradients(model: nn.Module, targets: list[int], steps: int, rows: int) -> Contestant:
    """Captum's `IntegratedGradients` with so many rows a pass, one target after the other; summed over the colours.

    It is asked for its convergence delta: ours always says what is missing in the sum.
    """
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(model)

    @_quietly
    def call(x: Tensor) -> Tensor:
        found = [
            method.attribute(x, target=t, n_steps=steps, internal_batch_size=rows, return_convergence_delta=True)[0]
            for t in targets
        ]
        return torch.cat(found).sum(1).detach().float()

    return call


def captum_guided_backprop(model: nn.Module, target: int) -> Contestant:
    """Captum's `GuidedBackprop`."""
    from captum.attr import GuidedBackprop

    method = GuidedBackprop(model)
    return _quietly(lambda x: method.attribute(x.clone().requires_grad_(), target=target)[0].detach())


def captum_surrogate(
    name: str, model: nn.Module, target: int, labels: Tensor, samples: int, *, probability: bool, rows: int = 32
) -> Contestant:
    """`Lime` or `KernelShap` of Captum on given segments (H, W), what is hidden showing the model's mean colour."""
    import captum.attr

    shown = nn.Sequential(model, nn.Softmax(1)) if probability else model
    method = getattr(captum.attr, name)(shown)

    @_quietly
    def call(x: Tensor) -> Tensor:
        found = method.attribute(
            x,
            target=target,
            baselines=0,
            feature_mask=labels[None, None].expand(1, 3, -1, -1),
            n_samples=samples,
            perturbations_per_eval=rows,
        )
        return found[0, 0].detach()

    return call


def xaitk_rise(model: nn.Module, target: int, masks: int, cells: int, rows: int = 32) -> Contestant:
    """RISE of xaitk-saliency: its masks, its hiding and its scores, around a loop of batches."""
    import numpy as np
    from xaitk_saliency.impls.gen_classifier_conf_sal.rise_scoring import RISEScoring
    from xaitk_saliency.impls.perturb_image.rise import RISEGrid
    from xaitk_saliency.utils.masking import occlude_image_batch

    perturb, score = RISEGrid(n=masks, s=cells, p1=0.5, seed=0, threads=0), RISEScoring(p1=0.0)

    @_quietly
    def call(x: Tensor) -> Tensor:
        picture = x[0].permute(1, 2, 0).numpy()
        drawn = perturb.perturb(picture)
        found = []
        with torch.inference_mode():
            clean = model(x).softmax(1)[:, [target]].numpy()
            for i in range(0, masks, rows):
                hidden = occlude_image_batch(picture, drawn[i : i + rows])
                batch = torch.from_numpy(np.ascontiguousarray(hidden)).permute(0, 3, 1, 2).float()
                found.append(model(batch).softmax(1)[:, [target]].numpy())
        return torch.from_numpy(score.generate(clean[0], np.concatenate(found), drawn)[0]).float()

    return call


def zennit_lrp(model: nn.Module, target: int) -> Contestant:
    """zennit's `EpsilonPlus` on a ResNet, batch norms merged; summed over the colours."""
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus
    from zennit.torchvision import ResNetCanonizer

    composite = EpsilonPlus(canonizers=[ResNetCanonizer()])

    @_quietly
    def call(x: Tensor) -> Tensor:
        with Gradient(model, composite) as attributor:
            _, relevance = attributor(x, lambda y: torch.eye(y.shape[1])[[target]] * y)
        return relevance[0].sum(0).detach()

    return call
