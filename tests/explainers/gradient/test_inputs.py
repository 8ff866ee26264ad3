"""What methods that differentiate at the input share."""

import pytest
import torch

from service.contract import Rows, Targets
from service.explainers.fields import Colours
from service.explainers.gradient.inputs import InputGradient, clean, outputs_of, over_colours, smoothed
from service.explainers.gradient.saliency import Saliency
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input
from tests.explainers.gradient.test_saliency import gradients
from tests.oracles import Case


class Gradient(InputGradient):
    """The gradient itself, in no registry."""

    name = "gradient"
    colours: Colours = "sum"

    def passes(self, facts, targets):
        return 1 + 2 * targets

    def explain(self, probe, image, targets):
        gradient, outputs, targets = clean(probe, image, targets, self.score)
        return self._explained(probe.facts, gradient, self.colours, targets, outputs, details={"more": 1})


def test_pixels_show_their_colours_as_asked():
    values = torch.tensor([[1.0, -4.0, 2.0], [-1.0, 0.5, 0.0]]).view(2, 3, 1, 1)
    assert over_colours(values, "sum").tolist() == [[[-1.0]], [[-0.5]]]
    assert over_colours(values, "absmax").tolist() == [[[4.0]], [[1.0]]]
    assert torch.equal(over_colours(values, "keep"), values)


@pytest.mark.parametrize(
    ("colours", "kind", "size"), [("sum", "signed", 2), ("absmax", "positive", 2), ("keep", "picture", 3)]
)
def test_a_map_says_of_what_kind_it_is(small, colours, kind, size):
    found = small(tiny.classifier).explain(Gradient(colours=colours, score="probability"), tiny_input(), [1])
    (m,) = found.maps
    assert (m.name, m.kind, m.array.ndim, m.target.index) == ("gradient", kind, size, 1)
    assert found.details == {"score": "probability", "more": 1}


def test_gradients_of_the_picture_come_with_its_outputs(small):
    subject, x = small(tiny.classifier), tiny_input()
    g, outputs, targets = clean(subject.probe(), x, Targets(subject.facts, [1, 3]), "probability")
    for i, target in enumerate((1, 3)):
        case = Case(subject.plain, x, target=target, params={"score": "probability"})
        assert_close(g[i], gradients(case, x)[0])
    assert_close(outputs, subject.plain(x)[0])
    assert [t.index for t in targets.chosen(outputs)] == [1, 3]
    assert_close(outputs_of(subject.probe(), Rows.of(x))[0], outputs)


def test_without_a_named_target_it_is_the_clean_pictures(small):
    subject, x = small(tiny.classifier), tiny_input()
    found = subject.explain(Saliency(smooth_samples=3, smooth_noise=1), x)
    assert found.maps[0].target.index == int(found.outputs.argmax()) == int(subject.plain(x).argmax())


def test_a_mean_over_copies_is_summed_in_double(small):
    """A thousand numbers near 1 add up to a few times 1e-5 wrong in float32."""
    subject, x = small(tiny.classifier), tiny_input()
    targets = Targets(subject.facts, [2])
    (mean,) = smoothed(subject.probe(), x, targets, "logit", 512, 1e-6, 0)
    assert mean.dtype == torch.float32
    assert_close(mean, gradients(Case(subject.plain, x, target=2), x)[0], 1e-6)
