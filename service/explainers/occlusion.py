"""Occlusion: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2."""

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from service.explainers.base import Explainer, Explanation, Facts, Map, Probe, Score, Targets, explainer


def starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin on one axis; the last may hang over the edge and is cut off there."""
    return [i * stride for i in range(max(0, -(-(length - window) // stride)) + 1)]


@explainer(
    "occlusion",
    reference="Zeiler & Fergus 2014, section 4.2",
    requirement="Any model; only its outputs are used.",
    cost="1 forward per position of the square: about (side / stride) squared",
)
class Occlusion(Explainer):
    """How far the score drops when a square hides each part of the picture.

    drop = f(X) - f(X with the window filled), for windows on a stride grid, those at the right and lower edge
    cut off there. The map at input size gives each pixel the mean drop of the windows that cover it;
    `details.grid` is the drop at each position.
    """

    window: Annotated[int, Field(ge=1, le=512, description="Side of the square, input pixels.")] = 32
    stride: Annotated[
        int, Field(ge=1, le=512, description="Step between squares, input pixels; at most the window.")
    ] = 16
    fill: Annotated[
        str,
        Field(
            pattern=r"^(mean|black|white|blur|#[0-9a-fA-F]{6})$",
            description="What the square shows: the model's mean colour, `black`, `white`, a blurred copy of the "
            "picture (`blur`), or a colour `#rrggbb`.",
            examples=["mean", "#808080"],
        ),
    ] = "mean"
    score: Annotated[Score, Field(description="f: the class's probability after softmax, or its logit.")] = (
        "probability"
    )

    @model_validator(mode="after")
    def _covers(self) -> "Occlusion":
        if self.stride > self.window:
            raise ValueError(
                f"stride {self.stride} is larger than window {self.window}, so that some pixels would never be "
                "hidden; choose a stride of at most the window"
            )
        return self

    def forwards(self, facts: Facts, targets: int) -> int:
        """Return the number of window positions and the clean picture."""
        h, w = facts.input_size
        return len(starts(h, self.window, self.stride)) * len(starts(w, self.window, self.stride)) + 1

    def _filling(self, facts: Facts, image: Tensor) -> Tensor:
        """Return what a window shows, (3, H, W)."""
        if self.fill == "blur":
            blurred: Tensor = gaussian_blur(image, kernel_size=[31, 31], sigma=[10.0, 10.0])[0]
            return blurred
        if self.fill == "mean":
            return torch.zeros_like(image[0])
        named = {"black": "#000000", "white": "#ffffff"}.get(self.fill, self.fill)
        colour = facts.colour([int(named[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return colour.to(image).expand_as(image[0])

    def explain(self, probe: Probe, image: Tensor | None, targets: Targets) -> Explanation:
        """Return one signed (H, W) map a target, in units of the score."""
        assert image is not None
        height, width = image.shape[2], image.shape[3]
        filling = self._filling(probe.facts, image)
        ys, xs = starts(height, self.window, self.stride), starts(width, self.window, self.stride)
        windows = [(slice(y, y + self.window), slice(x, x + self.window)) for y in ys for x in xs]
        # A window that already looks like the filling changes nothing: its drop is 0 without a forward.
        changed = [i for i, (y, x) in enumerate(windows) if not torch.equal(image[0, :, y, x], filling[:, y, x])]

        def rows(i: int, j: int) -> Tensor:
            built = image.repeat(j - i, 1, 1, 1)
            for row in range(max(i, 1), j):  # row 0 is the clean picture
                y, x = windows[changed[row - 1]]
                built[row - i, :, y, x] = filling[:, y, x]
            return built

        outputs = probe.scores(len(changed) + 1, rows)
        chosen = targets(outputs[0])
        f = probe.facts.score(outputs, self.score)[:, chosen].T  # (T, rows)
        drops = torch.zeros(len(chosen), len(windows), device=f.device)
        drops[:, changed] = f[:, :1] - f[:, 1:]
        total = torch.zeros(len(chosen), height, width, device=f.device)
        cover = torch.zeros(height, width, device=f.device)
        for i, (y, x) in enumerate(windows):
            total[:, y, x] += drops[:, i, None, None]
            cover[y, x] += 1
        maps = total / cover
        return Explanation(
            maps=[Map("occlusion", maps[i], "signed", target=t) for i, t in enumerate(chosen)],
            details={
                "score": self.score,
                "grid": drops.view(len(chosen), len(ys), len(xs)).tolist(),
                "grid_y": ys,
                "grid_x": xs,
                "rows_avoided": len(windows) - len(changed),
            },
            outputs=outputs[0],
        )
