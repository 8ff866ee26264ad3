"""A network that fails on a picture fails as itself: not as a defect of the server, and without its own words."""

import pytest
import torch
from torch import Tensor, nn

from service.contract import INPUT, Part, Tracing
from service.engine.network.forms.failures import NoAnswer, answered, checked
from service.engine.network.resident import Model
from service.errors import InvalidParameter, ModelFailed
from service.images import Transform
from service.models.spec import ModelSpec
from service.tasks import task
from tests import tiny

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        raise ArithmeticError("a secret")


class Moody(nn.Module):
    """A network that is as it was told to be, without a look at its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.mood = tiny.classifier(), "well"
        self.inner.relu2.register_forward_pre_hook(self.meet)

    def meet(self, *_: object) -> None:
        if self.mood in ("raises", "exits", "out of memory"):
            kinds = {"raises": ValueError, "exits": SystemExit, "out of memory": MemoryError}
            raise kinds[self.mood]("a secret")

    def forward(self, x: Tensor) -> object:
        if self.mood == "skips":
            return x.mean((2, 3))[:, [0, 1, 2, 0, 1]]
        y = self.inner(x)
        moods = {
            "tuple": lambda: (y,),
            "nothing": lambda: None,
            "rows": lambda: y[:1],
            "columns": lambda: y[:, :3],
            "backward": lambda: Cube.apply(y),
        }
        return moods.get(self.mood, lambda: y)()


@pytest.fixture(scope="module")
def model() -> Model:
    transform = Transform(32, (32, 32), (0.5,) * 3, (0.25,) * 3)
    network = Moody()
    return Model(ModelSpec("moody", lambda: network, transform, task("classification")), network, torch.device("cpu"))


@pytest.fixture
def mood(model: Model):
    def change(to: str) -> None:
        model.module.mood = to

    yield change
    change("well")


def forward(model: Model) -> Tensor:
    return model.forward(X)


def traced(model: Model) -> Tensor:
    (found,) = model.trace_parts(
        [Part(X, lambda seen: seen.outputs[:, :1])], Tracing(("inner.conv2",), ("inner.conv2", INPUT))
    )
    assert not isinstance(found, Exception)
    return found.outputs


def started(model: Model) -> Tensor:
    """Two rows that start at a layer; the picture has come there while all was well."""
    prefix, maps = PREFIXES[id(model)], torch.ones(2, 12, 16, 16)
    return model.tails.outputs("inner.conv2", [(prefix, maps)])


@pytest.fixture(autouse=True)
def _prefix(model: Model) -> None:
    PREFIXES.setdefault(id(model), model.tails.prefix("inner.conv2", X[:1]))


PREFIXES: dict = {}
REASONS = {
    "raises": "its forward raises ValueError in layer 'inner.relu2'",
    "exits": "its forward raises SystemExit in layer 'inner.relu2'",
    "tuple": "it returns a tuple, and returned a tensor when it was loaded",
    "nothing": "it returns a NoneType, and returned a tensor when it was loaded",
    "rows": "it returns shape (1, 5) for 2 pictures",
    "columns": "it returns (3,) numbers a picture, and returned (5,) when it was loaded",
}


@pytest.mark.parametrize("run", [forward, traced, started])
@pytest.mark.parametrize("name", REASONS)
def test_it_is_told_as_the_models(model: Model, mood, name: str, run) -> None:
    assert run(model).shape == (2, 5)
    mood(name)
    with pytest.raises(ModelFailed) as caught:
        run(model)
    assert f"the network of model 'moody' fails on this picture, or on a changed copy of it: {REASONS[name]}" == str(
        caught.value
    )
    assert "secret" not in str(caught.value)
    assert ("a secret" in caught.value.raised) == (name in ("raises", "exits"))
    # Nothing of the forward is held.
    assert caught.value.__context__ is None
    mood("well")
    assert run(model).shape == (2, 5)


def test_what_fails_in_a_backward_or_on_another_way(model: Model, mood) -> None:
    mood("backward")
    assert forward(model).shape == (2, 5)
    with pytest.raises(ModelFailed, match="its backward raises ArithmeticError"):
        traced(model)
    mood("skips")
    assert forward(model).shape == (2, 5)
    for come in (traced, lambda model: model.tails.prefix("inner.conv2", X[:1])):
        with pytest.raises(ModelFailed, match=r"does not come by layer 'inner\.conv2'"):
            come(model)


def test_memory_that_runs_out_is_no_fault_of_the_network(model: Model, mood) -> None:
    mood("out of memory")
    for run in (forward, traced):
        with pytest.raises(MemoryError):
            run(model)


def test_our_own_errors_and_defects_pass() -> None:
    def ours() -> None:
        raise ZeroDivisionError("ours")

    def told() -> None:
        raise InvalidParameter.at("/x", "no")

    network = nn.Identity()
    for call, kind in ((ours, ZeroDivisionError), (told, InvalidParameter)):
        with pytest.raises(kind):
            answered("m", network, call)


def test_what_is_an_answer() -> None:
    assert checked(X, 2) is X
    assert checked(X, 2, (3, 32, 32)) is X
    for answer, rows, shape in ((X, 3, None), (X, 2, (3, 32)), ([X], 1, None), (X.sum(), 1, None)):
        with pytest.raises(NoAnswer):
            checked(answer, rows, shape)
