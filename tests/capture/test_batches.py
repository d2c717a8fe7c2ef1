"""Records that are packed together come out as those that went by themselves."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.capture.batches import Batch, Packed, read_records
from understudy.capture.frames import Stream, pack_frame
from understudy.capture.records import CaptureRecord, moment_of, render_line

IDS = "44029db5-953e-48ec-a803-"
CSV, JSON = ("text/csv",), ("application/json",)
PLACE = ("s3://box/p", "churn", "AllTraffic")
TYPES = [
    ("text/csv", "text/csv; charset=utf-8"),
    ("application/json", "application/octet-stream"),
    ('odd/"\u2028\udc80', "text/csv"),
    ("", "application/json"),
    ("text/csv; of=100%b", "application/json; %d %%"),
]
# Around the end of an hour, to the microsecond.
TIMES = st.integers(0, 2_000_000).map(lambda us: 1_612_501_199.0 + us / 1e6)
# Headers are UTF-8 with what is none as half surrogate pairs; bodies may be anything.
HEADERS = st.none() | st.text(
    st.characters() | st.sampled_from('\u2028\u0085\udc80\udcff\x00"\\'), max_size=9
)
BODIES = st.none() | st.binary(max_size=30) | st.text(max_size=30).map(lambda text: text.encode())
PACKED = st.tuples(
    st.integers(1, 2**48 - 1), TIMES, st.integers(0, len(TYPES) - 1), BODIES, BODIES, HEADERS, HEADERS
)


def as_frame(records: list[Packed]) -> bytes:
    batch = Batch(*PLACE, IDS, CSV, JSON, TYPES, records)
    assert batch.count == len(records)
    return b"".join(
        pack_frame(batch.destination, batch.endpoint, batch.variant, batch.moment, batch.pieces())
    )


def alone(packed: Packed) -> CaptureRecord:
    number, at_s, kind, request, answer, inference_id, attributes = packed
    input_type, output_type = TYPES[kind]
    return CaptureRecord(
        *PLACE, f"{IDS}{number:012x}", inference_id, attributes, at_s,
        input_type, request, output_type, answer, CSV, JSON,
    )  # fmt: skip


@given(records=st.lists(PACKED, min_size=1, max_size=12))
def test_a_batch_is_rendered_as_each_of_its_records(records: list[Packed]) -> None:
    frame = as_frame(records)
    wanted: dict[Stream, list[tuple[str, bytes]]] = {}
    for one in records:
        hour, _, within = moment_of(one[1]).rpartition("/")
        wanted.setdefault((*PLACE, hour), []).append((within, render_line(alone(one))))
    found = list(read_records(frame))
    assert {stream: some.lines for stream, some, _ in found} == {
        stream: [line for _, line in lines] for stream, lines in wanted.items()
    }
    for stream, some, end in found:
        moments = [moment for moment, _ in wanted[stream]]
        assert (some.first, some.last, end) == (min(moments), max(moments), len(frame))


def test_batches_and_single_records_lie_in_one_segment(
    make_record: Callable[..., CaptureRecord], make_frame: Callable[[CaptureRecord], bytes]
) -> None:
    packed: Packed = (7, 1_612_498_500.0, 0, b"1", b"2", None, None)
    segment = as_frame([packed, packed]) + make_frame(make_record("alone")) + as_frame([packed])[:-1]
    (_, first, _), (_, second, end) = read_records(segment)
    assert first.lines == [render_line(alone(packed))] * 2
    assert second.lines == [render_line(make_record("alone"))]
    assert end < len(segment), "the torn batch is not read"


@pytest.mark.parametrize("content", [b"", b"\xc1", msgspec.msgpack.encode({"another": "version"})])
def test_a_batch_that_is_none_ends_the_reading(content: bytes) -> None:
    whole = as_frame([(1, 1.6e9, 0, b"1", b"2", None, None)])
    other = b"".join(pack_frame(*PLACE, "", [content]))
    [(_, _, end)] = read_records(whole + other + whole)
    assert end == len(whole)
