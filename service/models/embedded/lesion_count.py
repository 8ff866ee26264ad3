"""LesionCount: a small regression network that counts lesions painted on a fundus photograph.

It is the regression that Regression Activation Mapping explains: Wang & Yang 2017, "Diabetic Retinopathy
Detection via Deep Convolutional Networks for Discriminative Localization and Visual Explanation", section on
RAM. Convolutions end in one map A of C channels, global average pooling turns it into C numbers, one linear
unit turns these into the count. So RAM(y, x) = sum_k w_k A_k(y, x), and mean(RAM) + bias is the count itself.

The lesions are painted by `tests.training.lesion_count`; this is no medical device.
"""

from pathlib import Path
from typing import Final

from torch import Tensor, nn

INPUT_SIZE: Final = 160
"""Height and width of the input, in pixels."""

RESIZE: Final = 160
"""Length in pixels of a picture's shorter side when its central INPUT_SIZE square is cut."""

MEAN: Final = (0.8218, 0.3499, 0.2546)
"""Per-channel RGB mean, on the scale 0..1: about that of the training pictures."""

STD: Final = (0.1215, 0.0966, 0.0702)
"""Per-channel RGB standard deviation, on the scale 0..1: about that of the training pictures."""

WEIGHTS: Final = Path(__file__).with_name("lesion-count.safetensors")
"""The trained weights: a float32 state dict."""


def _block(channels: int, out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Return convolution, batch normalisation and ReLU, padded so that only the stride shrinks the map."""
    return [
        # The normalisation right after it has the bias.
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    ]


class LesionCount(nn.Module):
    """Convolutions, global average pooling, one linear unit.

    `features` ends in the ReLU whose output, (N, 64, 40, 40) with values >= 0, is exactly what `pool`
    averages: stride 4, and each position sees 25x25 pixels. That is wide enough for the largest lesion with
    its surroundings, and narrow enough for the map to tell where a lesion is.
    """

    def __init__(self) -> None:
        """Build the layers with random weights."""
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 16, kernel=5, stride=2),
            *_block(16, 32, kernel=3, stride=2),
            *_block(32, 48, kernel=3),
            *_block(48, 64, kernel=3),
            *_block(64, 64, kernel=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the number of lesions, (N, 1), unbounded, of normalised RGB pictures (N, 3, 160, 160)."""
        y: Tensor = self.head(self.flatten(self.pool(self.features(x))))
        return y


def lesion_count() -> LesionCount:
    """Return the architecture with random weights; the trained ones are in `WEIGHTS`."""
    return LesionCount()
