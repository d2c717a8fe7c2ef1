"""The wire: everything comes back as it went, however it is cut, and rubbish is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.worker import wire

IDS = st.integers(0, 2**32 - 1)
HEADS = st.binary(max_size=80)
BODIES = st.binary(max_size=300)


@given(st.lists(st.tuples(IDS, HEADS, BODIES), max_size=20), st.data())
def test_requests_survive_any_cutting(requests, data):
    stream = wire.PING_FRAME + wire.encode_requests(requests) + wire.encode_cancel(7) + wire.PONG_FRAME
    splitter = wire.FrameSplitter()
    frames, position = [], 0
    while position < len(stream):
        size = data.draw(st.integers(1, len(stream)))
        frames += splitter.feed(stream[position : position + size])
        position += size
    assert [kind for kind, _ in frames] == [wire.PING, wire.REQUESTS, wire.CANCEL, wire.PONG]
    assert wire.decode_requests(frames[1][1]) == requests
    assert wire.decode_request_id(frames[2][1]) == 7
    assert splitter.pending_bytes == 0


@given(st.lists(st.tuples(IDS, st.integers(0, 65535), HEADS, BODIES), max_size=20))
def test_responses_survive(responses):
    ((kind, payload),) = wire.FrameSplitter().feed(bytearray(wire.encode_responses(responses)))
    assert kind == wire.RESPONSES and wire.decode_responses(payload) == responses


@given(IDS, st.integers(0, 7), st.integers(0, 65535), HEADS, BODIES)
def test_chunks_survive(request_id, flags, status, head, data):
    frame = wire.encode_chunk(request_id, flags=flags, status=status, head=head, data=data)
    ((kind, payload),) = wire.FrameSplitter().feed(memoryview(frame))
    assert kind == wire.CHUNK
    assert wire.decode_chunk(memoryview(payload)) == (request_id, flags, status, head, data)


FIELD = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)


@given(st.builds(wire.RequestHead, *[FIELD] * 10))
def test_request_heads_survive(head):
    assert wire.decode_request_head(wire.encode_request_head(head)) == head


@given(st.builds(wire.ResponseHead, *[FIELD] * 5))
def test_response_heads_survive(head):
    assert wire.decode_response_head(wire.encode_response_head(head)) == head


def test_heads_leave_out_trailing_empty_fields_and_ignore_further_ones():
    assert wire.encode_request_head(wire.RequestHead()) == b""
    assert wire.encode_request_head(wire.RequestHead(accept="a")) == b"\0a"
    assert wire.decode_request_head(b"x" + b"\0" * 30 + b"y").content_type == "x"


@given(st.binary(max_size=200))
def test_rubbish_is_a_wire_error_or_decodes(payload):
    for decode in (wire.decode_requests, wire.decode_responses, wire.decode_chunk, wire.decode_request_id):
        try:
            decode(payload)
        except wire.WireError:
            continue


@given(st.lists(st.tuples(IDS, HEADS, BODIES), min_size=1, max_size=3), st.data())
def test_truncation_is_refused(requests, data):
    payload = wire.encode_requests(requests)[5:]
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(wire.WireError):
        wire.decode_requests(payload[:cut])
    with pytest.raises(wire.WireError):
        wire.decode_requests(payload + b"x")


def test_what_does_not_fit_is_refused():
    with pytest.raises(wire.WireError):
        wire.encode_requests([(1, b"", b"")] * 65536)
    with pytest.raises(wire.WireError):
        wire.encode_responses([(1, 70000, b"", b"")])
    with pytest.raises(wire.WireError):
        wire.encode_request_head(wire.RequestHead(content_type="a\0b"))
    with pytest.raises(wire.WireError):
        wire.encode_request_head(wire.RequestHead(custom_attributes="a" * 70000))
    with pytest.raises(wire.WireError):
        wire.FrameSplitter().feed(b"\xff\xff\xff\xff\x01")
    with pytest.raises(wire.WireError):
        wire.FrameSplitter().feed(b"\0\0\0\0\x01")
    with pytest.raises(wire.WireError):
        wire.FrameSplitter(max_frame_bytes=10).feed(wire.encode_cancel(1) + b"\0\0\0\x0b\x01")


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 100, wire.LARGE_BYTES - 1, wire.LARGE_BYTES, 300_000]), max_size=5),
    step=st.integers(1, 90_000),
)
def test_buffers_in_a_row_are_the_frame(sizes: list[int], step: int) -> None:
    requests = [(at, b"head", bytes([at + 1]) * size) for at, size in enumerate(sizes)]
    responses = [(at, 200, b"head", body) for at, _, body in requests]
    asked, answered = wire.encode_requests(requests), wire.encode_responses(responses)
    assert b"".join(wire.request_buffers(requests)) == asked
    assert b"".join(wire.response_buffers(responses)) == answered
    splitter, whole, frames = wire.FrameSplitter(), wire.PING_FRAME + asked + answered + wire.PONG_FRAME, []
    for start in range(0, len(whole), max(step, len(whole) // 300)):
        frames += splitter.feed(whole[start : start + max(step, len(whole) // 300)])
    assert [kind for kind, _ in frames] == [wire.PING, wire.REQUESTS, wire.RESPONSES, wire.PONG]
    assert frames[1][1] == asked[5:] and frames[2][1] == answered[5:]
    assert splitter.pending_bytes == 0
