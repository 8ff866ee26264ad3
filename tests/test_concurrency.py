"""Many at once get what each would get alone: the point where libraries that share a model answer wrongly."""

from service.explainers.base import registry
from tests.concurrency import compare, requests

THREADS, REQUESTS = 8, 120


def test_mixed_requests_answer_as_alone():
    asked = list(requests(REQUESTS))
    assert {method for method, _ in asked} == {*registry()}
    found = compare(asked, THREADS)
    assert not found.differing
    assert found.shared > REQUESTS / 10  # or else nobody ever shared a batch, and the test shows nothing
