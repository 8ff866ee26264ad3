from dataclasses import replace

import torch

from service.contract import LayerInfo, Layout
from service.engine.network.proofs.attentions import Seen, find_attentions

TOKENS = Layout("tokens", (2, 3), 1)
LAYERS = {
    "patches": LayerInfo("patches", "Conv2d", (8, 2, 3), True, layout=Layout("chw", (2, 3))),
    "block": LayerInfo("block", "Block", (8, 2, 3), True, layout=TOKENS),
    "norm": LayerInfo("norm", "LayerNorm", (8, 2, 3), True, layout=TOKENS),
    "unused": LayerInfo("unused", "LayerNorm", (8, 2, 3), True, layout=TOKENS),
    "head": LayerInfo("head", "Linear", (5,), False),
}
HERE = Seen({"attention#1": (2, 7, 7), "attention#2": (2, 7, 7)})


def _gradients(*tokens):
    """Gradients at the layers, where the score depends on some of the tokens of `norm`."""
    of_norm = torch.zeros(2, 7, 8)
    of_norm[:, list(tokens)] = 1.0
    return [torch.ones(2, 8, 2, 3), torch.ones(2, 7, 8), of_norm, None, torch.ones(2, 5)]


def test_addresses_and_the_class_token():
    found, why = find_attentions(HERE, LAYERS, _gradients(0))
    assert why is None
    assert list(found) == ["attention#1", "attention#2"]
    info = found["attention#1"]
    assert (info.type, info.shape, info.spatial) == ("attention", (2, 7, 7), False)
    assert (info.attention.layout, info.attention.read) == (TOKENS, (0,))


def test_outputs_that_are_read_from_the_patches():
    found, _ = find_attentions(HERE, LAYERS, _gradients(1, 4))
    assert found["attention#2"].attention.read == (1, 2, 3, 4, 5, 6)


def test_outputs_that_are_read_from_both_have_a_token_of_their_own():
    found, _ = find_attentions(HERE, LAYERS, _gradients(0, 1, 2))
    assert found["attention#1"].attention.read == (0,)


def test_without_a_gradient_it_is_not_known_whether_a_class_token_is_read():
    nothing = [None] * len(LAYERS)
    found, why = find_attentions(HERE, LAYERS, nothing)
    assert not found
    assert "no gradient" in why
    bare = {path: replace(info, layout=replace(TOKENS, prefix=0)) for path, info in LAYERS.items() if info.spatial}
    found, why = find_attentions(Seen({"attention#1": (2, 6, 6)}), bare, nothing)  # there are patches alone
    assert why is None
    assert found["attention#1"].attention.read == tuple(range(6))


def test_reasons_why_there_is_none():
    def why(seen, layers=LAYERS):
        found, reason = find_attentions(seen, layers, _gradients(0))
        assert not found
        return reason

    assert why(Seen()) == "it has no attention"
    assert "spans all tokens: windows" in why(Seen(others=["windows of 3 tokens"]))
    assert "not all of its attention" in why(Seen({"attention#1": (2, 7, 7)}, others=["windows of 3 tokens"]))
    assert "some of it attends to 4 tokens, some to 7" in why(
        Seen({"attention#1": (2, 7, 7), "attention#2": (2, 4, 4)})
    )
    assert "where its 9 tokens are" in why(Seen({"attention#1": (2, 9, 9)}))
    clash = {**LAYERS, "attention#1": LayerInfo("attention#1", "Attention", (7, 8), False)}
    assert "'attention#1'" in why(HERE, clash)


def test_a_class_token_behind_the_patches_is_what_is_read():
    behind = Layout("tokens", (2, 3), 0, 1)
    layers = {name: replace(info, layout=behind) if info.layout == TOKENS else info for name, info in LAYERS.items()}
    found, _ = find_attentions(HERE, layers, _gradients(6))
    assert (found["attention#1"].attention.layout, found["attention#1"].attention.read) == (behind, (6,))
    found, _ = find_attentions(HERE, layers, _gradients(0, 3))
    assert found["attention#1"].attention.read == (0, 1, 2, 3, 4, 5)


def test_attentions_that_do_not_build_on_one_another():
    x = torch.randn(2, 4, 4, requires_grad=True)
    seen = Seen()
    with seen.watching(2):
        first = x.softmax(-1)
        second = (first @ x).softmax(-1)
        other = (x * 2).softmax(-1)
        last = (other + second).softmax(-1)
    assert last.shape == x.shape
    assert list(seen.shapes) == [f"attention#{i}" for i in (1, 2, 3, 4)]
    assert seen.apart == {"attention#3"}
    found, _ = find_attentions(replace(HERE, apart={"attention#2"}), LAYERS, _gradients(0))
    assert [info.attention.follows for info in found.values()] == [True, False]
