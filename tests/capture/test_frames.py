"""Frames: what is whole is read, what is not ends the reading."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from understudy.capture.frames import pack_frame, read_frames
from understudy.capture.records import CaptureRecord

WHERE = ("s3://box/p", "e", "v", "2021/02/05/04/15-00-871")


@given(lines=st.lists(st.binary(max_size=60), max_size=8), data=st.data())
def test_a_torn_segment_gives_its_whole_frames(lines: list[bytes], data: st.DataObject) -> None:
    frames = [b"".join(pack_frame(*WHERE, [line[:7], b"", line[7:]])) for line in lines]
    segment = b"".join(frames)
    cut = data.draw(st.integers(0, len(segment)))
    whole, end = 0, 0
    while whole < len(frames) and end + len(frames[whole]) <= cut:
        end += len(frames[whole])
        whole += 1
    found = list(read_frames(segment[:cut]))
    assert [one.line for one in found] == lines[:whole]
    assert (found[-1].end if found else 0) == end


@given(lines=st.lists(st.binary(max_size=60), min_size=1, max_size=5), data=st.data())
def test_a_flipped_bit_is_never_read(lines: list[bytes], data: st.DataObject) -> None:
    segment = bytearray(b"".join(b"".join(pack_frame(*WHERE, [line])) for line in lines))
    at = data.draw(st.integers(0, len(segment) - 1))
    segment[at] ^= 1 << data.draw(st.integers(0, 7))
    found = [one.line for one in read_frames(bytes(segment))]
    assert len(found) < len(lines)
    assert found == lines[: len(found)]


def test_zeros_that_a_power_cut_left_are_no_frames(
    make_record: Callable[..., CaptureRecord], make_frame: Callable[[CaptureRecord], bytes]
) -> None:
    one = make_frame(make_record())
    assert len(list(read_frames(one + bytes(4096)))) == 1
