"""What is known of a network: names are found or refused with a remedy, colours are in the network's own space."""

import dataclasses

import pytest

from service.contract import Facts, LayerInfo
from service.contract.facts import dotted
from service.errors import InvalidParameter, NotApplicable
from service.tasks import task

CONV = LayerInfo("conv1", "Conv2d", (8, 16, 16), spatial=True, followed_by="relu", kernel=(8, 3, 3, 3))
TOKENS = LayerInfo("mix", "MultiheadAttention", (17, 16), spatial=False)


def _facts(*layers: LayerInfo, default: str | None = None, **fields: object) -> Facts:
    return Facts(
        name="net",
        task=task("classification"),
        outputs=3,
        input_size=(32, 48),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.5),
        layers={layer.path: layer for layer in layers},
        default_layer=default,
        head=None,
        rectifiers=0,
        **fields,  # type: ignore[arg-type]
    )


def test_a_layer_is_found_by_its_name_or_by_default():
    facts = _facts(CONV, TOKENS, default="conv1")
    assert facts.layer("conv1") is facts.layer(None) is CONV


@pytest.mark.parametrize(
    ("path", "says"),
    [("conv2", "did you mean 'conv1'"), ("nothing", "GET /models/net/layers"), ("mix", "the default layer is 'conv1'")],
)
def test_a_wrong_layer_is_refused_where_it_was_named(path, says):
    facts = _facts(CONV, TOKENS, default="conv1")
    with pytest.raises(InvalidParameter, match=says) as refused:
        facts.layer(path, "/params/layers/2")
    assert refused.value.errors[0].pointer == "/params/layers/2"
    assert repr(path) in refused.value.detail


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("layer4[-1]", "layer4.2"),
        ("layer4[-3]", "layer4.0"),
        ("layer4[1]", "layer4.1"),
        ("model.layer4[-1]", "model.layer4.2"),
        ("module.blocks[-1].convs[-2]", "module.blocks.11.convs.0"),
        ("stem[-1]", "stem.-1"),  # which has no numbers
        ("layer4[-9]", "layer4.-6"),
        ("a[0][0][0][0][0]", "a.0.0.0.0[0]"),
        (f"a[{'9' * 50}]", f"a[{'9' * 50}]"),
        ("layer4", "layer4"),
    ],
)
def test_an_address_of_python_code_is_read(path, meant):
    """As `model.layer4[-1]`, which everybody writes who comes from a library."""
    blocks = [f"blocks.{i}" for i in (2, 10, 11)]
    convs = ["blocks.11.convs.0", "blocks.11.convs.1", "blocks.10.convs.5"]
    assert dotted(path, ["stem", "layer4", "layer4.0", "layer4.1", "layer4.2", "layer4.2#1", *blocks, *convs]) == meant


@pytest.mark.parametrize("path", ["layer4[-1]", "model.layer4[-1]", "module.layer4[2]", "self.model.layer4[-1]"])
def test_such_an_address_meets_the_layer_that_was_meant(path):
    layers = [LayerInfo(f"layer{i}.{j}", "Block", (8, 4, 4), spatial=True) for i in (1, 3, 4) for j in range(3)]
    with pytest.raises(InvalidParameter, match=r"did you mean 'layer4\.2'\?"):
        _facts(*layers, default="layer4.1").layer(path)


def test_without_a_default_layer_one_has_to_be_named():
    with pytest.raises(NotApplicable, match="for example 'conv1'"):
        _facts(TOKENS, CONV).layer(None)
    with pytest.raises(NotApplicable) as refused:
        _facts(TOKENS).layer(None)
    assert "name one" not in refused.value.detail  # there is none to name


def test_a_method_that_needs_maps_is_refused_where_there_are_none():
    _facts(TOKENS, CONV).require_spatial("cam")
    with pytest.raises(NotApplicable, match="cam needs a layer"):
        _facts(TOKENS).require_spatial("cam")


def test_a_method_that_reads_attention_is_refused_with_the_reason():
    _facts(TOKENS, no_attention=None).require_attention("attention")
    with pytest.raises(
        NotApplicable, match=r"rollout reads attention.*net does not have: of windows; use 'saliency' or"
    ):
        _facts(TOKENS, no_attention="of windows").require_attention("rollout")
    with pytest.raises(NotApplicable, match=r"; use 'occlusion', which"):
        _facts(TOKENS, no_attention="of windows", no_gradient="none gets there").require_attention("rollout")
    assert _facts(TOKENS).no_attention is not None  # who has not looked has found none


def test_what_a_layer_becomes_behind_its_activation_function():
    assert CONV.activated == "conv1+relu"
    assert dataclasses.replace(CONV, followed_by=None).activated == "conv1"


def test_outputs_are_called_by_label_or_number():
    assert _facts(labels=("a", "b", "c")).label(1) == "b"
    assert _facts().label(1) == "1"
