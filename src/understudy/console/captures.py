"""The capture browser: what an endpoint captured, newest first, and where two variants' answers differ.

Owns the way back through the hours of a capture, and its bounds: a page of records, ``MAX_READ_BYTES`` of
files per question.  Bodies are told as text, cut to ``SHOWN_CHARACTERS``.  Main functions: :func:`browse`,
:func:`differing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from understudy.analysis.answers import text_of_answer
from understudy.analysis.differences import Comparison
from understudy.analysis.fields import Tolerance
from understudy.capture.comparing import SLACK_S, Compared, body_of, compare
from understudy.capture.growing import bucket_and_prefix
from understudy.capture.reader import SUFFIXES, Captured, ObjectSource, Side, read_lines
from understudy.core.endpoints import Endpoint
from understudy.core.ports import Objects, Records

HOUR_S = 3600.0
MAX_HOURS = 24 * 31
MAX_READ_BYTES = 64 << 20
SHOWN_CHARACTERS = 4000
COMPARED_RECORDS = 20_000


@dataclass
class Reading:
    """How far a question has read.

    Attributes:
        left_bytes: What may still be read.
        bad: Lines that are no records.
        stopped_at_s: Unix time before which nothing was looked at, as there was too much; None: all was.
    """

    left_bytes: int = MAX_READ_BYTES
    bad: list[str] = field(default_factory=list)
    stopped_at_s: float | None = None


def find_destination(records: Records, endpoint_name: str) -> str | None:
    """Return where an endpoint's capture goes; None if it has none, or there is no such endpoint."""
    stored = records.get(Endpoint, endpoint_name)
    fleet = None if stored is None else stored.value.fleet
    capture = None if fleet is None else fleet.data_capture
    return None if capture is None else str(capture["DestinationS3Uri"])


def browse(
    objects: Objects,
    destination: str,
    endpoint: str,
    variants: list[str],
    *,
    start_s: float,
    end_s: float,
    now_s: float,
    inference_id: str | None,
    limit: int,
) -> dict[str, Any]:
    """Find captured records, newest first.

    Args:
        destination: ``s3://bucket/prefix``.
        start_s, end_s: Unix time; the end is not included.
        now_s: The server's clock: nothing was captured after it.
        inference_id: Only records of this InferenceId; None: all.
        limit: At most so many of all variants together.
    """
    reading = Reading()
    found: list[dict[str, Any]] = []
    for variant in variants:
        taken = 0
        for captured in _newest_first(
            objects, destination, endpoint, variant, start_s, end_s, now_s, reading
        ):
            if inference_id is not None and captured.inference_id != inference_id:
                continue
            found.append(_told(captured, variant))
            taken += 1
            if taken > limit:  # one more than asked for tells that there are more
                break
    found.sort(key=lambda one: (-one["at_s"], one["event_id"], one["variant"]))
    return {
        "destination": destination,
        "records": found[:limit],
        "more": len(found) > limit,
        "stopped_at_s": reading.stopped_at_s,
        "unreadable_lines": len(reading.bad),
    }


def differing(
    objects: Objects,
    destination: str,
    endpoint: str,
    names: tuple[str, str],
    *,
    start_s: float,
    end_s: float,
    now_s: float,
    threshold: float | None,
) -> dict[str, Any]:
    """Compare the newest answers of two variants: ``COMPARED_RECORDS`` of each at most.

    Args:
        names: Production's variant and the candidate.
        threshold: Scores on different sides of it are class flips.
    """
    streams = []
    readings = [Reading(), Reading()]
    for name, reading in zip(names, readings, strict=True):
        newest: list[Captured] = []
        for captured in _newest_first(objects, destination, endpoint, name, start_s, end_s, now_s, reading):
            newest.append(captured)
            if len(newest) == COMPARED_RECORDS:
                reading.stopped_at_s = captured.at_s
                break
        streams.append(newest)
    # Only where both were read: the rest of one would look as if the other had no answer.
    since_s = max((one.stopped_at_s for one in readings if one.stopped_at_s is not None), default=start_s)
    ordered = tuple(iter([one for one in reversed(stream) if one.at_s >= since_s]) for stream in streams)
    compared = compare(Compared(names, ordered, SLACK_S), Comparison(Tolerance(threshold=threshold)), "event")
    report = compared.report(top=20, examples=10)
    report |= {"baseline": names[0], "candidate": names[1], "since_s": since_s, "until_s": end_s}
    report["unreadable_lines"] = sum(len(one.bad) for one in readings)
    return report


def _newest_first(
    objects: Objects,
    destination: str,
    endpoint: str,
    variant: str,
    start_s: float,
    end_s: float,
    now_s: float,
    reading: Reading,
) -> Iterator[Captured]:
    """Yield a variant's records from the newest back; within a second in any order."""
    bucket, prefix = bucket_and_prefix(destination)
    source = ObjectSource(objects, bucket)
    hour_s = min(end_s, now_s + HOUR_S) // HOUR_S * HOUR_S
    first_s = max(start_s // HOUR_S * HOUR_S, hour_s - MAX_HOURS * HOUR_S)
    while hour_s >= first_s:
        folder = f"{prefix}{endpoint}/{variant}/{datetime.fromtimestamp(hour_s, UTC):%Y/%m/%d/%H}/"
        for key in sorted(source.keys(folder, ""), reverse=True):
            if not key.endswith(SUFFIXES):
                continue
            size_bytes = objects.head(bucket, key).size_bytes
            if size_bytes > reading.left_bytes:
                reading.stopped_at_s = max(hour_s, reading.stopped_at_s or 0.0)
                return
            reading.left_bytes -= size_bytes
            records = read_lines(source.read(key), name=key, on_bad=reading.bad.append)
            inside = [one for one in records if start_s <= one.at_s < end_s]
            inside.sort(key=lambda one: one.at_s, reverse=True)
            yield from inside
        hour_s -= HOUR_S


def _told(captured: Captured, variant: str) -> dict[str, Any]:
    return {
        "variant": variant,
        "event_id": captured.event_id,
        "at_s": captured.at_s,
        "inference_id": captured.inference_id,
        "custom_attributes": list(captured.custom_attributes),
        "input": _side(captured.input),
        "output": _side(captured.output),
    }


def _side(side: Side | None) -> dict[str, Any] | None:
    if side is None:
        return None
    answer = body_of(side)
    return {
        "content_type": side.content_type,
        "encoding": side.encoding,
        "bytes": len(answer.body),
        "text": text_of_answer(answer, SHOWN_CHARACTERS),
    }
