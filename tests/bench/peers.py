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

    It times itself, so that sending inputs and maps to and fro is not its loss.
    """

    def __init__(self, make: Callable[..., Contestant], *args: Any) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._line, far = spawning.Pipe()
        self._process = spawning.Process(target=_answer, args=(far, make, args), daemon=True)
        self._process.start()
        far.close()
        self.seconds = 0.0  # of the last call

    def __call__(self, x: Tensor) -> Tensor:
        self._line.send(x.numpy())
        self.seconds, found = self._line.recv()
        return torch.from_numpy(found)


def _answer(line: Any, make: Callable[..., Contestant], args: tuple[Any, ...]) -> None:
    contestant = make(*args)
    while True:
        try:
            x = torch.from_numpy(line.recv())
        except EOFError:
            return
        started = time.perf_counter()
        found = contestant(x)
        line.send((time.perf_counter() - started, found.numpy()))


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
