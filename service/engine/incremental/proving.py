"""The proof, on seeded changes, that rectangles give what the whole network gives on the changed pictures.

What a network does that its recording cannot show (a state, a decision, a mix of rows, a wrong rule) shows in here.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from service.engine.incremental.batch import Batch, Layout
from service.engine.incremental.clean import keep, needs
from service.engine.incremental.costs import OnDevice, here
from service.engine.incremental.recording.graph import NotIncremental, Pair, Recording
from service.engine.incremental.regions import Region, reached
from service.engine.network.variants import EXACT

_SIDES = (8, 3)  # the proof's rectangles have this fraction of the picture's height


def prove(
    recording: Recording,
    module: nn.Module,
    example: Tensor,
    switches: Callable[[Pair], Iterable[int]],
    on_device: OnDevice = here,
) -> float:
    """Return the largest error over seeded changes, relative to the largest output.

    Args:
        recording: `module`, written down.
        module: maps (N, C, H, W) to (N, K).
        example: (N, C, H, W); the first and the last row are changed.
        switches: which switches to prove for rectangles (h, w).
        on_device: runs a step, which takes no longer than four rows, on the thread that will do the work.

    Raises:
        NotIncremental: an error is above `EXACT`.
    """
    generator = torch.Generator().manual_seed(0)
    (height, width), worst = recording.size, 0.0
    for fraction in _SIDES:
        h, w = (min(max(height // fraction, 1), side) for side in (height, width))
        ys, xs = height - h, width - w
        corners = torch.tensor([[0, 0], [ys, xs], [ys // 2, xs // 3], [ys // 3, xs]])
        patches = torch.randn(4, example.shape[1], h, w, generator=generator).to(example)
        images = (example[:1], example[-1:].flip(3))
        expected = on_device(partial(_plain, module, images, corners, patches))
        for switch in dict.fromkeys(switches((h, w))):
            found = on_device(partial(_regional, recording, switch, images, corners, patches))
            error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
            worst = max(worst, float(error.nan_to_num(nan=math.inf)))
    if worst > EXACT:
        raise NotIncremental(f"outputs differ by {worst:.1e} of the largest one")
    return worst


@torch.inference_mode()
def _plain(module: nn.Module, images: tuple[Tensor, Tensor], corners: Tensor, patches: Tensor) -> Tensor:
    """Return the network's outputs on changed pictures: two changes of the first one, and two of the second."""
    rows = torch.cat([images[0], images[0], images[1], images[1]])
    h, w = patches.shape[2:]
    for row, (y, x) in enumerate(corners.tolist()):
        rows[row, :, y : y + h, x : x + w] = patches[row]
    outputs: Tensor = module(rows)
    return outputs


@torch.inference_mode()
def _regional(
    recording: Recording, switch: int, images: tuple[Tensor, Tensor], corners: Tensor, patches: Tensor
) -> Tensor:
    """Return the same outputs, of rectangles."""
    needed = needs(recording, switch)
    cleans = [keep(recording, needed, switch, image) for image in images]
    h, w = patches.shape[2:]
    layout = Layout(reached(recording, switch, Region.of(corners.numpy(), (h, w))))
    return Batch(recording, layout, cleans, [2, 2]).run(patches)
