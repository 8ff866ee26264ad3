"""Attention is found in the networks of every source, and each way of making it gives the same methods."""

import functools
import warnings

import pytest
import torch
import torchvision
import transformers
from timm.models import deit, swin_transformer, vision_transformer
from torch import nn

from service.errors import NotApplicable
from service.explainers.base import registry
from tests.explainers.conftest import assert_close, tiny_input

METHODS = [name for name, cls in registry().items() if cls.family == "attention"]
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
HF = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 5,
}


def _torchvision() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)


def _timm(cls: type[nn.Module] = vision_transformer.VisionTransformer, *, fused: bool = True, **more) -> nn.Module:
    network = cls(**TIMM, **more)
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return network


def _hf(name: str, how: str) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(**HF, attn_implementation=how)
    return getattr(transformers, f"{name}ForImageClassification")(config)


NETWORKS = {
    "torchvision": (_torchvision, 1, [0]),
    "timm": (_timm, 1, [0]),
    "timm, open": (functools.partial(_timm, fused=False), 1, [0]),
    "timm, mean of the patches": (functools.partial(_timm, global_pool="avg"), 1, "patches"),
    "timm, without class token": (
        functools.partial(_timm, class_token=False, global_pool="avg"),
        0,
        "patches",
    ),
    "timm, registers": (functools.partial(_timm, reg_tokens=4), 5, [0]),
    "timm, distilled": (functools.partial(_timm, deit.VisionTransformerDistilled), 2, [0, 1]),
    "transformers": (functools.partial(_hf, "ViT", "sdpa"), 1, [0]),
    "transformers, eager": (functools.partial(_hf, "ViT", "eager"), 1, [0]),
    "transformers, registers": (functools.partial(_hf, "Dinov2WithRegisters", "sdpa"), 5, None),
}


def _made(name: str, make):  # type: ignore[no-untyped-def]
    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            network = make()
            for parameter in network.parameters():  # lively: heads and scales begin at zero
                parameter.data += 0.2 * torch.randn(parameter.shape)
        return network.eval()

    build.__name__ = name.replace(" ", "-").replace(",", "")
    return build


@pytest.fixture(scope="module")
def subject(request, device):  # type: ignore[no-untyped-def]
    from tests.explainers.conftest import Subject

    make = _made(request.param, NETWORKS[request.param][0])
    return request.param, Subject(make.__name__, make().requires_grad_(False), make(), 32, device, "classification")


@pytest.mark.parametrize("subject", NETWORKS, indirect=True)
def test_every_source(subject):
    name, found = subject
    _, prefix, read = NETWORKS[name]
    there = [info for info in found.facts.layers.values() if info.attention is not None]
    assert [info.path for info in there] == ["attention#1", "attention#2"]
    assert there[0].shape == (2, 16 + prefix, 16 + prefix)
    assert (there[0].attention.layout.grid, there[0].attention.layout.prefix) == ((4, 4), prefix)
    for method in METHODS:
        explained = found.explain(registry()[method](), tiny_input(), [1])
        m = explained.maps[0].array
        assert m.shape == (4, 4)
        assert float(m.max()) > float(m.min()) >= 0
        assert read is None or explained.details["read"] == read
        assert_close(explained.outputs, torch.as_tensor(_outputs(found.plain)), 1e-4)  # it is the same network


def _outputs(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        answer = network(tiny_input())
    return getattr(answer, "logits", answer)[0]


@pytest.mark.parametrize("method", ["attention", "attention-rollout", "attention-relevance"])
def test_fused_and_open_attention_agree(small, method):
    maps = [
        small(_made(name, NETWORKS[name][0])).explain(registry()[method](), tiny_input(), [1]).maps[0].array
        for name in ("timm", "timm, open")
    ]
    assert_close(maps[0], maps[1], 1e-4)


WINDOWED = {
    "torchvision": lambda: torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [1, 2], [4, 4], num_classes=5),
    "timm": lambda: swin_transformer.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, num_classes=5
    ),
}


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize("method", METHODS)
def test_windows_are_refused_wherever_they_come_from(small, name, method):
    facts = small(_made(f"{name}-windows", WINDOWED[name])).facts
    with pytest.raises(NotApplicable, match=r"reads attention.*windows of 16 tokens.*use 'saliency'"):
        registry()[method].require(facts)


class Averaged(nn.Module):
    """Two transformers, or one that sees a picture and its mirror image: their attentions build on nobody else's."""

    def __init__(self, mirrored: bool) -> None:
        super().__init__()
        self.first = _torchvision()
        self.second = self.first if mirrored else _torchvision()
        self.mirrored = mirrored

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.first(x) + self.second(x.flip(3) if self.mirrored else x)) / 2


APART = {
    "two networks": functools.partial(Averaged, False),
    "a mirror": functools.partial(Averaged, True),
    "side by side": functools.partial(_timm, block_fn=vision_transformer.ParallelThingsBlock),
}


@pytest.mark.parametrize("name", APART)
def test_attentions_that_lie_side_by_side_are_not_joined(small, name):
    subject = small(_made(name, APART[name]))
    assert float(subject.explain(registry()["attention"](block=0), tiny_input()).maps[0].array.max()) > 0
    for method in ("attention-rollout", "attention-relevance"):
        with pytest.raises(
            NotApplicable, match=r"'attention#\d' of .* does not build on the one before it.*'attention'"
        ):
            registry()[method].require(subject.facts)
