import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.errors import NotApplicable
from service.explainers.baselines import baseline
from service.explainers.gradient.deep_lift import DeepLIFT
from tests import oracles, relevances, tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.oracles import Case
from tests.rectifiers import Rectifier, with_module_relus

TOLERANCE = 2e-3  # where a ReLU's input hardly changes, its slope is a quotient of two roundings


class _Held(nn.Module):
    """A network inside of another: tracing adds modules, which a sequence would run, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def tolerance(case: Case) -> float:
    """Return what to allow for single precision."""
    return relevances.tolerance(case, TOLERANCE)


def oracle(case: Case) -> Tensor:
    """Two forwards in double precision, and a gradient in which each ReLU and max pool has the slope between them."""
    network = with_module_relus(_Held(copy.deepcopy(case.network))).double()
    kept: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
    pools = [module for module in network.modules() if isinstance(module, nn.MaxPool2d)]
    for module in [*pools, *(m for m in network.modules() if isinstance(m, Rectifier))]:
        module.register_forward_hook(lambda m, i, y: kept.setdefault(m, []).append((i[0].clone(), y.clone())))
    x = case.x.double()
    start = torch.zeros_like(x)
    with torch.no_grad():
        network(x)
        network(start)
    seen = {module: calls for module, calls in kept.items() if len(calls) == 2}
    assert len(seen) == len(kept)  # each is called once a forward

    def forward(module: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
        (a, ya), (b, yb) = seen[module]
        if isinstance(module, Rectifier):
            slope = torch.where(a == b, (a > 0) & (a < (module.ceiling or torch.inf)), (ya - yb) / (a - b))
            return given[0] * slope
        # The winners' shares: from the reference's maximum up to the larger of both, and from there to the picture's.
        size = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
        out = torch.zeros_like(ya)
        for winner, change in ((a, torch.maximum(ya, yb) - yb), (b, ya - torch.maximum(ya, yb))):
            _, at = F.max_pool2d(winner, *size, return_indices=True)
            dx = (a - b).flatten(2).gather(2, at.flatten(2)).view_as(ya)
            picked = given[0].flatten(2).gather(2, at.flatten(2)).view_as(ya)
            out = out + picked * torch.where(dx == 0, 0, change / dx)
        return out

    for module in seen:
        module._forward_hooks.clear()
        module.register_forward_hook(forward)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(network(leaf)[0, case.target], leaf)
    return (g * (x - start))[0].sum(0).float()


def captum(case: Case) -> Tensor:
    """Captum's `DeepLift` against the mean colour; only for networks without max pools next to a ReLU."""
    with oracles.quiet(), torch.enable_grad():
        from captum.attr import DeepLift

        network = oracles.plain_copy(case.network)
        return DeepLift(network).attribute(case.x.clone(), target=case.target)[0].sum(0).detach()


def without_pools() -> nn.Module:
    torch.manual_seed(0)
    features = (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(8 * 49, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


@pytest.mark.oracle("deep-lift")
@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, without_pools])
def test_equals_slopes_by_hand(small, network):
    subject = small(network)
    found = subject.explain(DeepLIFT(), tiny_input(), [1, 3])
    for m, target in zip(found.maps, (1, 3), strict=True):
        assert_close(m.array, oracle(Case(subject.plain, tiny_input(), target=target)), 1e-4)


@pytest.mark.oracle("deep-lift")
def test_equals_captum_where_captum_is_right(small):
    """It takes stale gradients where a ReLU is next to a max pool, and there its parts do not add up."""
    subject = small(without_pools)
    found = subject.explain(DeepLIFT(), tiny_input(), [2]).maps[0].array
    assert_close(found, captum(Case(subject.plain, tiny_input(), target=2)), 1e-5)


@pytest.mark.parametrize("network", [tiny.classifier, tiny.vgg, tiny.functional, tiny.tokens])
@pytest.mark.parametrize("name", ["mean", "black", "white", "grey", "blur"])
def test_parts_add_up_to_the_change(small, network, name):
    subject = small(network)
    found = subject.explain(DeepLIFT(baseline=name), tiny_input(), [0, 4])
    start = baseline(subject.facts, tiny_input(), name)
    change = (subject.plain(tiny_input()) - subject.plain(start))[0, [0, 4]]
    assert found.details["change"] == pytest.approx(change.tolist(), abs=1e-5)
    sums = torch.stack([m.array.sum() for m in found.maps])
    torch.testing.assert_close(sums, change, rtol=1e-3, atol=1e-4)
    assert max(map(abs, found.details["completeness_residual"])) < 1e-4


def test_several_baselines_are_averaged(small):
    subject = small(tiny.vgg)
    both = subject.explain(DeepLIFT(baseline="black+blur"), tiny_input(), [1])
    alone = [subject.explain(DeepLIFT(baseline=name), tiny_input(), [1]) for name in ("black", "blur")]
    assert_close(both.maps[0].array, sum(one.maps[0].array for one in alone) / 2)
    assert both.details["change"][0] == pytest.approx(sum(one.details["change"][0] for one in alone) / 2)


@pytest.mark.oracle("deep-lift")
def test_a_linear_models_parts_are_weight_times_difference(small):
    def linear() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).eval()

    subject = small(linear)
    found = subject.explain(DeepLIFT(baseline="white", colours="keep"), tiny_input(), [1]).maps[0]
    expected = subject.plain[1].weight[1].view(3, 32, 32) * (tiny_input() - subject.facts.colour((1, 1, 1)))[0]
    assert found.kind == "picture"
    assert_close(found.array, expected)


def test_one_picture_at_a_time_is_refused(small):
    class Single(nn.Module):
        """Takes exactly one picture."""

        def __init__(self) -> None:
            super().__init__()
            self.network = tiny.vgg()

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x.view(1, 3, 32, 32))

    subject = small(Single)
    with pytest.raises(NotApplicable, match=r"takes one picture at a time.*use 'saliency'"):
        subject.explain(DeepLIFT(), tiny_input(), [1])
    with pytest.raises(NotApplicable, match=r"takes one picture at a time.*use 'saliency'"):  # and before it is asked
        DeepLIFT.require(subject.facts)


def test_layers_with_the_pictures_on_another_axis_are_refused(small):
    """Halves of their first axis are halves of their tokens: what they would say is no comparison of two pictures."""

    class Turned(tiny.Tokens):
        """Tokens first, as sequences lie by default."""

        def forward(self, x: Tensor) -> Tensor:
            t = self.norm(self.patches(x).flatten(2).permute(2, 0, 1))
            return self.fc(nn.functional.gelu(t).mean(0))

    subject = small(Turned)
    with pytest.raises(NotApplicable, match=r"another axis than its first.*use 'integrated-gradients'.*batch_first"):
        DeepLIFT.require(subject.facts)
