"""The classifiers of three libraries, as the libraries themselves make them: nothing here knows the package under test.

A network is named by its library and its name there. Those of transformers are small ones of each architecture, written
to a folder by `save_pretrained`: configuration, processor, labels and seeded weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tests import oracles


@dataclass(frozen=True)
class Network:
    """One network of a library, and the layer that somebody who knows it would look at."""

    library: str
    name: str
    layer: str  # addresses that stand for its last features, a regular expression
    layout: str = "chw"  # how these hold their maps: axes, and leading tokens without a place
    config: Mapping[str, Any] = field(default_factory=dict)  # of transformers: what makes it small
    processor: tuple[str, Mapping[str, Any]] = ("", {})
    kind: str = ""  # the class
    attends: bool = False  # whether it rectifies the queries and keys of a linear attention, and nothing else

    @property
    def id(self) -> str:
        return f"{self.library}/{self.name}"

    @property
    def of(self) -> Library:
        return LIBRARIES[self.library]

    def takes(self, layer: str | None) -> bool:
        """Whether a layer is one that somebody who knows the network would look at."""
        return layer is not None and re.fullmatch(self.layer, layer) is not None


class Library(Protocol):
    """What a library says of its networks."""

    def source(self, network: Network, folder: Path) -> str:
        """Return what is asked for, with no other key; what has to be written first is written into the folder."""
        ...

    def plain(self, network: Network, folder: Path) -> nn.Module:
        """Return the library's own network, with any weights."""
        ...

    def input_of(self, network: Network, folder: Path, picture: Image.Image) -> Tensor:
        """Return the library's own input (1, 3, H, W) of a picture."""
        ...

    def labels(self, network: Network, folder: Path) -> tuple[str, ...]:
        """Return the library's own labels; none where its network has no classes with names."""
        ...


class Torchvision:
    """torchvision's networks, with random weights."""

    def source(self, network: Network, folder: Path) -> str:
        return f"torchvision/{network.name}=random"

    def plain(self, network: Network, folder: Path) -> nn.Module:
        from torchvision import models

        more = {"init_weights": False, "aux_logits": False} if network.name in ("googlenet", "inception_v3") else {}
        with oracles.quiet():
            return models.get_model(network.name, weights=None, **more)

    def input_of(self, network: Network, folder: Path, picture: Image.Image) -> Tensor:
        return self._published(network).transforms()(picture)[None]

    def labels(self, network: Network, folder: Path) -> tuple[str, ...]:
        return tuple(self._published(network).meta["categories"])

    @staticmethod
    def _published(network: Network) -> Any:
        from torchvision import models

        return models.get_model_weights(network.name).DEFAULT


class Timm:
    """timm's networks, with random weights."""

    def source(self, network: Network, folder: Path) -> str:
        return f"timm/{network.name}=random"

    def plain(self, network: Network, folder: Path) -> nn.Module:
        import timm

        with oracles.quiet():
            return timm.create_model(network.name)

    def input_of(self, network: Network, folder: Path, picture: Image.Image) -> Tensor:
        import timm

        how = timm.data.resolve_data_config({}, pretrained_cfg=self._config(network).to_dict())
        return timm.data.create_transform(**how)(picture)[None]

    def labels(self, network: Network, folder: Path) -> tuple[str, ...]:
        import timm

        if not self._config(network).num_classes:
            return ()
        named = timm.data.ImageNetInfo(timm.data.infer_imagenet_subset(self._config(network).to_dict()))
        return tuple(named.index_to_description(i) for i in range(named.num_classes()))

    @staticmethod
    def _config(network: Network) -> Any:
        import timm

        return timm.get_pretrained_cfg(network.name)


class Transformers:
    """Small networks of transformers, from folders."""

    names = ("tench", "goldfish", "great white shark", "tiger shark", "hammerhead", "stingray", "rooster")

    def source(self, network: Network, folder: Path) -> str:
        place = folder / network.name
        if not (place / "config.json").exists():
            self._write(network, place)
        return str(place)

    def _write(self, network: Network, place: Path) -> None:
        import transformers

        by_number = dict(enumerate(self.names))
        known = {"id2label": by_number, "label2id": {label: i for i, label in by_number.items()}}
        cls = getattr(transformers, network.kind)
        with oracles.quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = cls(cls.config_class(**network.config, **known))
            processor, options = network.processor
            size = getattr(transformers, processor)(**options)
            size.save_pretrained(place)
            with torch.no_grad():
                for name, parameter in made.named_parameters():
                    most = float(parameter.abs().max())
                    if name.endswith("attention_biases"):  # by distance: trained ones look at what is near
                        parameter[:, 0] = 8.0
                    elif most == 0:  # without biases a grey picture is nothing, and its norms' slopes have no bounds
                        nn.init.normal_(parameter, std=0.02)
                    elif most < 2e-3:  # the gain of a branch, which would leave maps without shape
                        parameter.fill_(0.2)
            photographs = [oracles.photograph(name, 256) for name in oracles.PHOTOGRAPHS]
            side = self.input_of(network, place.parent, Image.new("RGB", (80, 60))).shape[2]
            settled(made.eval(), functional.interpolate(torch.cat(photographs), (side, side), mode="bilinear"))
            made.save_pretrained(place)

    def plain(self, network: Network, folder: Path) -> nn.Module:
        import transformers

        with oracles.quiet():
            return getattr(transformers, network.kind).from_pretrained(folder / network.name)

    def input_of(self, network: Network, folder: Path, picture: Image.Image) -> Tensor:
        import transformers

        with oracles.quiet():
            processor = transformers.AutoImageProcessor.from_pretrained(folder / network.name)
            return processor(picture, return_tensors="pt")["pixel_values"]

    def labels(self, network: Network, folder: Path) -> tuple[str, ...]:
        return self.names


@torch.no_grad()
def settled(network: nn.Module, pictures: Tensor) -> None:
    """Give batch norms the statistics of some pictures, and the answers a spread; change nothing else of a network.

    The branches of random residual blocks are then weak beside what they are added to, as they are in trained ones:
    each place of a late layer still speaks for its own place of the picture.
    """

    def settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=[0, *range(2, inputs[0].ndim)])
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance.clamp(min=0.1 * float(variance.mean()) + 1e-6))

    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    logits = Logits(network)(pictures)
    for hook in hooks:
        hook.remove()
    spread = 2 / float((logits - logits.mean(0)).std().clamp(min=1e-6))
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features == logits.shape[1]:
            module.weight.mul_(spread)


class Logits(nn.Module):
    """A network that answers with an object, as the table in it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        found = self.network(x)
        return found if isinstance(found, Tensor) else found.logits


LIBRARIES: Mapping[str, Library] = {
    "torchvision": Torchvision(),
    "timm": Timm(),
    "transformers": Transformers(),
}

_TORCHVISION = {
    "alexnet": r"features\.11",
    "convnext_tiny": "features",
    "densenet121": r"features\+relu",
    "efficientnet_b0": "features",
    "efficientnet_v2_s": "features",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "maxvit_t": r"blocks\.3",
    "mnasnet0_5": "layers",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "features",
    "regnet_x_400mf": "trunk_output",
    "regnet_y_400mf": "trunk_output",
    "resnet18": "layer4",
    "resnext50_32x4d": "layer4",
    "wide_resnet50_2": "layer4",
    "shufflenet_v2_x0_5": "conv5",
    "squeezenet1_1": r"features|classifier\.2",
    "swin_t": "norm|permute",
    "swin_v2_t": "norm|permute",
    "vgg11_bn": r"features\.27",
}
_TIMM = {
    "resnet50": "layer4",
    "resnext50_32x4d": "layer4",
    "seresnet50": "layer4",
    "skresnet18": "layer4",
    "resnetv2_50": "norm",
    "densenet121": "features",
    "efficientnet_b0": "bn2",
    "mobilenetv3_large_100": "blocks",
    "mobilenetv4_conv_small": "blocks",
    "ghostnet_100": "blocks",
    "convnextv2_atto": r"stages|norm_pre",
    "inception_next_atto": "stages",
    "regnety_004": "final_conv|s4",
    "eca_nfnet_l0": "final_act",
    "ese_vovnet19b_dw": "stages",
    "hrnet_w18_small": "final_layer",
    "repvit_m0_9": "stages",
    "poolformer_s12": "stages",
    "fastvit_t8": "final_conv",
    "mobilevit_xxs": "final_conv",
    "starnet_s1": "norm",
    "davit_tiny": r"stages|norm_pre",
    "edgenext_xx_small": r"stages|norm_pre",
    "tiny_vit_5m_224": "stages",
    "pvt_v2_b0": r"stages",
    "focalnet_tiny_srf": "norm",
    "nextvit_small": "norm",
    "visformer_tiny": "norm",
    "xception41": r"blocks|act",
    "maxvit_rmlp_pico_rw_256": r"stages|norm",
    "coatnet_nano_rw_224": "norm",
    "gcvit_xxtiny": "stages",
    "efficientvit_b0": r"head\.in_conv|stages",
}
_TIMM_OTHERS = {
    "vit_tiny_patch16_224": (r"blocks\.11\.norm1", "tokens+1"),
    "vit_tiny_r_s16_p8_224": (r"blocks\.11\.norm1", "tokens+1"),
    "deit_tiny_distilled_patch16_224": (r"blocks\.11\.norm1", "tokens+2"),
    "beit_base_patch16_224": (r"norm|blocks\.11", "tokens+1"),
    "eva02_tiny_patch14_224": (r"norm|blocks\.11", "tokens+1"),
    "vit_small_patch14_reg4_dinov2": (r"blocks\.11\.norm1", "tokens+5"),
    "vit_small_patch16_dinov3": (r"norm", "tokens+5"),
    "vit_base_patch16_siglip_224": ("norm", "tokens"),
    "swin_tiny_patch4_window7_224": ("norm", "hwc"),
    "swinv2_tiny_window8_256": ("norm", "hwc"),
    "cait_xxs24_224": (r"blocks_token_only\.1\.norm1", "tokens+1"),
    "xcit_nano_12_p16_224": (r"cls_attn_blocks\.1\.norm1", "tokens+1"),
    "mixer_s32_224": ("norm", "tokens"),
    "resmlp_12_224": ("norm", "tokens"),
    "efficientformer_l1": ("norm", "tokens"),
    "levit_128s": (r"stages(\.1)?", "tokens"),  # attention of random weights leaves the last stage no places
    "hiera_tiny_224": (r"blocks\.11", "tokens"),
    "mvitv2_tiny": ("norm", "tokens"),
    "crossvit_tiny_240": (r"blocks\.2\.fusion\.[01]\.norm1", "tokens+1"),
    "twins_svt_small": ("norm", "tokens"),
    "volo_d1_224": (r"post_network\.1\.norm1", "tokens+1"),
    "convit_tiny": (r"blocks\.11\.norm1", "tokens+1"),
    "efficientformerv2_s0": ("norm", "chw"),
}

Processor = tuple[str, Mapping[str, Any]]


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _squashed(name: str, side: int) -> Processor:
    return name, {"size": _square(side)}


def _cropped(name: str, side: int, margin: int = 0) -> Processor:
    return name, {"size": {"shortest_edge": side + margin}, "crop_size": _square(side)}


_VIT = {"image_size": 64, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_WIDE = {**_VIT, "intermediate_size": 96}
# Networks that halve the picture five times see 128 pixels, of which 4 x 4 places are left.
_STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
_HEADS = {**_STAGES, "num_attention_heads": [1, 2, 2, 4]}
_SWIN = {"image_size": 64, "patch_size": 2, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 4]}
_CONVNEXT = ("ConvNextImageProcessor", {"size": {"shortest_edge": 128}, "crop_pct": 0.875})
_VIT_PROCESSOR = _squashed("ViTImageProcessor", 64)
_DEIT_PROCESSOR = ("DeiTImageProcessor", {"size": _square(72), "crop_size": _square(64)})
# By name: the class without its ending, what makes it small, its processor, its last features and their layout.
_TRANSFORMERS: Mapping[str, tuple[str, Mapping[str, Any], Processor, str, str]] = {
    "resnet": ("ResNet", {"embedding_size": 16, **_STAGES}, _CONVNEXT, r"resnet\.encoder\.stages\.3", "chw"),
    "regnet": (
        "RegNet",
        {"embedding_size": 16, "groups_width": 8, **_STAGES},
        _CONVNEXT,
        r"regnet\.encoder\.stages\.3",
        "chw",
    ),
    "bit": (
        "Bit",
        {"embedding_size": 16, "num_groups": 4, **_STAGES},
        _cropped("BitImageProcessor", 128, 16),
        r"bit\.norm",
        "chw",
    ),
    "convnext": ("ConvNext", {"image_size": 128, **_STAGES}, _CONVNEXT, r"convnext\.encoder\.stages\.3", "chw"),
    "convnextv2": ("ConvNextV2", {"image_size": 128, **_STAGES}, _CONVNEXT, r"convnextv2\.encoder\.stages\.3", "chw"),
    "mobilenetv1": (
        "MobileNetV1",
        {"image_size": 128, "depth_multiplier": 0.25},
        _cropped("MobileNetV1ImageProcessor", 128, 16),
        r"mobilenet_v1\.layer\.25",
        "chw",
    ),
    "mobilenetv2": (
        "MobileNetV2",
        {"image_size": 128, "depth_multiplier": 0.35},
        _cropped("MobileNetV2ImageProcessor", 128, 16),
        r"mobilenet_v2\.conv_1x1",
        "chw",
    ),
    "mobilevit": (
        "MobileViT",
        {"image_size": 128, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 64]},
        _cropped("MobileViTImageProcessor", 128, 16),
        r"mobilevit\.conv_1x1_exp",
        "chw",
    ),
    "mobilevitv2": (
        "MobileViTV2",
        {"image_size": 128, "width_multiplier": 0.5, "n_attn_blocks": [1, 1, 1], "base_attn_unit_dims": [32, 48, 64]},
        _cropped("MobileViTImageProcessor", 128, 16),
        r"mobilevitv2\.encoder\.layer\.4",
        "chw",
    ),
    "poolformer": ("PoolFormer", _STAGES, _cropped("PoolFormerImageProcessor", 128), r"norm", "chw"),
    "segformer": ("Segformer", _HEADS, _squashed("SegformerImageProcessor", 128), r"segformer\.stages\.3", "chw"),
    "vit": ("ViT", _WIDE, _VIT_PROCESSOR, r"vit\.layers\.2\.layernorm_before", "tokens+1"),
    "deit": ("DeiT", _WIDE, _DEIT_PROCESSOR, r"deit\.layers\.2\.layernorm_before", "tokens+2"),
    "deit-teacher": ("DeiT", _WIDE, _DEIT_PROCESSOR, r"deit\.layers\.2\.layernorm_before", "tokens+2"),
    "beit": (
        "Beit",
        {**_WIDE, "use_relative_position_bias": True},
        ("BeitImageProcessor", {"size": _square(64), "do_center_crop": False}),
        r"beit\.layernorm|beit.*layers\.2",
        "tokens+1",
    ),
    "dinov2": ("Dinov2", _VIT, _cropped("BitImageProcessor", 64, 8), r"dinov2\.layernorm", "tokens+1"),
    "dinov2-registers": (
        "Dinov2WithRegisters",
        _VIT,
        _cropped("BitImageProcessor", 64, 8),
        r"dinov2_with_registers\.layernorm",
        "tokens+5",
    ),
    "clip": (
        "CLIP",
        {"vision_config": _WIDE},
        _cropped("CLIPImageProcessor", 64),
        r"vision_model\.(encoder\.layers\.2|post_layernorm)",
        "tokens+1",
    ),
    "siglip": (
        "Siglip",
        {"vision_config": _WIDE},
        _squashed("SiglipImageProcessor", 64),
        r"vision_model\.post_layernorm",
        "tokens",
    ),
    "hiera": (
        "Hiera",
        {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "num_query_pool": 2}
        | {"masked_unit_size": [4, 4], "masked_unit_attention": [True, True, False]},
        _VIT_PROCESSOR,
        r"hiera\.encoder\.stages\.2",
        "tokens",
    ),
    "swin": ("Swin", {**_SWIN, "window_size": 4}, _VIT_PROCESSOR, r"swin\.layernorm", "tokens"),
    "swinv2": ("Swinv2", {**_SWIN, "window_size": 4}, _VIT_PROCESSOR, r"swinv2\.layernorm", "tokens"),
    "pvtv2": (
        "PvtV2",
        {"image_size": 128, **_HEADS},
        _squashed("ViTImageProcessor", 128),
        r"pvt_v2\.encoder\.layers\.3\.layer_norm",
        "tokens",
    ),
    "levit": (
        "Levit",
        {"image_size": 128, "patch_size": 16, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 2, 2]}
        | {"depths": [1, 1, 1], "key_dim": [8, 8, 8]},
        _cropped("LevitImageProcessor", 128),
        r"levit\.encoder\.stages\.(2|1\.layers\.1)",  # as timm's: random weights leave the last stage no places
        "tokens",
    ),
    "focalnet": (
        "FocalNet",
        {"image_size": 64, "patch_size": 2, "embed_dim": 16, "hidden_sizes": [32, 64, 64], "depths": [1, 1, 1]}
        | {"focal_levels": [2, 2, 2], "focal_windows": [3, 3, 3]},
        _VIT_PROCESSOR,
        r"focalnet\.layernorm",
        "tokens",
    ),
    "efficientnet": (
        "EfficientNet",
        {"image_size": 128, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
        _squashed("EfficientNetImageProcessor", 128),
        r"efficientnet\.encoder\.top_activation",
        "chw",
    ),
}


_ATTENDS = ("efficientvit_b0", "mobilevitv2")


def _all() -> dict[str, Network]:
    found = [Network("torchvision", name, layer) for name, layer in _TORCHVISION.items()]
    found += [Network("torchvision", "vit_b_16", r"encoder\.layers\.encoder_layer_11\.ln_1", "tokens+1")]
    found += [Network("timm", name, layer) for name, layer in _TIMM.items()]
    found += [Network("timm", name, layer, layout) for name, (layer, layout) in _TIMM_OTHERS.items()]
    for name, (kind, config, processor, layer, layout) in _TRANSFORMERS.items():
        ending = "ForImageClassification" + ("WithTeacher" if name.endswith("teacher") else "")
        found.append(Network("transformers", name, layer, layout, config, processor, kind + ending))
    return {network.id: replace(network, attends=network.name in _ATTENDS) for network in found}


ZOO: Mapping[str, Network] = _all()
