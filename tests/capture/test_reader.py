"""Reading AWS's records, ours, and files that hold neither."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.capture.reader import (
    FolderSource,
    NotARecord,
    ObjectSource,
    parse_line,
    read_file,
    read_lines,
    read_window,
)
from understudy.capture.records import CaptureRecord, render_line
from understudy.stores.memory_objects import MemoryObjects

# As AWS wrote it (features shortened), and AWS's documentation's form with attributes and without an id.
OF_AWS = (
    b'{"captureData":{"endpointInput":{"observedContentType":"text/csv","mode":"INPUT","data":"61,0,260.0",'
    b'"encoding":"CSV"},"endpointOutput":{"observedContentType":"text/csv; charset=utf-8","mode":"OUTPUT",'
    b'"data":"0.5217539072036743","encoding":"CSV"}},"eventMetadata":{"eventId":'
    b'"44029db5-953e-48ec-a803-8c2d386487fa","inferenceId":"57","inferenceTime":"2021-02-05T04:15:00Z"},'
    b'"eventVersion":"0"}'
)
DOCUMENTED = (
    b'{"captureData": {"endpointInput": {"observedContentType": "application/json", "mode": "INPUT", '
    b'"data": "eyJhIjoxfQ==", "encoding": "BASE64"}}, "eventMetadata": {"eventId": "x", '
    b'"customAttributes": ["a", "b"], "inferenceTime": "2021-02-05T04:15:00.5+00:00"}, "eventVersion": "0"}'
)
AT_S = 1_612_498_500.0


def test_aws_records_are_read() -> None:
    one = parse_line(OF_AWS)
    assert (one.event_id, one.inference_id) == ("44029db5-953e-48ec-a803-8c2d386487fa", "57")
    assert one.at_s == AT_S
    assert one.input is not None and one.output is not None
    assert (one.input.body, one.input.encoding) == (b"61,0,260.0", "CSV")
    assert (one.output.data, one.output.content_type) == ("0.5217539072036743", "text/csv; charset=utf-8")
    other = parse_line(DOCUMENTED)
    assert other.output is None and other.inference_id is None
    assert other.input is not None and other.input.body == b'{"a":1}'
    assert (other.custom_attributes, other.at_s) == (("a", "b"), AT_S + 0.5)


def test_odd_but_legal_lines_are_read() -> None:
    half = parse_line(OF_AWS.replace(b"61,0", b"61\\ud800,0"))
    assert half.input is not None and half.input.data == "61\ufffd,0,260.0"
    pair = parse_line(OF_AWS.replace(b"61,0", b"\\ud83d\\ude00"))
    assert pair.input is not None and pair.input.data == "\U0001f600,260.0"
    assert parse_line(b"\xef\xbb\xbf" + OF_AWS) == parse_line(OF_AWS)
    for told, read in (("5", ("5",)), ('"a=b"', ("a=b",)), ("null", ()), ('["a",1]', ("a", "1"))):
        line = OF_AWS.replace(b'"inferenceId"', f'"customAttributes":{told},"inferenceId"'.encode())
        assert parse_line(line).custom_attributes == read


def test_a_broken_gzip_is_told_like_a_bad_line() -> None:
    packed = gzip.compress(OF_AWS + b"\n")
    for broken in (packed[:-9], packed[:12] + b"xxxx" + packed[16:], b"\x1f\x8bno"):
        told: list[str] = []
        assert list(read_lines([broken], name="file", on_bad=told.append)) == []
        assert len(told) == 1 and told[0].startswith("file:1: broken gzip: ")
        with pytest.raises(NotARecord, match="broken gzip"):
            list(read_lines([broken]))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON"),
        (b'"x"', "no captureData"),
        (b'{"captureData":{}}', "no eventMetadata.eventId"),
        (b'{"captureData":{},"eventMetadata":{"eventId":"x","inferenceTime":"noon"}}', "no time"),
        (b'{"captureData":{},"eventMetadata":{"eventId":"x"}}', "no time"),
        (b"\xff", "not JSON"),
    ],
)
def test_other_lines_are_told_apart(line: bytes, why: str) -> None:
    with pytest.raises(NotARecord, match=why):
        parse_line(line)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_pieces_may_be_cut_anywhere(size: int) -> None:
    body = OF_AWS + b"\r\n\n" + DOCUMENTED
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert [one.event_id for one in read_lines(pieces)] == ["44029db5-953e-48ec-a803-8c2d386487fa", "x"]


def test_bad_lines_end_the_reading_or_are_told() -> None:
    body = [OF_AWS + b"\nnonsense\n" + DOCUMENTED + b"\n"]
    with pytest.raises(NotARecord, match=r"my\.jsonl:2"):
        list(read_lines(body, name="my.jsonl"))
    told: list[str] = []
    assert len(list(read_lines(body, name="my.jsonl", on_bad=told.append))) == 2
    assert len(told) == 1 and told[0].startswith("my.jsonl:2: not JSON")


def test_empty_and_compressed_files(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(OF_AWS + b"\n"))
    assert [one.inference_id for one in read_lines(read_file(path))] == ["57"]
    assert list(read_lines([])) == []


@pytest.mark.parametrize("kind", ["objects", "folder"])
def test_a_window_is_cut_to_the_second(
    kind: str, tmp_path: Path, clock: Any, make_record: Callable[..., CaptureRecord]
) -> None:
    store = MemoryObjects(clock)
    store.create_bucket("box")

    def put(key: str, *records: CaptureRecord) -> None:
        body = b"".join(render_line(one) + b"\n" for one in records)
        store.put("box", key, [body])
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(body)

    folder = "data/capture/churn/AllTraffic/2021/02/05"
    put(f"{folder}/03/59-00-000-u.jsonl", make_record("hour before", at_s=AT_S - 1000))
    put(f"{folder}/04/15-00-000-u.jsonl", make_record("e-0", at_s=AT_S), make_record("e-1", at_s=AT_S + 1))
    put(f"{folder}/04/15-00-500-u.jsonl", make_record("e-2", at_s=AT_S + 2))
    put(f"{folder}/04/readme.txt")
    put(f"{folder}/05/00-00-000-u.jsonl", make_record("hour after", at_s=AT_S + 3600))
    put("data/capture/churn/Other/2021/02/05/04/15-00-000-u.jsonl", make_record("other", at_s=AT_S))
    source = ObjectSource(store, "box") if kind == "objects" else FolderSource(tmp_path)

    def ids(start_s: float, end_s: float) -> list[str]:
        found = read_window(source, "s3://box/data/capture", "churn", "AllTraffic", start_s, end_s)
        return [one.event_id for one in found]

    assert ids(AT_S, AT_S + 2) == ["e-0", "e-1"]
    assert ids(AT_S + 1, AT_S + 3601) == ["e-1", "e-2", "hour after"]
    assert ids(0.0, 1e12) == ["hour before", "e-0", "e-1", "e-2", "hour after"]
    assert ids(AT_S + 7200, AT_S + 9000) == []
