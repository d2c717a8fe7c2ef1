"""The line of JSON, held against what AWS wrote."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.capture.reader import parse_line
from understudy.capture.records import (
    PIECE_BYTES,
    CaptureRecord,
    _render_large,
    encoding_of,
    moment_of,
    render_line,
    render_pieces,
)

# Written by AWS for its example "SageMaker Model Monitor", features shortened.
OF_AWS = (
    '{"captureData":{"endpointInput":{"observedContentType":"text/csv","mode":"INPUT","data":"61,0,260.0",'
    '"encoding":"CSV"},"endpointOutput":{"observedContentType":"text/csv; charset=utf-8","mode":"OUTPUT",'
    '"data":"0.5217539072036743","encoding":"CSV"}},"eventMetadata":{"eventId":'
    '"44029db5-953e-48ec-a803-8c2d386487fa","inferenceId":"57","inferenceTime":"2021-02-05T04:15:00Z"},'
    '"eventVersion":"0"}'
)
ID = "44029db5-953e-48ec-a803-8c2d386487fa"


def test_a_line_is_to_the_letter_what_aws_writes(make_record: Callable[..., CaptureRecord]) -> None:
    assert render_line(make_record(ID, inference_id="57")).decode() == OF_AWS


def test_what_was_not_given_or_not_captured_is_left_out(make_record: Callable[..., CaptureRecord]) -> None:
    bare = json.loads(render_line(make_record(inference_id="", custom_attributes="", input_body=None)))
    assert list(bare["eventMetadata"]) == ["eventId", "inferenceTime"]
    assert list(bare["captureData"]) == ["endpointOutput"]
    full = json.loads(
        render_line(make_record(inference_id="i", custom_attributes="a=1,b=2", output_body=None))
    )
    assert full["eventMetadata"]["customAttributes"] == ["a=1,b=2"]
    assert list(full["captureData"]) == ["endpointInput"]
    empty = json.loads(render_line(make_record(input_body=b"")))
    assert empty["captureData"]["endpointInput"]["data"] == ""


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("text/csv", "CSV"),
        ("TEXT/CSV ; charset=utf-8; header=present", "CSV"),
        ("application/json", "JSON"),
        ("application/jsonlines", "BASE64"),
        ("application/jsonlines2", "BASE64"),
        ("", "BASE64"),
    ],
)
def test_content_types_decide_the_encoding(content_type: str, encoding: str) -> None:
    assert encoding_of(content_type, ("Text/csv",), ("application/json",)) == encoding


def test_without_lists_all_is_base64(make_record: Callable[..., CaptureRecord]) -> None:
    line = json.loads(render_line(make_record(csv_types=(), json_types=())))
    assert line["captureData"]["endpointInput"]["encoding"] == "BASE64"
    assert base64.b64decode(line["captureData"]["endpointInput"]["data"]) == b"61,0,260.0"


def test_a_body_that_is_no_utf_8_is_kept_whole(make_record: Callable[..., CaptureRecord]) -> None:
    line = json.loads(render_line(make_record(input_body=b"caf\xe9")))["captureData"]["endpointInput"]
    assert (line["encoding"], base64.b64decode(line["data"])) == ("BASE64", b"caf\xe9")


def test_times() -> None:
    assert moment_of(1_612_498_500.871) == "2021/02/05/04/15-00-871"
    assert moment_of(1_612_497_599.9996) == "2021/02/05/04/00-00-000"


@given(
    body=st.binary(max_size=300) | st.text(max_size=200).map(str.encode),
    attributes=st.text(max_size=50),
    inference_id=st.text(max_size=20),
    content_type=st.sampled_from(["text/csv", "application/json", "image/png"]),
)
def test_every_body_comes_back_byte_for_byte_from_one_line(
    body: bytes, attributes: str, inference_id: str, content_type: str
) -> None:
    facts: dict[str, Any] = {"custom_attributes": attributes, "inference_id": inference_id}
    one = CaptureRecord(
        destination="s3://box/p", endpoint="e", variant="v", event_id=str(uuid.UUID(int=7)), at_s=1.6e9,
        input_type=content_type, input_body=body, output_type=content_type, output_body=body[::-1],
        csv_types=("text/csv",), json_types=("application/json",), **facts,
    )  # fmt: skip
    line = render_line(one)
    assert len(line.decode().splitlines()) == 1
    back = parse_line(line)
    assert back.input is not None and back.output is not None
    assert (back.input.body, back.output.body) == (body, body[::-1])
    assert back.custom_attributes == ((attributes,) if attributes else ())
    assert back.inference_id == (inference_id or None)


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 6 << 20])
@pytest.mark.parametrize("unit", [b"1,2\n", 'ä\u2028€😀"\\'.encode(), b"\0", b"\xff"])
def test_large_bodies_come_back_too_in_small_pieces(
    size: int, unit: bytes, make_record: Callable[..., CaptureRecord]
) -> None:
    body = unit * (size // len(unit)) + b"x" * (size % len(unit))
    pieces = list(render_pieces(make_record(input_body=body, output_body=body[:100])))
    assert max(map(len, pieces)) <= 6 * PIECE_BYTES + 1000
    line = b"".join(pieces)
    assert b"\n" not in line and "\u2028" not in line.decode()
    back = parse_line(line)
    assert back.input is not None and back.output is not None
    assert back.input.body == body
    assert back.input.encoding == ("BASE64" if unit == b"\xff" else "CSV")
    assert json.loads(line)["captureData"]["endpointOutput"]["mode"] == "OUTPUT"


def test_texts_cannot_pretend_to_be_the_datas_place(make_record: Callable[..., CaptureRecord]) -> None:
    trick = '","mode":"OUTPUT","data":"'
    line = render_line(make_record(input_type=trick, output_type=trick, custom_attributes=trick))
    back = parse_line(line)
    assert back.input is not None and back.output is not None
    assert (back.input.content_type, back.input.body) == (trick, b"61,0,260.0")
    assert (back.output.content_type, back.output.body) == (trick, b"0.5217539072036743")
    assert back.custom_attributes == (trick,)


def test_half_surrogates_in_headers_stop_nothing(make_record: Callable[..., CaptureRecord]) -> None:
    line = json.loads(render_line(make_record(custom_attributes="a\udc80b")))
    assert line["eventMetadata"]["customAttributes"] == ["a\\udc80b"]


@given(
    content_type=st.sampled_from(
        ["text/csv", "text/csv; charset=x", "application/json", "a/b", '"\u2028', "\udc80/x"]
    ),
    input_body=st.none() | st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode()),
    output_body=st.none() | st.binary(max_size=60) | st.sampled_from([b"0.5", '\x85"\\"'.encode()]),
    inference_id=st.none() | st.sampled_from(["", "57", "a\u2029b", "\udcff"]),
    attributes=st.none() | st.sampled_from(["", "a=1", 'b="\\"']),
    at_s=st.floats(0, 4e9),
)
def test_small_records_are_rendered_as_large_ones_to_the_byte(
    content_type: str,
    input_body: bytes | None,
    output_body: bytes | None,
    inference_id: str | None,
    attributes: str | None,
    at_s: float,
) -> None:
    record = CaptureRecord(
        "s3://b/p", "e", "v", "1-2", inference_id, attributes, at_s,
        content_type, input_body, "text/csv", output_body, ("text/csv",), ("application/json",),
    )  # fmt: skip
    assert render_line(record) == b"".join(_render_large(record))
