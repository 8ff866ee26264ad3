"""Streams of events, cut wherever a network may cut them."""

import pytest

from service.client.sending.events import Event, Reader

STREAM = (
    b'\xef\xbb\xbf: hello\r\n\r\nid: 7\nevent: progress\ndata: {"a":\ndata:1}\n\n'
    b"data: first\r\rretry: 5\r\nevent: nothing\r\n\r\nid\ndata:  \xc3\xa9\r\n\r\ndata: cut off"
)
EVENTS = [Event("progress", '{"a":\n1}', "7"), Event("message", "first", "7"), Event("message", " é", "")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_are_the_same_however_they_are_cut(size):
    reader, found = Reader(), []
    for i in range(0, len(STREAM), size):
        found += reader.feed(STREAM[i : i + size])
        assert reader.feed(b"") == []
    assert found == EVENTS


def test_an_id_with_a_zero_is_none():
    assert Reader().feed(b"id: 1\nid: 2\0\ndata: x\n\n") == [Event("message", "x", "1")]


def test_an_event_is_given_at_its_end_and_not_later():
    reader = Reader()
    assert reader.feed(b"data: x\n") == []
    assert reader.feed(b"\n") == [Event("message", "x", "")]


def test_a_long_line_is_kept_as_it_came_until_it_ends():
    """Results have tens of megabytes in one line: to look at all of it with each piece took twenty seconds."""
    reader, size = Reader(), 1000
    for i in range(1, 100):
        assert reader.feed(b"x" * size) == []
        assert [len(piece) for piece in reader._rest] == [size] * i
    reader = Reader()
    assert reader.feed(b"data: a\r") == []
    assert reader.feed(b"\r") == reader.feed(b"") == []
    assert reader.feed(b"\n") == [Event("message", "a", "")]
