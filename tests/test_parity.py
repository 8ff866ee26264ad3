"""Every method through the HTTP server, against its oracle, on five classifiers and a regression at 64 px."""

import re
from collections.abc import Callable, Iterator
from inspect import signature

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from service.explainers.base import registry
from tests.oracles import Case
from tests.parity import NETWORKS, TRANSFORMER, Subject, its_test, plain, server

SIZE = 64
# What does not apply to each network; all else has to.
ATTENTION = {name for name, cls in registry().items() if cls.family == "attention"}
REFUSED = {
    "efficientnet-lite0": {"ram", *ATTENTION},
    "resnet18": {"ram", *ATTENTION},
    "vgg16_bn": {"ram", "cam", *ATTENTION},
    "densenet121": {"ram", *ATTENTION},
    "lesion-count": {"cam", "finer-cam", *ATTENTION},
}
# The smallest network is asked every method, and the others, which take longer, what the documents describe: a method's
# own test holds it against many. `python -m tests.parity` asks all of all, and `python -m tests.matrix` nine networks.
LARGE = {"efficientnet-lite0", "resnet18", "vgg16_bn", "densenet121"}
DOCUMENTED = {"feature-maps", "filters", "deconvnet", "ram", "saliency", "occlusion", "cam", "grad-cam", "grad-cam++"}
DOCUMENTED |= {"smooth-grad-cam++", "score-cam", "ss-cam", "is-cam", "xgrad-cam", "layer-cam"}
PAIRS = [(n, method) for n in NETWORKS for method in registry()]
PAIRS = [(n, m) for n, m in PAIRS if n not in LARGE or m in DOCUMENTED or m in REFUSED[n]]
PAIRS.append(("resnet18", "finer-cam"))  # a regression has no other classes
PAIRS += [(TRANSFORMER, method) for method in sorted(ATTENTION)]
REFUSED[TRANSFORMER] = set()


@pytest.fixture(scope="module")
def subject() -> Iterator[Callable[[str], Subject]]:
    """Make the subject of a network; one server has them all."""
    with server(SIZE, names := (*NETWORKS, TRANSFORMER)) as client:
        made = {name: Subject(client, name, SIZE) for name in names}
        yield made.__getitem__


@pytest.mark.parametrize("method", registry())
def test_every_methods_test_has_an_oracle(method):
    oracle = its_test(method).oracle
    assert list(signature(oracle).parameters) == ["case"]
    assert oracle.__module__ == its_test(method).__name__  # its own, not another's
    assert oracle.__doc__


@pytest.mark.parametrize(("network", "method"), [p for p in PAIRS if p[1] not in REFUSED[p[0]]])
def test_equals_its_oracle_over_http(subject, network, method):
    (answer,) = subject(network).compare(registry()[method])
    assert answer.error <= answer.tolerance, answer


@pytest.mark.parametrize(("network", "method"), [p for p in PAIRS if p[1] in REFUSED[p[0]]])
def test_a_refusal_is_foretold_and_its_reason_is_true(subject, network, method):
    one, cls = subject(network), registry()[method]
    response = one.ask(cls, one.case(cls))
    assert (response.status_code, response.json()["type"]) == (422, "urn:heatlens:problem:not-applicable")
    reason = response.json()["detail"]
    assert reason == one.reason(cls)
    outputs = plain(network)(one.x).shape[1]
    ((true, remedy),) = (
        verdict
        for words, verdict in {
            "ram needs a regression model": (outputs > 1, "cam"),
            "cam needs a classification model": (outputs == 1, "ram"),
            "finer-cam compares classes": (outputs == 1, "grad-cam"),
            "cam needs global average pooling": (
                not _averages_features(plain(network), one.x),
                "grad-cam",
            ),
            f"{method} reads attention of all tokens to all tokens": (not _attends(plain(network), one.x), "saliency"),
        }.items()
        if reason.startswith(words)
    )
    assert true, reason
    # The remedy is the nearest one that applies itself.
    (found,) = re.findall(r"use '([\w+-]+)'", reason.lower())
    assert found == remedy or one.reason(registry()[remedy]) is not None
    assert one.reason(registry()[found]) is None


def _attends(network: nn.Module, x: torch.Tensor) -> bool:
    """Whether anything in a forward has the shape of attention: as many queries as keys, whose weights add up to 1."""
    found = False

    class Weights(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal found
            out = func(*args, **(kwargs or {}))
            square = isinstance(out, torch.Tensor) and out.ndim >= 3 and 1 < out.shape[-1] == out.shape[-2]
            if square and out.is_floating_point() and bool((out >= 0).all()):
                found |= torch.allclose(out.sum(-1), torch.ones(()), atol=1e-4)
            return out

    with Weights():
        network(x)
    return found


def _averages_features(network: nn.Module, x: torch.Tensor) -> bool:
    """Whether the last linear layer, given the mean of any convolution's or ReLU's maps, says what the network says."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    kinds = (nn.Conv2d, nn.ReLU, nn.ReLU6, nn.MaxPool2d)
    met: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: met.append(output.clone()))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    outputs = network(x)
    for hook in hooks:
        hook.remove()
    pooled = [maps.mean((2, 3)) for maps in met if maps.ndim == 4 and maps.shape[1] == linear.in_features]
    return any(torch.allclose(linear(features), outputs, atol=1e-3) for features in pooled)


@pytest.mark.parametrize(("network", "averages"), [("resnet18", True), ("vgg16_bn", False)])
def test_heads_are_told_apart(subject, network, averages):
    assert _averages_features(plain(network), subject(network).x) == averages


def test_an_oracle_of_another_question_is_told_apart(subject):
    """The comparison itself can fail: another class's map is not within any tolerance."""
    one, cls = subject("resnet18"), registry()["grad-cam"]
    case = one.case(cls)
    found = one.found(cls, case)
    other = its_test("grad-cam").oracle(Case(case.network, case.x, case.layer, case.target + 1, case.params))
    assert float((found - other).abs().max() / other.abs().max()) > 0.01
