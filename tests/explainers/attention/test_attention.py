import functools

import pytest
import torch
from torch import Tensor, nn

from service.errors import InvalidParameter, NotApplicable
from service.explainers.attention.attention import RawAttention
from service.explainers.base import registry
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case
from tests.transformers import Vision, attentions, row_as_map

TOLERANCE = 1e-5
HOW = ("fused", "open", "module", "weights")


def oracle(case: Case) -> Tensor:
    """The module's own weights: the class token's row of one block, its heads joined."""
    assert isinstance(case.network, Vision)
    a = attentions(case.network, case.x)[case.params.get("block", -1)][0]
    heads = case.params.get("heads", "mean")
    joined = {"mean": a.mean(0), "max": a.amax(0), "min": a.amin(0)}[heads] if isinstance(heads, str) else a[heads]
    return row_as_map(case.network, joined)


def vision(how: str = "fused", **options: int):  # type: ignore[no-untyped-def]
    """Return what makes a network, with a name of its own."""
    made = functools.partial(Vision, how, **options)
    made.__name__ = f"vision-{how}"  # type: ignore[attr-defined]
    return made


@pytest.mark.oracle("attention")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_equals_the_modules_own_weights(small, how, prefix):
    subject = small(vision(how, prefix=prefix))
    found = subject.explain(RawAttention(), tiny_input()).maps[0]
    assert found.layer == "attention#2"
    assert_close(found.array, oracle(Case(subject.plain, tiny_input())), TOLERANCE)


@pytest.mark.oracle("attention")
@pytest.mark.parametrize(
    "params", [{"block": 0}, {"block": 1, "heads": "max"}, {"heads": "min"}, {"heads": 1}], ids=str
)
def test_blocks_and_heads(small, params):
    subject = small(vision())
    found = subject.explain(RawAttention(**params), tiny_input())
    assert_close(found.maps[0].array, oracle(Case(subject.plain, tiny_input(), params=params)), TOLERANCE)
    assert found.details["block"] == params.get("block", 1)


def test_details(small):
    found = small(vision(prefix=1)).explain(RawAttention(), tiny_input())
    assert (found.details["heads"], found.details["tokens"], found.details["read"]) == (2, 17, [0])
    assert found.details["placed"] == pytest.approx(float(found.maps[0].array.sum()), abs=1e-5)  # a row's sum is 1
    assert small(vision(prefix=0)).explain(RawAttention(), tiny_input()).details["read"] == "patches"


@pytest.mark.parametrize(("params", "field"), [({"block": 2}, "block"), ({"heads": 2}, "heads")])
def test_what_is_not_there_is_refused_by_its_field(small, params, field):
    with pytest.raises(InvalidParameter, match=r"out of range.* 0 to 1") as caught:
        small(vision()).explain(RawAttention(**params), tiny_input())
    assert caught.value.errors[0].pointer == f"/params/{field}"


class Windows(Vision):
    """Attends within each row of patches only."""

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).permute(0, 2, 3, 1).flatten(0, 1)  # (N h, w, C)
        for block in self.blocks:
            t = block(t)
        return self.head(self.norm(t).unflatten(0, (len(x), -1)).mean((1, 2)))


class Both(Windows):
    """Attends within rows, and then over all patches."""

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).permute(0, 2, 3, 1).flatten(0, 1)
        t = self.blocks[0](t).unflatten(0, (len(x), -1)).flatten(1, 2)
        return self.head(self.norm(self.blocks[1](t)).mean(1))


class Pooled(Vision):
    """Reads all patches by one query: attention, but not of tokens to tokens."""

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).mT
        return self.head(((self.token @ t.mT).softmax(-1) @ t)[:, 0])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("network", "reason"),
    [(Windows, "no attention of it spans all tokens: .*windows.*"), (Both, "not all of its attention spans")],
)
@pytest.mark.parametrize("name", [n for n, cls in registry().items() if cls.family == "attention"])
def test_windows_are_refused(small, how, network, reason, name):
    made = functools.partial(network, how)
    made.__name__ = f"{network.__name__}-{how}"
    with pytest.raises(NotApplicable, match=rf"{name} reads attention.*{reason}.*use 'saliency'"):
        registry()[name].require(small(made).facts)


@pytest.mark.parametrize(
    ("network", "reason"), [(tiny.classifier, "it has no attention"), (Pooled, "1 queries attend to 16 keys")]
)
def test_without_attention_of_tokens_to_tokens_there_is_none(small, network, reason):
    with pytest.raises(NotApplicable, match=reason):
        RawAttention.require(small(network).facts)


def test_a_forward_that_is_not_asked_is_the_networks_own(small):
    """Writing attention out changes the last bits; who does not ask for it gets the fused ones."""
    subject = small(vision())
    with torch.no_grad():
        plain = subject.plain(tiny_input())[0]
    found = subject.explain(registry()["saliency"](), tiny_input(), [1]).outputs
    assert torch.equal(found, plain)


def test_networks_of_torch_itself(small):
    def encoder() -> nn.Module:
        """torch's own layers, which take a fused path where nobody looks."""

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.patches = nn.Conv2d(3, 16, 8, 8)
                layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
                self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
                self.head = nn.Linear(16, 5)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.encoder(self.patches(x).flatten(2).mT).mean(1))

        return Encoder().eval()

    subject = small(encoder)
    found = subject.explain(RawAttention(block=0), tiny_input()).maps[0].array
    with torch.no_grad():
        t = subject.plain.patches(tiny_input()).flatten(2).mT
        layer = subject.plain.encoder.layers[0]
        expected = layer.self_attn(t, t, t, need_weights=True)[1][0].mean(0)
    assert_close(found, expected.view(4, 4), TOLERANCE)
