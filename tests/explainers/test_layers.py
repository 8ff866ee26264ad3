"""Where the networks that methods are tested on end, and which of their layers is looked at by default."""

import pytest

# Network: (layer of its proved head, default layer as an expert chooses it).
FAMILIES = {
    "resnet18": ("layer4", "layer4"),
    "densenet121": ("features+relu", "features+relu"),
    "squeezenet1_1": ("classifier.2", "classifier.2"),
    "googlenet": ("inception5b", "inception5b"),
    "mobilenet_v2": ("features", "features"),
    "shufflenet_v2_x1_0": ("conv5", "conv5"),
    "efficientnet_b0": ("features", "features"),
    "alexnet": (None, "features.11"),
    "vgg11": (None, "features.19"),
    "mobilenet_v3_small": (None, "features"),
    "convnext_tiny": (None, "features"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_and_default_layers_are_found_by_numbers(subjects, name):
    facts = subjects(name).facts
    assert (facts.head.layer if facts.head else None, facts.default_layer) == FAMILIES[name]
    assert facts.head is None or facts.head.residual <= 1e-5
    cost = facts.checks[-1]
    rows, backwards = (int(word) for word in cost.found.split() if word.isdigit())
    assert rows <= 40
    assert backwards <= 8
