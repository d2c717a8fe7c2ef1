"""Conditional requests and ranges.

Main functions: :func:`check_read`, :func:`check_copy`, :func:`window_of`.
Source: RFC 9110 sections 13 and 14; S3's API reference, GetObject and CopyObject.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from understudy.core.errors import ApiError
from understudy.core.object_errors import precondition_failed
from understudy.core.ports import ObjectInfo
from understudy.operations.s3.errors import invalid_range, invalid_request, not_implemented
from understudy.operations.s3.facts import PART_SIZES_HEADER, epoch_s, quoted, stamp

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.ASCII)
_RANGES = re.compile(r"\s*bytes\s*=[\s\d,-]*,[\s\d,-]*", re.ASCII)


@dataclass(frozen=True)
class Window:
    """The bytes of an object that are asked for.

    Attributes:
        partial: Answer 206 with ContentRange.
        parts_count: Of a multipart object that was asked for one part.
    """

    start: int
    length: int
    partial: bool
    parts_count: int | None = None


def check_read(request: Mapping[str, Any], info: ObjectInfo) -> None:
    """Hold GetObject's or HeadObject's conditions against the object.

    Raises:
        ApiError: PreconditionFailed 412, NotModified 304.
    """
    failed = _failed(request, info, "If")
    if failed in ("IfMatch", "IfUnmodifiedSince"):
        raise precondition_failed(_header(failed))
    if failed is not None:
        raise ApiError(
            "Not Modified",
            code="NotModified",
            status=304,
            members={"ETag": quoted(info.etag), "LastModified": stamp(info.modified_at_s)},
        )


def check_copy(request: Mapping[str, Any], info: ObjectInfo) -> None:
    """Hold CopySourceIf... against the source.

    Raises:
        ApiError: PreconditionFailed 412.
    """
    failed = _failed(request, info, "CopySourceIf")
    if failed is not None:
        raise precondition_failed(_header(failed))


def write_conditions(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return PutObject's IfMatch and IfNoneMatch as the store's own arguments."""
    none_match, match = request.get("IfNoneMatch"), request.get("IfMatch")
    if none_match is not None and none_match != "*":
        raise not_implemented("If-None-Match on writes with anything but *")
    if none_match is not None and match is not None:
        raise invalid_request("If-Match and If-None-Match can't be given both.")
    conditions: dict[str, Any] = {}
    if none_match is not None:
        conditions["if_absent"] = True
    if match is not None:
        conditions["if_match"] = bare_etag(match)
    return conditions


def bare_etag(text: str) -> str:
    """Strip an ETag of quotes."""
    return text.strip().removeprefix("W/").strip('"')


def window_of(request: Mapping[str, Any], info: ObjectInfo) -> Window:
    """Work out which bytes are asked for.

    A range that does not parse is ignored, as RFC 9110 wants it.

    Raises:
        ApiError: InvalidRange 416, InvalidPartNumber 416, NotImplemented 501 for several ranges.
    """
    header, part_number = request.get("Range"), request.get("PartNumber")
    if part_number is not None:
        if header is not None:
            raise invalid_request("Cannot specify both Range header and partNumber query parameter")
        return _part_window(info, part_number)
    whole = Window(0, info.size_bytes, partial=False)
    if header is None:
        return whole
    if _RANGES.fullmatch(header):
        raise not_implemented("several ranges in one request")
    match = _RANGE.fullmatch(header)
    if match is None or not any(match.groups()):
        return whole
    first, last = match.groups()
    if first == "":
        length = min(int(last), info.size_bytes)
        start = info.size_bytes - length
    else:
        start = int(first)
        end = int(last) + 1 if last else info.size_bytes
        if last and end <= start:
            return whole
        length = min(end, info.size_bytes) - start
    if length <= 0:
        raise invalid_range(header, info.size_bytes)
    return Window(start, length, partial=True)


def render_part_sizes(sizes_bytes: list[int]) -> str:
    """Write sizes down run by run.

    >>> render_part_sizes([8, 8, 8, 3])
    '8*3,3'
    """
    runs: list[list[int]] = []
    for size_bytes in sizes_bytes:
        if runs and runs[-1][0] == size_bytes:
            runs[-1][1] += 1
        else:
            runs.append([size_bytes, 1])
    return ",".join(f"{size}*{count}" if count > 1 else f"{size}" for size, count in runs)


def part_sizes(info: ObjectInfo) -> list[int] | None:
    """Return the sizes of a multipart object's parts; None for an object put whole."""
    text = info.headers.get(PART_SIZES_HEADER)
    if text is None:
        return None
    sizes: list[int] = []
    for run in text.split(","):
        size, _, count = run.partition("*")
        sizes += [int(size)] * (int(count) if count else 1)
    return sizes


def _part_window(info: ObjectInfo, part_number: int) -> Window:
    sizes = part_sizes(info)
    count = len(sizes) if sizes is not None else 1
    if not 1 <= part_number <= count:
        raise ApiError(
            "The requested partnumber is not satisfiable",
            code="InvalidPartNumber",
            status=416,
            members={"ActualPartCount": str(count), "PartNumberRequested": str(part_number)},
        )
    if sizes is None:
        return Window(0, info.size_bytes, partial=info.size_bytes > 0)
    start = sum(sizes[: part_number - 1])
    return Window(start, sizes[part_number - 1], partial=True, parts_count=count)


def _failed(request: Mapping[str, Any], info: ObjectInfo, prefix: str) -> str | None:
    """Name the first condition that does not hold; an ETag's condition outdoes a date's."""
    modified_at_s = math.floor(info.modified_at_s)  # HTTP dates know no fractions
    if (match := request.get(f"{prefix}Match")) is not None:
        if not _matches(match, info.etag):
            return "IfMatch"
    elif (since := request.get(f"{prefix}UnmodifiedSince")) is not None and modified_at_s > epoch_s(since):
        return "IfUnmodifiedSince"
    if (none_match := request.get(f"{prefix}NoneMatch")) is not None:
        if _matches(none_match, info.etag):
            return "IfNoneMatch"
    elif (since := request.get(f"{prefix}ModifiedSince")) is not None and modified_at_s <= epoch_s(since):
        return "IfModifiedSince"
    return None


def _matches(header: str, etag: str) -> bool:
    return any(one.strip() == "*" or bare_etag(one) == etag for one in header.split(","))


def _header(member: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", member)
