from concurrent.futures import ThreadPoolExecutor

import pytest

from service.api.kserve.batch import MOST, bounded, placed
from service.errors import FieldError, InvalidParameter
from tests.api.test_contract import BASE64


def test_errors_point_into_the_request_as_it_was_sent():
    with pytest.raises(InvalidParameter) as raised, placed(lambda inner: f"/there{inner}"):
        raise InvalidParameter("/image: wrong", errors=[FieldError("/image", "wrong")])
    assert raised.value.detail == "/there/image: wrong"
    assert [one.pointer for one in raised.value.errors] == ["/there/image"]


@pytest.mark.parametrize("count", [0, MOST + 1])
def test_a_request_holds_some_questions_and_not_too_many(count):
    bounded(MOST, "/x")
    with pytest.raises(InvalidParameter):
        bounded(count, "/x")


def test_the_first_error_ends_all_of_a_request(held):
    """Others of the request are still on the device meanwhile, and nothing is left of them."""
    held.hold()
    response = held.client.post("/v1/models/tiny:predict", json={"instances": [BASE64, BASE64, "!"]})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/instances/2/image"
    held.let()
    assert held.quiet()


def test_one_deadline_for_all(held):
    held.hold()
    sent = {"instances": [BASE64] * 3, "timeout_s": 0.2}
    assert held.client.post("/v1/models/tiny:predict", json=sent).status_code == 504
    held.let()
    assert held.quiet()


def test_a_question_that_is_answered_ends_no_other_one(held):
    """Each instance may have a deadline of its own; the first one's is over before the second one's answer is there."""
    quick = {"image": BASE64, "method": "cam", "timeout_s": 0.5}
    slow = {"image": BASE64, "method": "occlusion", "params": {"window": 8, "stride": 8}, "timeout_s": 60}
    held.hold()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(held.client.post, "/v1/models/tiny:explain", json={"instances": [quick, slow]})
        held.wait_for_a_batch()
        assert not held.cancelled.wait(0.7)
        held.let()
        assert [one["method"] for one in asked.result().json()["explanations"]] == ["cam", "occlusion"]
