"""A skimmer gives what a splitter gives, but for large bodies that nobody wants."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.dataplane.invocation import MAX_BODY_BYTES
from understudy.dataplane.skimming import MAX_GATHERED_BYTES, SKIM_FROM_BYTES, Skimmer
from understudy.worker import wire

sizes = st.one_of(st.integers(0, 100), st.sampled_from([SKIM_FROM_BYTES, 3 * SKIM_FROM_BYTES]))
responses = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([0, 200, 415, 500]), st.binary(max_size=40), sizes),
    max_size=6,
)
frames = st.lists(st.one_of(responses, st.just("pong"), st.just("chunk")), max_size=5)


def rendered(frame: object) -> bytes:
    if frame == "pong":
        return wire.PONG_FRAME
    if frame == "chunk":
        return wire.encode_chunk(7, flags=1, status=200, head=b"h", data=b"c" * (SKIM_FROM_BYTES + 1))
    assert isinstance(frame, list)
    return wire.encode_responses([(one[0], one[1], one[2], bytes(one[3])) for one in frame])


@settings(deadline=None)
@given(frames, st.lists(st.integers(1, 100_000), min_size=1, max_size=20), st.booleans())
def test_it_equals_the_splitter_but_for_dropped_bodies(
    sent: list[object], cuts: list[int], wanted: bool
) -> None:
    data = b"".join(map(rendered, sent))
    skimmer, expected = Skimmer(lambda request_id: wanted), wire.FrameSplitter().feed(data)
    got: list[tuple[int, bytes]] = []
    position = step = 0
    while position < len(data):
        size = cuts[step % len(cuts)]
        got += skimmer.feed(data[position : position + size])
        position, step = position + size, step + 1
    assert [kind for kind, _ in got] == [kind for kind, _ in expected]
    for (kind, one), (_, two) in zip(got, expected, strict=True):
        if kind != wire.RESPONSES or wanted:
            assert one == two
            continue
        for mine, theirs in zip(wire.decode_responses(one), wire.decode_responses(two), strict=True):
            assert mine[:3] == theirs[:3]
            assert mine.body in (theirs.body, b"")
    assert skimmer.pending_bytes == 0


def fed(skimmer: Skimmer, data: bytes) -> list[wire.Response]:
    got: list[wire.Response] = []
    for start in range(0, len(data), 65_536):
        for _, payload in skimmer.feed(data[start : start + 65_536]):
            got += wire.decode_responses(payload)
    return got


def test_large_bodies_come_only_when_wanted() -> None:
    body = b"x" * MAX_BODY_BYTES
    data = wire.encode_responses([(1, 200, b"a", body), (2, 200, b"b", body), (3, 200, b"c", b"")])
    got = fed(Skimmer(lambda request_id: request_id == 2), data)
    assert [(one.request_id, one.status, one.head, len(one.body)) for one in got] == [
        (1, 200, b"a", 0),
        (2, 200, b"b", len(body)),
        (3, 200, b"c", 0),
    ]


def test_bodies_above_the_limit_are_errors() -> None:
    data = wire.encode_responses([(1, 200, b"a", b"x" * (MAX_BODY_BYTES + 1)), (2, 200, b"", b"1" * 100)])
    assert [one.status for one in fed(Skimmer(lambda _: True), data)] == [500, 200]


def test_what_is_gathered_is_bounded() -> None:
    body = b"x" * MAX_BODY_BYTES
    with pytest.raises(wire.WireError):
        fed(Skimmer(lambda _: True), wire.encode_responses([(one, 200, b"", body) for one in range(3)]))
    large = b"x" * (MAX_GATHERED_BYTES + 1)
    with pytest.raises(wire.WireError):
        fed(Skimmer(lambda _: True), wire.encode_chunk(1, flags=1, status=200, head=b"", data=large))


@pytest.mark.parametrize("change", [-1, 1])
def test_lost_step_is_noticed(change: int) -> None:
    frame = bytearray(wire.encode_responses([(1, 200, b"", b"x" * 200_000)]))
    frame[:4] = (int.from_bytes(frame[:4], "big") + change).to_bytes(4, "big")
    with pytest.raises(wire.WireError):
        fed(Skimmer(lambda _: True), bytes(frame) + wire.PONG_FRAME)
