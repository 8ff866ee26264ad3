import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.contract import Part, Tracing
from service.errors import NotApplicable
from service.explainers.gradient.full_grad import FullGrad
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case, plain_copy
from tests.transformers import Vision

TOLERANCE = 2e-4  # gradients of many layers


def _scaled(plane: Tensor) -> Tensor:
    """Return |plane| (h, w) scaled to 0..1; nothing where it is the same everywhere."""
    plane = plane.abs()
    low, high = plane.min(), plane.max()
    return (plane - low) / (high - low) if high > low else torch.zeros_like(plane)


def oracle(case: Case) -> Tensor:
    """Each channel's |bias * gradient| and |input * gradient| scaled and enlarged, one after the other."""
    network, total = plain_copy(case.network), torch.zeros(case.x.shape[2:])
    outputs: list[tuple[nn.Module, Tensor]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            # A copy goes on: a function in place would overwrite what is kept.
            module.register_forward_hook(lambda m, _, y: outputs.append((m, y)) or y.clone())
    with torch.enable_grad():
        leaf = case.x.clone().requires_grad_()
        y = network(leaf)[0, case.target]
        gradients = torch.autograd.grad(y, [leaf, *(output for _, output in outputs)])
    parts = list((gradients[0] * case.x)[0])
    for (module, output), g in zip(outputs, gradients[1:], strict=True):
        if output.shape[2:] == (1, 1):
            continue  # scaled alone, a single number is nothing
        if isinstance(module, nn.BatchNorm2d):
            offset = module.bias - module.running_mean * module.weight / (module.running_var + module.eps).sqrt()
        elif module.bias is not None:
            offset = module.bias
        else:
            continue
        parts += list(offset[:, None, None] * g[0])
    for part in parts:
        total += F.interpolate(_scaled(part.detach())[None, None], case.x.shape[2:], mode="bilinear")[0, 0]
    return total


def added_up(network: nn.Module) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return output 1 of the tiny input, what equation 2 adds up to it, and each layer's bias times gradient of that.

    Of linear layers and convolutions, wherever their rows come from.
    """
    outputs: list[tuple[Tensor, Tensor]] = []
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, _, y: outputs.append((m.bias, y)))
        elif isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, _, y: outputs.append((m.bias[:, None, None], y)))
    leaf = tiny_input().requires_grad_()
    y = network(leaf)[0, 1]
    at_input, *gradients = torch.autograd.grad(y, [leaf, *(output for _, output in outputs)])
    parts = [(b * g).sum().detach() for (b, _), g in zip(outputs, gradients, strict=True)]
    return y.detach(), (at_input * leaf).sum().detach() + sum(parts), parts


@pytest.mark.oracle("full-grad")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional])
def test_equals_its_loop(small, network):
    subject = small(network)
    found = subject.explain(FullGrad(), tiny_input(), [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert m.kind == "positive"
        assert_close(m.array, oracle(Case(subject.plain, tiny_input(), target=target)), 1e-5)


@pytest.mark.oracle("full-grad")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg])
def test_all_parts_add_up_to_the_logit(small, network):
    """Equation 2: it holds for linear layers, batch norms, ReLUs and max pools."""
    subject = small(network)
    found = subject.explain(FullGrad(aggregate="sum"), tiny_input(), [0, 2])
    y = subject.plain(tiny_input())[0, [0, 2]]
    assert found.details["explained"] == pytest.approx(y.tolist(), abs=1e-6)
    assert max(map(abs, found.details["completeness_residual"])) < 1e-5
    placed = torch.stack([m.array.sum() for m in found.maps])  # enlarged by whole numbers, sums are kept
    torch.testing.assert_close(placed + torch.tensor(found.details["without_place"]), y, rtol=1e-4, atol=1e-5)


@pytest.mark.oracle("full-grad")
@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_large_networks_are_complete(subjects, x, name):
    found = subjects(name).explain(FullGrad(), x, [281])
    assert abs(found.details["completeness_residual"][0]) < 1e-4 * abs(found.details["explained"][0]) + 1e-4


def test_what_has_no_such_sum_says_so(small):
    found = small(tiny.tokens).explain(FullGrad(), tiny_input(), [1])
    assert abs(found.details["completeness_residual"][0]) > 1e-2 * abs(found.details["explained"][0])


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_without_a_place_have_their_part(small, prefix):
    """All that is told is all bias times gradient, of whatever token, although nothing of it reaches a patch."""

    def vision() -> nn.Module:
        return Vision("open", prefix=prefix)

    subject = small(vision)
    found = subject.explain(FullGrad(aggregate="sum"), tiny_input(), [1])
    y, told, _ = added_up(subject.plain)
    assert found.details["completeness_residual"][0] == pytest.approx(float(told - y), rel=1e-3, abs=1e-4)
    assert abs(found.details["without_place"][0]) > 1e-3
    all_told = float(found.maps[0].array.sum()) + found.details["without_place"][0]
    assert all_told == pytest.approx(float(told), rel=1e-3, abs=1e-3)


def test_every_call_of_a_module_has_its_part(small):
    """`conv2` is called twice, and adds its bias twice."""
    subject = small(tiny.functional)
    assert subject.explain(FullGrad(), tiny_input(), [1]).details["layers"] == 5  # conv1, conv2 twice, norm, fc


class Mixed(nn.Module):
    """Its middle layer answers to other rows than the pictures."""

    def __init__(self, before, after) -> None:
        super().__init__()
        self.patches, self.middle, self.fc = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).mT  # (N, 16, 8)
        return self.fc((self.after(F.relu(self.middle(self.before(t)))).reshape(t.shape) ** 2).mean(1))


class Windowed(Mixed):
    """Windows of maps, which a convolution answers to."""

    def __init__(self) -> None:
        super().__init__(None, None)
        self.middle = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).unflatten(3, (2, 2)).permute(0, 3, 1, 2, 4).flatten(0, 1)  # (2 N, 8, 4, 2)
        return self.fc(F.relu(self.middle(y)).mean((2, 3)).unflatten(0, (-1, 2)).square().mean(1))


MIXED = {
    "windows": lambda: Mixed(lambda t: t.reshape(-1, 4, 8), lambda t: t),
    "windows of maps": Windowed,
    "laid flat": lambda: Mixed(lambda t: t.reshape(-1, 8), lambda t: t),
    "steps first": lambda: Mixed(lambda t: t.transpose(0, 1), lambda t: t.transpose(0, 1)),
    "as many steps as rows at load": lambda: Mixed(
        lambda t: t.unflatten(1, (8, 2)).flatten(2).transpose(0, 1).unflatten(2, (2, 8)),
        lambda t: t.flatten(2).transpose(0, 1),
    ),
}


def _mixed(build):
    def mixed() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build().eval()

    return mixed


@pytest.mark.parametrize("name", MIXED)
def test_layers_that_answer_to_other_rows_have_their_part(small, name):
    subject = small(_mixed(MIXED[name]))
    found = subject.explain(FullGrad(aggregate="sum"), tiny_input(), [1])
    y, told, parts = added_up(subject.plain)
    assert float(parts[1].abs()) > 1e-3  # of the layer in the middle
    assert found.details["layers"] == 3
    assert found.details["completeness_residual"][0] == pytest.approx(float(told - y), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", MIXED)
def test_pictures_of_a_batch_are_told_apart_in_such_layers(small, name):
    model = small(_mixed(MIXED[name])).model
    x, how = torch.cat([tiny_input(seed=seed) for seed in range(3)]), Tracing(wrt=("middle",), whole=True)
    parts = [Part(x[:1], lambda seen: seen.outputs[:, :1]), Part(x[1:], lambda seen: seen.outputs[:, :1])]
    together = torch.cat([one.gradients["middle"][0] for one in model.trace_parts(parts, how)])
    alone = [model.trace(row[None], how, parts[0].objective).gradients["middle"][0] for row in x]
    assert_close(together, torch.cat(alone), 1e-4)
    assert together[0].numel() == math.prod(model.facts.layers["middle"].shape)


def test_what_cannot_be_told_apart_is_a_refusal(small):
    """Places first, and at each the pictures: which row is whose, no number of a request would show."""
    build = _mixed(
        lambda: Mixed(lambda t: t.transpose(0, 1).reshape(-1, 8), lambda t: t.view(16, -1, 8).transpose(0, 1))
    )
    with pytest.raises(NotApplicable, match=r"layer 'middle' .* is which picture's; use 'gradient-x-input'"):
        FullGrad.require(small(build).facts)
