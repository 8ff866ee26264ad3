"""HTTP/1.1 as it comes in: what h11 has no bound for."""

import h11
import pytest

from service.server.reading import Reading

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def events(reading, data):
    """Return the kinds of events until no more come of this."""
    found = []
    reading.receive_data(data)
    while True:
        event = reading.next_event()
        if event in (h11.NEED_DATA, h11.PAUSED):
            return [*found, event]
        found.append(type(event))


def chunks(size, count):
    return b"%x\r\n%s\r\n" % (size, b"x" * size) * count


def test_chunks_have_to_hold_something_after_a_thousand():
    reading = Reading()
    assert events(reading, HEAD + chunks(1, 1000)) == [h11.Request, *[h11.Data] * 1000, h11.NEED_DATA]
    with pytest.raises(h11.RemoteProtocolError, match="chunks of 1 bytes on average; send it in larger ones"):
        events(reading, chunks(1, 1))
    assert "larger ones" in reading.mistake
    large = Reading()
    events(large, HEAD + chunks(64, 5000))
    events(large, chunks(200_000, 1) + chunks(1, 3000))  # few bytes of all


def test_a_chunk_in_many_pieces_is_one():
    reading = Reading()
    events(reading, HEAD + b"1000\r\n")
    for _ in range(0x1000 - 1):
        events(reading, b"x")
    assert events(reading, b"x\r\n0\r\n\r\n") == [h11.Data, h11.EndOfMessage, h11.NEED_DATA]


def test_each_body_is_counted_by_itself():
    reading = Reading()
    for _ in range(3):
        events(reading, HEAD + chunks(1, 900) + b"0\r\n\r\n")
        reading.send(h11.Response(status_code=204, headers=[]))
        reading.send(h11.EndOfMessage())
        reading.start_next_cycle()


def test_who_sends_ahead_is_paused_only_when_it_is_much():
    reading = Reading()
    get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    assert events(reading, get + b"G")[-1] is h11.NEED_DATA
    assert events(reading, b"E" * (16 * 1024 - 1))[-1] is h11.NEED_DATA
    assert events(reading, b"T")[-1] is h11.PAUSED


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_head_of_thousands_of_lines_is_refused_before_it_is_taken_apart(end):
    line = b"GET / HTTP/1.1" + end + b"host: x" + end
    reading = Reading()
    behind = b"\n" * 1000  # which is no part of it
    assert events(reading, line + (b"a: b" + end) * 1498 + end + behind)[0] is h11.Request
    for sent in (line + (b"a: b" + end) * 1499 + end, line + (b"a: b" + end) * 1700):  # whole, or not yet
        reading = Reading()
        with pytest.raises(h11.RemoteProtocolError, match="more than 1,500 lines"):
            events(reading, sent)
        assert "send fewer headers" in reading.mistake


@pytest.mark.parametrize("first", [b"", chunks(5, 3)], ids=["alone", "behind chunks"])
@pytest.mark.parametrize("cut", [0, 2])
def test_trailers_of_thousands_of_lines_are_refused_before_they_are_taken_apart(first, cut):
    reading = Reading()
    assert events(reading, HEAD + first + b"0\r\n" + b"a: b\r\n" * 1000 + b"\r\n")[-2] is h11.EndOfMessage
    reading = Reading()
    sent = HEAD + first + b"0\r\n" + b"a: b\r\n" * 1600
    events(reading, sent[: len(HEAD + first) + cut])
    with pytest.raises(h11.RemoteProtocolError, match="end of the body has more than 1,500 lines"):
        events(reading, sent[len(HEAD + first) + cut :])
    text = Reading()  # what a chunk holds is no trailer
    assert events(text, HEAD + b"4000\r\n0\r\n" + b"\n" * (0x4000 - 3))[-1] is h11.NEED_DATA
