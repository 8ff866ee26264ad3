"""The form in which a network has to be run is found by running it."""

import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from service.engine.network.capture import install
from service.engine.network.forms.adapted import Adapted, usable
from service.engine.network.proofs.answering import Answering
from service.engine.network.proofs.checks import Checks, Refused, state
from service.errors import CatalogError
from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task
from tests import tiny

PICTURES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    def __init__(self, before=lambda x: x, after=lambda y: y) -> None:
        super().__init__()
        self.inner, self.before, self.after = tiny.classifier(), before, after

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


def _answering(network, **options):
    network = network.eval().requires_grad_(False)
    install(network)
    transform = Transform(32, (32, 32), (0.5,) * 3, (0.25,) * 3)
    spec = ModelSpec("mine", lambda: network, transform, task("classification"), **options)
    return Answering(spec, network, PICTURES, Checks("mine"))


def _outcomes(answering):
    return {line.name: line.outcome for line in answering.checks.lines}


def test_a_sound_network_is_run_as_it_is() -> None:
    answering = _answering(Around())
    _, raw = answering.first(state(answering.network))
    torch.testing.assert_close(raw, answering.network(answering.rows))
    assert answering.adapted() is answering.network
    assert set(_outcomes(answering).values()) == {"passed"}
    assert answering.checks.rows == 13


FORMS = {
    "an item": (Around(after=lambda y: {"logits": y}), {}),
    "a named item": (Around(after=lambda y: (y, y * 2)), {"output": 1}),
    "one axis less": (Around(after=lambda y: y[:, 0]), {}),
    "half": (Around(after=lambda y: y.half()), {}),
    "squeezed": (Around(after=lambda y: y.squeeze()), {}),
    "writes": (Around(before=lambda x: x.mul_(2)), {}),
    "batch": (Around(after=lambda y: y - y.mean(0) / 2), {}),
    "the first row alone": (Around(after=lambda y: y[:1]), {}),
    "no row": (Around(after=lambda y: {"logits": y.mean(0)}), {}),
}
SINGLY = {"batch", "the first row alone", "no row"}


@pytest.mark.parametrize("name", FORMS)
def test_other_networks_are_run_in_the_form_that_answers_each_picture(name) -> None:
    network, options = FORMS[name]
    answering = _answering(network, **options)
    _, raw = answering.first(state(answering.network))
    adapted = answering.adapted()
    assert isinstance(adapted, Adapted)
    assert raw.shape[0] == len(answering.rows)
    x = PICTURES.clone()
    together = adapted(x)
    assert torch.equal(x, PICTURES)
    assert together.dtype == torch.float32
    assert together.ndim == 2
    alone = torch.cat([adapted(row[None]) for row in PICTURES])
    torch.testing.assert_close(together, alone, rtol=1e-2 if name == "half" else 1e-5, atol=1e-5)
    assert (answering.copies, answering.singly) == (name == "writes", name in SINGLY)


def test_what_no_picture_changes_is_not_the_answer_of_one_picture() -> None:
    answering = _answering(Around(after=lambda y: {"tokens": y[:, None].expand(-1, 2, -1), "scale": torch.ones(1, 2)}))
    with pytest.raises(CatalogError, match="no tensor with one row a picture"):
        answering.first(state(answering.network))
    assert not answering.singly


def test_why_gradients_fail_is_kept() -> None:

    def after(y):
        if torch.is_grad_enabled():
            raise RuntimeError("only for inference")
        return y

    answering = _answering(Around(after=after))
    answering.first(state(answering.network))
    assert answering.watched() is None
    assert "only for inference" in answering.failure


class Keeps(nn.Module):
    """Keeps something of what it was given."""

    def __init__(self, how) -> None:
        super().__init__()
        self.inner, self.how, self.kept, self.head = tiny.classifier(), how, None, None
        self.all = []
        self.register_buffer("first", torch.zeros(1))

    def forward(self, x):
        y = self.inner(x)
        if self.how == "as long as as many come" and (self.kept is None or self.kept.shape != y.shape):
            self.kept = y.detach().clone()
        if self.how == "what it sees first" and self.kept is None:
            self.kept = y.detach().mean(0, keepdim=True)
        if self.how == "what it sees first, in a buffer" and not self.first.any():
            self.first.copy_(y.detach().std())
        if self.how == "a table by size" and self.kept is None:
            self.kept = torch.ones(1)
        if self.how == "all":
            self.all.append(y.detach())
        if self.how == "a head" and self.head is None:
            self.head = nn.Linear(5, 3)
        y = y if self.kept is None else y * self.kept
        return (y if self.head is None else self.head(y)) + self.first


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("as long as as many come", r"depends on those before it, by \d+% .*it keeps 'kept'"),
        ("what it sees first", "it keeps 'kept'"),
        ("what it sees first, in a buffer", "it keeps 'first'"),
        ("all", "keeps more tensors with each picture .in 'all'.: memory would run out"),
        ("a head", "makes 2 parameters .such as 'head.weight'. for which no weights were loaded"),
    ],
)
def test_what_is_kept_of_pictures_is_refused(how, says) -> None:
    answering = _answering(Keeps(how))
    with pytest.raises(Refused, match=says):
        answering.first(state(answering.network))


def test_what_depends_on_no_picture_may_be_kept() -> None:
    answering = _answering(Keeps("a table by size"))
    _, raw = answering.first(state(answering.network))
    torch.testing.assert_close(raw, answering.network(answering.rows))
    assert answering.network.kept is not None


FIRST = []


class KeepsBeside(nn.Module):
    """Takes off what the first picture's mean was, kept elsewhere than in an attribute."""

    def __init__(self, where) -> None:
        super().__init__()
        self.inner, self.where = tiny.classifier(), where
        self.object, self.table, held = SimpleNamespace(listed=[]), {"deeper": ([],)}, []
        self.enclosed = lambda: held

    def forward(self, x):
        held = {
            "an object": self.object.listed,
            "a table": self.table["deeper"][0],
            "a function": self.enclosed(),
            "a global": FIRST,
        }[self.where]
        if not held:
            held.append(x.mean().detach() + 1)
        return self.inner(x - held[0])


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("an object", "object.listed"),
        ("a table", "table.deeper.0"),
        ("a function", "enclosed.held"),
        ("a global", "KeepsBeside.forward.FIRST"),
    ],
)
def test_what_is_kept_of_pictures_beside_the_network_is_refused(where, named) -> None:
    FIRST.clear()
    answering = _answering(KeepsBeside(where))
    with pytest.raises(Refused, match=rf"depends on those before it, by \d+% .*it keeps '{named}'"):
        answering.first(state(answering.network))


class Averages(nn.Module):
    """Keeps a running mean in an object, which hardly moves."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = tiny.classifier(), SimpleNamespace(mean=torch.zeros(1), count=0)

    def forward(self, x):
        self.seen.count += 1
        self.seen.mean = self.seen.mean.lerp(x.mean().detach(), 1e-6)
        return self.inner(x - self.seen.mean)


def test_what_an_object_keeps_of_a_forward_can_be_used_with_gradients() -> None:
    answering = _answering(Averages())
    answering.first(state(answering.network))
    assert answering.keeps
    assert answering.past.counting == "seen.count"
    assert answering.watched() is not None
    with torch.inference_mode():
        answering.run(PICTURES)
    assert usable(answering.network)
    assert not usable(answering.network)
    assert answering.watched() is not None


class Draws(nn.Module):
    """Drops one picture in a thousand, by a generator of its own."""

    def __init__(self, kind, reset) -> None:
        super().__init__()
        self.inner, self.kind, self.reset, self.own = tiny.classifier(), kind, reset, {}
        self.seed()

    def seed(self) -> None:
        self.own["generator"] = {
            "torch": torch.Generator().manual_seed(0),
            "python": random.Random(0),
            "numpy": np.random.default_rng(0),
        }[self.kind]

    def forward(self, x):
        if self.reset:
            self.seed()
        own = self.own["generator"]
        drawn = torch.rand((), generator=own).item() if self.kind == "torch" else own.random()
        return self.inner(x * (drawn > 1e-3))


@pytest.mark.parametrize("kind", ["torch", "python", "numpy"])
def test_drawing_from_an_own_generator_is_refused(kind) -> None:
    answering = _answering(Draws(kind, reset=False))
    with pytest.raises(Refused, match=r"draws at random from 'own.generator', a generator that it never sets back"):
        answering.first(state(answering.network))


@pytest.mark.parametrize("kind", ["torch", "python", "numpy"])
def test_an_own_generator_that_each_forward_sets_back_is_no_fault(kind) -> None:
    answering = _answering(Draws(kind, reset=True))
    _, raw = answering.first(state(answering.network))
    torch.testing.assert_close(raw, answering.network(answering.rows))
    assert _outcomes(answering)["repeatable"] == "passed"


class Begins(Keeps):
    """A network that makes itself ready in its first forward, once."""

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.ones(1)
            if self.how == "a hook":
                self.inner.register_forward_hook(lambda _module, _x, y: y * 2)
            elif self.how == "a hook before, with names":
                self.inner.register_forward_pre_hook(lambda _module, x, names: ((x[0] * 2,), names), with_kwargs=True)
            elif self.how == "a part":
                self.inner.add_module(str(len(self.inner)), nn.Softplus())
            elif self.how == "other weights":
                self.inner[-1].weight = nn.Parameter(self.inner[-1].weight * 2, requires_grad=False)
        return super().forward(x)


@pytest.mark.parametrize("how", ["a hook", "a hook before, with names", "a part", "other weights"])
def test_what_a_first_forward_adds_once_is_added_once(how) -> None:
    expected = Begins(how).eval()(PICTURES)
    answering = _answering(Begins(how))
    _, raw = answering.first(state(answering.network))
    torch.testing.assert_close(raw, answering.network(answering.rows))
    torch.testing.assert_close(answering.network(PICTURES), expected)
    assert any(isinstance(hook, partial) for hook in answering.network.inner._forward_hooks.values())  # recording
