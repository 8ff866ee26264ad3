"""The form in which a network has to be run is found by running it."""

import pytest
import torch
from torch import nn

from service.engine.network.capture import install
from service.engine.network.forms.adapted import Adapted
from service.engine.network.proofs.answering import Answering
from service.engine.network.proofs.checks import Checks, state
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
    assert answering.checks.rows == 11


FORMS = {
    "an item": (Around(after=lambda y: {"logits": y}), {}),
    "a named item": (Around(after=lambda y: (y, y * 2)), {"output": 1}),
    "one axis less": (Around(after=lambda y: y[:, 0]), {}),
    "half": (Around(after=lambda y: y.half()), {}),
    "squeezed": (Around(after=lambda y: y.squeeze()), {}),
    "writes": (Around(before=lambda x: x.mul_(2)), {}),
    "batch": (Around(after=lambda y: y - y.mean(0) / 2), {}),
}


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
    assert (answering.copies, answering.singly) == (name == "writes", name == "batch")


def test_why_gradients_fail_is_kept() -> None:

    def after(y):
        if torch.is_grad_enabled():
            raise RuntimeError("only for inference")
        return y

    answering = _answering(Around(after=after))
    answering.first(state(answering.network))
    assert answering.watched() is None
    assert "only for inference" in answering.failure
