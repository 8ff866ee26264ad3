import orjson
import pytest

from service.api.kserve.inference import Inference
from service.errors import InvalidParameter
from service.rendering import OutputOptions

IMAGE = {"name": "image", "datatype": "BYTES", "shape": [2], "data": ["YQ==", "Yg=="]}


def _read(tiny, **body):
    return Inference.read(orjson.dumps({"inputs": [IMAGE]} | body), None, tiny.store.get("tiny").facts)


def test_columns_of_one_picture_are_one_question(tiny):
    found = _read(tiny, outputs=[{"name": "logits"}, {"name": "cam"}, {"name": "probabilities"}])
    assert [question.ask.method and question.ask.method.name for question in found.questions] == [None, "cam"] * 2
    assert [question.ask.pictures for question in found.questions] == [("YQ==",)] * 2 + [("Yg==",)] * 2
    assert found.method == "cam"


@pytest.mark.parametrize(("priority", "expected"), [(0, 0), (1, 10), (2, 9), (11, 0), (21, -10), (1000, -10)])
def test_priorities_are_turned_round(tiny, priority, expected):
    found = _read(tiny, parameters={"priority": priority, "timeout": 1_500_000})
    assert {question.ask.priority for question in found.questions} == {expected}
    assert {question.ask.timeout_s for question in found.questions} == {1.5}


def test_parameters_stand_on_the_output_or_under_its_name(tiny):
    own = _read(tiny, outputs=[{"name": "occlusion", "parameters": {"window": 17}}])
    named = _read(tiny, outputs=[{"name": "occlusion"}], parameters={"occlusion.window": 17})
    both = _read(
        tiny, outputs=[{"name": "occlusion", "parameters": {"window": 17}}], parameters={"occlusion.window": 19}
    )
    assert [one.questions[0].ask.method.window for one in (own, named, both)] == [17, 17, 17]


def test_how_it_is_drawn_is_said_to_explanations_alone(tiny):
    """Others beside it take no harm, and what nothing reads is refused."""
    asked = [{"name": "logits"}, {"name": "cam"}, {"name": "explanation", "parameters": {"output.overlay": False}}]
    found = _read(tiny, outputs=asked, parameters={"output.opacity": 0.25})
    drawn = {(q.ask.method and q.ask.method.name): q.ask.output for q in found.questions}
    assert (drawn["grad-cam"].opacity, drawn["grad-cam"].overlay) == (0.25, False)
    assert drawn[None] == drawn["cam"] == OutputOptions()
    with pytest.raises(InvalidParameter) as raised:
        _read(tiny, outputs=[{"name": "cam", "parameters": {"output.overlay": False}}])
    assert raised.value.errors[0].pointer == "/outputs/0/parameters/output.overlay"
    with pytest.raises(InvalidParameter) as raised:
        _read(tiny, outputs=[{"name": "explanation"}], parameters={"output.opacity": 2})
    assert raised.value.errors[0].pointer == "/parameters/output.opacity"
