import orjson
import pytest

from service.api.kserve.inference import Inference

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
