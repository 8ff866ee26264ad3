"""Classifiers whose results something rounds, cuts, orders or leaves out: read as what they are, or refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from service.contract import INPUT, Tracing
from service.engine.network.endings.made import flat
from service.engine.network.proofs.checks import Refused
from service.engine.network.resident import Model
from service.errors import NotApplicable
from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task


class Ends(nn.Module):
    """A small classifier that ends in its own way."""

    def __init__(self, end, classes: int = 5) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, classes)
        self.relu, self.end = nn.ReLU(), end
        with torch.no_grad():
            self.fc.weight.mul_(10)

    def logits(self, x):
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))

    def forward(self, x):
        return self.end(self.logits(x))


def loaded(end, *, named: str | None = None, classes: int = 5) -> Model:
    transform = Transform(32, (32, 32), (0.5,) * 3, (0.25,) * 3)
    spec = ModelSpec("m", nn.Module, transform, task(named or "classification"), task_known=named is not None)
    return Model(spec, Ends(end, classes), torch.device("cpu"))


def outcomes(model: Model) -> dict[str, str]:
    return {line.name: line.outcome for line in model.facts.checks}


ROUNDED = {
    "rounded": (lambda z: torch.round(z.softmax(1) * 1000) / 1000, "classification"),
    "rounded to percents": (lambda z: z.softmax(1).round(decimals=2), "classification"),
    "half": (lambda z: z.softmax(1).half().float(), "classification"),
    "bfloat16": (lambda z: z.softmax(1).bfloat16().float(), "classification"),
    "eight bits": (lambda z: torch.round(z.softmax(1) * 255) / 255, "classification"),
    "by numpy": (lambda z: torch.from_numpy(z.softmax(1).detach().numpy().round(3)), "classification"),
    "a log-softmax": (lambda z: torch.round(z.log_softmax(1) * 1000) / 1000, "classification"),
    "a clamped logarithm": (lambda z: z.softmax(1).clamp(min=0.06).log(), "classification"),
    "sigmoids": (lambda z: torch.round(z.sigmoid() * 1000) / 1000, "multilabel"),
    "one sigmoid": (lambda z: torch.round(z[:, :1].sigmoid() * 1000) / 1000, "binary"),
    "sigmoids in half": (lambda z: z.sigmoid().half().float(), "multilabel"),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_what_is_rounded_is_explained_from_before(name) -> None:
    end, kind = ROUNDED[name]
    model = loaded(end)
    assert (model.facts.task.name, model.facts.task.scale, model.facts.task_assumed) == (kind, "logits", False)
    assert outcomes(model)["ending"] == "passed"
    network, x = Ends(end), model.example()
    torch.testing.assert_close(model.forward(x), network.logits(x).detach()[:, : model.facts.outputs])
    trace = model.trace(x[:1], Tracing(wrt=(INPUT,)), lambda seen: seen.outputs[:, :1])
    given = x[:1].clone().requires_grad_()
    (expected,) = torch.autograd.grad(network.logits(given)[:, 0].sum(), given)
    torch.testing.assert_close(trace.gradients[INPUT][0], expected)
    assert (model.facts.head is not None) == (model.facts.outputs == 5)


def test_what_a_coarse_rounding_hides_is_not_explained() -> None:
    model = loaded(lambda z: z.softmax(1).round(decimals=1))
    assert (model.facts.task.name, model.facts.task.scale) == ("classification", "probabilities")
    assert (outcomes(model)["ending"], outcomes(model)["gradient"]) == ("warning", "warning")
    with pytest.raises(NotApplicable, match=r"zero everywhere: what round\(\) makes"):
        model.facts.require_gradient("saliency")
    with pytest.raises(NotApplicable, match=r"zero everywhere: what round\(\) makes"):
        model.facts.require_gradient("grad-cam", None)
    x = model.example()
    torch.testing.assert_close(model.forward(x), Ends(lambda z: z).logits(x).softmax(1).round(decimals=1))


def test_what_a_clamp_does_not_touch_is_served_as_it_stands() -> None:
    model = loaded(lambda z: z.softmax(1).clamp(1e-7, 1 - 1e-7))
    assert (model.facts.task.name, model.facts.task.scale) == ("classification", "probabilities")
    assert outcomes(model)["gradient"] == "passed"


PARTS = {
    "background dropped": lambda z: z.softmax(1)[:, 1:],
    "one class hidden": lambda z: z.softmax(1) * torch.tensor([1.0, 1, 1, 1, 0]),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_softmax_without_some_of_its_classes_is_one(name) -> None:
    model = loaded(PARTS[name])
    assert (model.facts.task.name, model.facts.task.scale) == ("classification", "probabilities")
    x = model.example()
    torch.testing.assert_close(model.forward(x), PARTS[name](Ends(None).logits(x)).detach())


MASK = torch.tensor([0.0, 0, 0, -torch.inf, 0])


@pytest.mark.parametrize("ending", [lambda z: (z + MASK).softmax(1), lambda z: (z + MASK).sigmoid()])
def test_classes_that_are_never_chosen_leave_the_probabilities(ending) -> None:
    model = loaded(ending)
    assert model.facts.task.scale == "probabilities"
    answer = model.forward(model.example())
    assert answer.isfinite().all()
    assert not answer[:, 3].any()


@pytest.mark.parametrize(
    ("beside", "kind"), [(lambda z: z.softmax(1), "classification"), (lambda z: z.sigmoid(), "multilabel")]
)
def test_what_a_forward_makes_of_its_logits_tells_the_task(beside, kind) -> None:
    model = loaded(lambda z: {"logits": z, "probabilities": beside(z)})
    assert (model.facts.task.name, model.facts.task.scale, model.facts.task_assumed) == (kind, "logits", False)


def test_two_softmaxes_are_told() -> None:
    model = loaded(lambda z: z.softmax(1).softmax(1))
    assert outcomes(model)["ending"] == "warning"


def test_decisions_are_told() -> None:
    model = loaded(lambda z: F.one_hot((z[:, :1] * 0).long()[:, 0], 5).float())
    assert outcomes(model)["decisions"] == "warning"


REFUSED = {
    "topk": (lambda z: torch.topk(z.softmax(1), 3), "a column is a rank"),
    "sorted": (lambda z: z.softmax(1).sort(1, descending=True)[0], "a column is a rank"),
    "the largest": (lambda z: z.softmax(1).max(1), "a column is a rank"),
    "over the pictures": (lambda z: z.softmax(0), "over the pictures of a batch"),
    "over one output": (lambda z: z[:, :1].softmax(1), "over one output"),
    "argmax": (lambda z: z.argmax(1, keepdim=True).float(), "whole numbers"),
    "a count": (lambda z: torch.round(z[:, :1] * 10), "whole numbers"),
    "percentages": (lambda z: z.softmax(1) * 100, "are percentages"),
    "whole percentages": (lambda z: torch.round(z.softmax(1) * 100), "are percentages"),
    "percentages of sigmoids": (lambda z: z.sigmoid() * 100, "are percentages"),
    "losses": (lambda z: -z.log_softmax(1), "negative logarithms"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_score_is_refused(name) -> None:
    end, why = REFUSED[name]
    with pytest.raises(Refused, match=why) as raised:
        loaded(end)
    assert raised.value.checks[-1].remedy
    assert loaded(end, named="regression").facts.task.name == "regression"


@pytest.mark.parametrize("function", [torch.round, torch.floor, torch.ceil, torch.trunc, torch.sign])
def test_functions_without_a_slope_are_found(function) -> None:
    x = torch.ones(2, requires_grad=True)
    assert flat((function(x * 2) + x.sum()).exp()) == function.__name__
    assert flat(x * 2 + 1) is None
    assert flat(torch.ones(2)) is None
