"""What was answered is kept, production's and shadows' under one event id; what is not kept is counted."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from understudy.capture.batches import read_records
from understudy.capture.frames import Frame
from understudy.worker import wire


def request(body: bytes = b"1", headers: bytes = b"", stream: bytes = b"") -> bytes:
    return (
        b"POST /endpoints/e/invocations%b HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n%b"
        b"Content-Length: %d\r\n\r\n%b" % (stream, headers, len(body), body)
    )


def until(check: Any, what: str = "", deadline_s: float = 20.0) -> Any:
    end_s = time.monotonic() + deadline_s
    while not (value := check()):
        assert time.monotonic() < end_s, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return value


def start(
    rig: Any, *, shadows: bool = False, spool: Path | None = None, percent: float = 100.0, **capture: Any
) -> None:
    """Production ``v`` at worker ``a``, perhaps shadow ``s`` at worker ``b``, with capture."""
    rig.worker("a")
    table = rig.table({"e": {"v": (1.0, ["a"])}})
    endpoint = table["endpoints"][0]
    endpoint["capture"] = {
        "destination": "s3://bucket/prefix",
        "sampling_percent": percent,
        "inputs": True,
        "outputs": True,
        "csv_types": ["text/csv"],
        "json_types": [],
        "durable": False,
        **capture,
    }
    if shadows:
        rig.worker("b").answer = lambda one: (200, b"application/json\0\0b", b"[2]")
        endpoint["shadows"] = [
            {
                "name": "s",
                "share": 1.0,
                "config_name": "e-config",
                "instances": [{"instance_id": "e/s/f1/b", "address": "w/b.sock"}],
            }
        ]
    rig.controller.table = table
    rig.start_router(extra=() if spool is None else ("--spool-dir", str(spool)))
    rig.controller.acked(1)


def kept(spool: Path) -> list[Frame]:
    frames: list[Frame] = []
    for path in sorted([*spool.glob("*.spool"), *spool.glob("*.open")]):
        try:
            for stream, some, end in read_records(path.read_bytes()):
                frames += [Frame(stream, some.first, line, end) for line in some.lines]
        except FileNotFoundError:  # completed just now
            return kept(spool)
    return frames


def lines(spool: Path, variant: str = "v") -> list[dict[str, Any]]:
    return [json.loads(frame.line) for frame in kept(spool) if frame.stream[2] == variant]


def shed(rig: Any, variant: str = "v") -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in rig.controller.items():
        if item.get("variant") == variant:
            for outcome, count in item.get("capture", {}).items():
                counts[outcome] = counts.get(outcome, 0) + count
    return counts


def drive(rig: Any, read_answer: Any, count: int, body: bytes = b"1,2", headers: bytes = b"") -> None:
    with rig.connect() as connection:
        file = connection.makefile("rb")
        for first in range(0, count, 50):
            some = min(50, count - first)
            connection.sendall(request(body, headers) * some)
            for _ in range(some):
                assert read_answer(file).status == 200


def test_production_and_shadow_are_kept_under_one_event_id(
    rig: Any, read_answer: Any, tmp_path: Path
) -> None:
    start(rig, shadows=True, spool=tmp_path)
    headers = b"X-Amzn-SageMaker-Inference-Id: 57\r\nX-Amzn-SageMaker-Custom-Attributes: a=1\r\n"
    drive(rig, read_answer, 120, headers=headers)
    until(lambda: len(lines(tmp_path)) == 120 and len(lines(tmp_path, "s")) == 120, "records")
    frame = kept(tmp_path)[0]
    assert frame.stream[:2] == ("s3://bucket/prefix", "e")
    production = {one["eventMetadata"]["eventId"]: one for one in lines(tmp_path)}
    copies = {one["eventMetadata"]["eventId"]: one for one in lines(tmp_path, "s")}
    assert len(production) == len(copies) == 120 and production.keys() == copies.keys()
    for event_id, line in production.items():
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}", event_id)
        assert line["captureData"]["endpointInput"]["data"] == "1,2"
        assert line["captureData"]["endpointOutput"] == {
            "observedContentType": "text/csv", "mode": "OUTPUT", "data": "1,2", "encoding": "CSV",
        }  # fmt: skip
        assert line["eventMetadata"]["inferenceId"] == "57"
        assert line["eventMetadata"]["customAttributes"] == ["a=1"]
        copy = copies[event_id]["captureData"]
        assert copy["endpointInput"] == line["captureData"]["endpointInput"]
        assert copy["endpointOutput"]["observedContentType"] == "application/json"
        assert copy["endpointOutput"]["encoding"] == "BASE64"
    assert not shed(rig) and not shed(rig, "s")


def test_draws_hold_for_both_and_are_counted(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    start(rig, shadows=True, spool=tmp_path, percent=50.0)
    drive(rig, read_answer, 400)
    until(lambda: len(lines(tmp_path)) + shed(rig).get("sampling", 0) == 400)
    until(lambda: len(lines(tmp_path, "s")) + shed(rig, "s").get("sampling", 0) == 400)
    ids = {one["eventMetadata"]["eventId"] for one in lines(tmp_path)}
    assert ids == {one["eventMetadata"]["eventId"] for one in lines(tmp_path, "s")}
    assert 100 < len(ids) < 300


@pytest.mark.parametrize(("inputs", "outputs"), [(True, False), (False, True)])
def test_what_is_not_asked_for_is_not_kept(
    rig: Any, read_answer: Any, tmp_path: Path, inputs: bool, outputs: bool
) -> None:
    start(rig, spool=tmp_path, inputs=inputs, outputs=outputs)
    drive(rig, read_answer, 1)
    [line] = until(lambda: lines(tmp_path))
    assert ("endpointInput" in line["captureData"], "endpointOutput" in line["captureData"]) == (
        inputs,
        outputs,
    )


def test_failed_requests_are_no_records(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    start(rig, spool=tmp_path)
    rig.workers["a"].answer = lambda one: (500, b"text/plain\0\0primary", b"no")
    assert rig.invoke().status == 424
    rig.workers["a"].answer = rig.workers["a"].echo
    assert rig.invoke(b"good").status == 200  # with Connection: close or without
    [line] = until(lambda: lines(tmp_path))
    assert line["captureData"]["endpointInput"]["data"] == "good"
    assert rig.stop_router() == 0
    assert len(lines(tmp_path)) == 1 and not shed(rig)


def test_empty_and_large_bodies_are_kept(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    start(rig, spool=tmp_path)
    large = b"7" * 6_291_456
    for body in (b"", large):
        assert rig.invoke(body).body == body
    rig.stop_router()
    data = [one["captureData"]["endpointOutput"]["data"] for one in lines(tmp_path)]
    assert data == ["", large.decode()]


@pytest.mark.parametrize(("percent", "kept_bytes"), [(100.0, 6_291_456), (0.0, None)])
def test_a_shadows_large_answer_is_kept_whole_or_not_at_all(
    rig: Any, read_answer: Any, tmp_path: Path, percent: float, kept_bytes: int | None
) -> None:
    start(rig, shadows=True, spool=tmp_path, percent=percent)
    rig.workers["b"].answer = lambda one: (200, b"text/csv", b"8" * 6_291_456)
    drive(rig, read_answer, 1)
    until(lambda: rig.controller.total("invocations", variant="s") == 1)
    assert rig.controller.total("errors_5xx", variant="s") == 0
    if kept_bytes is None:
        until(lambda: shed(rig, "s") == {"sampling": 1})
    else:
        [line] = until(lambda: lines(tmp_path, "s"))
        assert line["captureData"]["endpointOutput"]["data"] == "8" * kept_bytes


def test_the_end_keeps_what_was_answered(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    start(rig, shadows=True, spool=tmp_path)
    drive(rig, read_answer, 500)
    assert rig.stop_router() == 0
    # Each record is in the spool, or was shed with a reason.
    for variant in ("v", "s"):
        answered = rig.controller.total("invocations", variant=variant)
        failed = rig.controller.total("errors_5xx", variant=variant)
        assert len(lines(tmp_path, variant)) + sum(shed(rig, variant).values()) == answered - failed
    assert rig.controller.total("invocations", variant="v") == 500
    assert not list(tmp_path.glob("*.open"))


def test_without_a_spool_all_is_counted(rig: Any, read_answer: Any) -> None:
    start(rig)
    drive(rig, read_answer, 30)
    until(lambda: shed(rig) == {"disk": 30})


def test_a_spool_that_cannot_be_written_harms_nobody(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_text("a file where a folder should be")
    start(rig, spool=spool)
    drive(rig, read_answer, 300)
    until(lambda: shed(rig) == {"disk": 300}, "every record counted")


# --- durable -------------------------------------------------------------------------------------------


def test_a_durable_answer_leaves_after_its_record(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    start(rig, shadows=True, spool=tmp_path, durable=True)
    for number in range(20):
        answer = rig.invoke(str(number).encode())
        assert (answer.status, answer.body) == (200, str(number).encode())
        inputs = [one["captureData"]["endpointInput"]["data"] for one in lines(tmp_path)]
        assert inputs == [str(one) for one in range(number + 1)]
    drive(rig, read_answer, 200)
    assert len(lines(tmp_path)) == 220
    until(lambda: rig.controller.total("invocations", variant="v") == 220)
    assert rig.controller.total("errors_5xx", variant="v") == 0


def test_no_durable_answer_without_its_record(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_text("a file where a folder should be")
    start(rig, spool=spool, durable=True)
    answer = rig.invoke()
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (503, "ServiceUnavailable")
    assert "capture record" in answer.json["Message"]
    until(lambda: shed(rig) == {"disk": 1} and rig.controller.total("errors_5xx", variant="v") == 1)
    spool.unlink()  # there is room again
    until(lambda: rig.invoke().status == 200, "it recovers by itself")
    assert len(lines(spool)) == 1


def test_durable_capture_of_a_sample_holds_only_the_sample(
    rig: Any, read_answer: Any, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.write_text("a file where a folder should be")
    start(rig, spool=spool, durable=True, percent=0.0)
    drive(rig, read_answer, 50)
    until(lambda: shed(rig) == {"sampling": 50})


def test_a_caller_that_leaves_while_its_answer_is_held(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    start(rig, spool=tmp_path, durable=True)
    for _ in range(50):
        with rig.connect() as connection:
            connection.sendall(request())
    until(lambda: rig.controller.total("invocations", variant="v") == 50, "each counted once")
    drive(rig, read_answer, 10)
    until(lambda: rig.controller.total("invocations", variant="v") == 60)


# --- streams -------------------------------------------------------------------------------------------


def stream_of(*pieces: bytes, fails: bool = False) -> Any:
    def answer(one: wire.Request) -> Any:
        frames = []
        for number, piece in enumerate(pieces):
            flags = (wire.CHUNK_FIRST if number == 0 else 0) | (
                0 if number < len(pieces) - 1 else wire.CHUNK_FAILED if fails else wire.CHUNK_LAST
            )
            head = b"text/csv" if number == 0 else b""
            frames.append(wire.encode_chunk(one.request_id, flags=flags, status=200, head=head, data=piece))
        return frames

    return answer


def stream(rig: Any, read_answer: Any) -> bytes:
    with rig.connect() as connection:
        connection.sendall(request(b"in", stream=b"-response-stream"))
        body: bytes = read_answer(connection.makefile("rb")).body
        return body


@pytest.mark.parametrize("durable", [False, True])
def test_a_streamed_answer_is_joined(rig: Any, read_answer: Any, tmp_path: Path, durable: bool) -> None:
    start(rig, shadows=True, spool=tmp_path, durable=durable)
    rig.workers["a"].answer = stream_of(b"1,", b"2,", b"3")
    rig.workers["b"].answer = stream_of(b"4,", b"5")
    assert b"3" in stream(rig, read_answer)
    [line] = until(lambda: lines(tmp_path))
    [copy] = until(lambda: lines(tmp_path, "s"))
    assert line["captureData"]["endpointOutput"]["data"] == "1,2,3"
    assert line["captureData"]["endpointOutput"]["observedContentType"] == "text/csv"
    assert copy["captureData"]["endpointOutput"]["data"] == "4,5"
    assert copy["eventMetadata"] == line["eventMetadata"]


def test_streams_are_joined_within_bounds(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    start(rig, spool=tmp_path)
    rig.workers["a"].answer = stream_of(b"1" * 4_000_000, b"2" * 4_000_000)
    stream(rig, read_answer)
    [line] = until(lambda: lines(tmp_path))
    data = line["captureData"]["endpointOutput"]["data"]
    assert data == "1" * 4_000_000 + "2" * (6_291_456 - 4_000_000)
    rig.workers["a"].answer = stream_of(b"1", b"broken", fails=True)
    for _ in range(3):
        stream(rig, read_answer)
    rig.workers["a"].answer = stream_of(b"4,", b"5")
    stream(rig, read_answer)
    assert rig.stop_router() == 0
    outputs = [one["captureData"]["endpointOutput"]["data"] for one in lines(tmp_path)]
    assert outputs[1:] == ["4,5"]


def test_a_durable_stream_that_cannot_be_kept_breaks(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_text("a file where a folder should be")
    start(rig, spool=spool, durable=True)
    rig.workers["a"].answer = stream_of(b"first", b"last")
    body = stream(rig, read_answer)
    assert b"first" in body and b"last" not in body and b"StreamBroken" in body
