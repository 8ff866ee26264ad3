import pytest
import torch

from service.contract import Target, Targets
from service.errors import NotApplicable
from service.explainers.cam.head import linear_head, weighted_maps
from tests import tiny
from tests.explainers.conftest import assert_close, tiny_input


def test_a_proved_head_is_taken_where_the_outputs_mean_what_the_method_is_about(small):
    for factory, task, measures in ((tiny.classifier, "classification", False), (tiny.regression, "regression", True)):
        facts = small(factory, task=task).facts
        assert linear_head(facts, "method", measures=measures) is facts.head


@pytest.mark.parametrize(
    ("factory", "task", "measures", "remedy"),
    [
        (tiny.classifier, "classification", True, "needs a regression model and classifier is a classification one"),
        (tiny.regression, "regression", False, "needs a classification model and regression is a regression one"),
        (tiny.vgg, "classification", False, "Use 'grad-cam'"),
    ],
)
def test_others_are_refused_by_what_they_lack(small, factory, task, measures, remedy):
    with pytest.raises(NotApplicable, match=remedy):
        linear_head(small(factory, task=task).facts, "method", measures=measures)


def test_maps_of_a_target_are_linear_in_its_weights(small):
    """A target that weighs columns has the maps of its columns, weighed."""
    subject, x = small(tiny.classifier), tiny_input()

    def found(*targets):
        explained = weighted_maps("cam", subject.probe(), x, subject.facts.head, Targets(subject.facts, targets))
        assert explained.details["completeness_residual"] < 1e-5
        return torch.stack([m.array for m in explained.maps])

    contrast = found(Target(3, ((3, 1.0), (1, -0.5))))
    assert_close(contrast[0], found(3)[0] - 0.5 * found(1)[0])
