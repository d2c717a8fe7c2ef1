"""CloudWatch Logs: what workers printed, as ``aws logs tail`` and boto3 read it.

Owns DescribeLogGroups, DescribeLogStreams, GetLogEvents, FilterLogEvents and DeleteLogGroup over the Logs
port.  Refuses to write: groups and streams are the endpoints' and their instances'.
Main value: :data:`OPERATIONS`.

Source: CloudWatch Logs API Reference; botocore's ``logs`` model.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from typing import Any

from understudy.core.errors import ApiError
from understudy.core.ports import LogEvent, LogStream
from understudy.operations.log_patterns import Pattern, PatternError, parse_pattern
from understudy.operations.log_reading import backwards, bounds, forwards, position_at
from understudy.operations.page_tokens import page_token, parse_page_token
from understudy.operations.services import Operation, Services

PAGE = 50
MAX_EVENTS = 10_000
MAX_PAGE_BYTES = 1 << 20
EVENT_OVERHEAD_BYTES = 26  # CloudWatch's own figure
MAX_SCANNED = 200_000  # lines that one FilterLogEvents looks at before it answers with what it has
_TOKEN = re.compile(r"([fb])/(\d{1,18})", re.ASCII)
_ARN = re.compile(r"arn:[^:]*:logs:[^:]*:[^:]*:log-group:([^:]+)(?::\*)?")
_STREAM_GONE = "The specified log stream does not exist."


def _invalid(message: str) -> ApiError:
    return ApiError(message, code="InvalidParameterException", status=400)


def _not_found(message: str) -> ApiError:
    return ApiError(message, code="ResourceNotFoundException", status=400)


def _group_arn(services: Services, group: str) -> str:
    return f"arn:aws:logs:{services.place.region}:{services.place.account_id}:log-group:{group}"


def _group_name(identifier: str) -> str:
    match = _ARN.fullmatch(identifier)
    return match[1] if match else identifier


def _group_of(services: Services, request: dict[str, Any]) -> str:
    """Name the group that a request means by name or by ARN."""
    name, identifier = request.get("logGroupName"), request.get("logGroupIdentifier")
    if (name is None) == (identifier is None):
        raise _invalid("You must specify either logGroupName or logGroupIdentifier, but not both.")
    group = name if name is not None else _group_name(str(identifier))
    if all(found != group for found, _, _ in services.logs.groups()):
        raise _not_found("The specified log group does not exist.")
    return str(group)


def _page(
    rows: list[tuple[list[Any], dict[str, Any]]],
    request: dict[str, Any],
    types: tuple[type, ...],
    *,
    descending: bool,
) -> tuple[list[dict[str, Any]], str | None]:
    """Sort rows by their key and cut the page that the request asks for.

    Args:
        rows: (key, structure); keys are lists of the given types.
    """
    rows.sort(key=lambda row: row[0], reverse=descending)
    if request.get("nextToken") is not None:
        try:
            after = parse_page_token(request["nextToken"], *types)
            rows = [row for row in rows if (row[0] < after if descending else row[0] > after)]
        except (TypeError, ValueError):
            raise _invalid("The specified nextToken is invalid.") from None
    limit = request.get("limit", PAGE)
    token = page_token(rows[limit - 1][0]) if len(rows) > limit else None
    return [row for _, row in rows[:limit]], token


# --- groups and streams --------------------------------------------------------------------------------


def describe_log_groups(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List log groups by name.

    Raises:
        ApiError: InvalidParameterException, 400.
    """
    prefix, part = request.get("logGroupNamePrefix"), request.get("logGroupNamePattern")
    if prefix is not None and part is not None:
        raise _invalid("LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters.")
    wanted = {_group_name(each) for each in request.get("logGroupIdentifiers") or []}
    rows: list[tuple[list[Any], dict[str, Any]]] = []
    for group, created_at_ms, stored_bytes in services.logs.groups():
        if (
            not group.startswith(prefix or "")
            or (part or "") not in group
            or (wanted and group not in wanted)
        ):
            continue
        if request.get("logGroupClass", "STANDARD") != "STANDARD":
            continue
        arn = _group_arn(services, group)
        facts = {"logGroupName": group, "creationTime": created_at_ms, "storedBytes": stored_bytes}
        shape = {"metricFilterCount": 0, "logGroupClass": "STANDARD", "arn": f"{arn}:*", "logGroupArn": arn}
        rows.append(([group], facts | shape))
    page, token = _page(rows, request, (str,), descending=False)
    return {"logGroups": page} | ({"nextToken": token} if token else {})


def describe_log_streams(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List the streams of a group, by name or by the time of their last event.

    Raises:
        ApiError: InvalidParameterException or ResourceNotFoundException, 400.
    """
    group = _group_of(services, request)
    by_time = request.get("orderBy", "LogStreamName") == "LastEventTime"
    prefix = request.get("logStreamNamePrefix")
    if by_time and prefix is not None:
        raise _invalid("Cannot order by LastEventTime with a logStreamNamePrefix.")
    rows: list[tuple[list[Any], dict[str, Any]]] = []
    for stream in services.logs.streams(group):
        if not stream.name.startswith(prefix or ""):
            continue
        facts: dict[str, Any] = {
            "logStreamName": stream.name,
            "creationTime": stream.created_at_ms,
            "arn": f"{_group_arn(services, group)}:log-stream:{stream.name}",
            "storedBytes": stream.stored_bytes,
        }
        if stream.first_event_ms is not None and stream.last_event_ms is not None:
            facts["firstEventTimestamp"] = stream.first_event_ms
            facts["lastEventTimestamp"] = facts["lastIngestionTime"] = stream.last_event_ms
        last_ms = stream.last_event_ms if stream.last_event_ms is not None else 0
        rows.append(([last_ms if by_time else 0, stream.name], facts))
    page, token = _page(rows, request, (int, str), descending=bool(request.get("descending", False)))
    return {"logStreams": page} | ({"nextToken": token} if token else {})


def delete_log_group(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Forget what a group holds; a running worker's stream comes back with its next line.

    Raises:
        ApiError: ResourceNotFoundException, 400.
    """
    services.logs.delete(_group_of(services, request))
    return {}


# --- GetLogEvents --------------------------------------------------------------------------------------


def get_log_events(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Return events of one stream, oldest first, and tokens to go on from there in both directions.

    At an end the token that was passed comes back.

    Raises:
        ApiError: InvalidParameterException or ResourceNotFoundException, 400.
    """
    group = _group_of(services, request)
    stream = _stream(services, group, request["logStreamName"])
    start_ms, end_ms = _range(request)
    forward, place = bool(request.get("startFromHead", False)), None
    if request.get("nextToken") is not None:
        match = _TOKEN.fullmatch(request["nextToken"])
        if match is None:
            raise _invalid("The specified nextToken is invalid.")
        forward, place = match[1] == "f", int(match[2])

    first, last = bounds(services.logs, group, stream)
    low = first if start_ms is None else position_at(services.logs, group, stream, start_ms)
    if forward:
        place = low if place is None else place
        found = forwards(services.logs, group, stream.name, max(place, low))
        wanted = takewhile(lambda event: end_ms is None or event.at_ms < end_ms, found)
    else:
        high = last if end_ms is None else position_at(services.logs, group, stream, end_ms)
        place = high if place is None else place
        found = backwards(services.logs, group, stream, min(place, high))
        wanted = takewhile(lambda event: event.position >= low, found)
    events = list(_limited(wanted, request.get("limit", MAX_EVENTS), lambda event: event))
    if not forward:
        events.reverse()
    return {
        "events": [
            {"timestamp": event.at_ms, "message": event.message, "ingestionTime": event.at_ms}
            for event in events
        ],
        "nextForwardToken": f"f/{events[-1].position + 1 if events else place:018d}",
        "nextBackwardToken": f"b/{events[0].position if events else place:018d}",
    }


def _stream(services: Services, group: str, name: str) -> LogStream:
    for stream in services.logs.streams(group):
        if stream.name == name:
            return stream
    raise _not_found(_STREAM_GONE)


def _range(request: dict[str, Any]) -> tuple[int | None, int | None]:
    start_ms, end_ms = request.get("startTime"), request.get("endTime")
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise _invalid("The parameter startTime must not be greater than the parameter endTime.")
    return start_ms, end_ms


def _limited(items: Iterable[Any], limit: int, event_of: Callable[[Any], LogEvent]) -> Iterator[Any]:
    """Yield what fits on a page: so many events, so many bytes, one at least."""
    size_bytes = 0
    for number, item in enumerate(items):
        size_bytes += len(event_of(item).message.encode()) + EVENT_OVERHEAD_BYTES
        if number and size_bytes > MAX_PAGE_BYTES:
            return
        yield item
        if number + 1 == limit:
            return


# --- FilterLogEvents -----------------------------------------------------------------------------------

_Place = tuple[int, str, int]  # at_ms, stream, position: the order in which events come


def filter_log_events(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Return matching events of a group's streams, in order of time.

    A page may be empty and have a token: then so many lines were searched, and there are more.

    Raises:
        ApiError: InvalidParameterException or ResourceNotFoundException, 400.
    """
    group = _group_of(services, request)
    streams = _wanted_streams(services, group, request)
    start_ms, end_ms = _range(request)
    try:
        pattern = parse_pattern(request.get("filterPattern") or "")
    except PatternError as error:
        raise _invalid(str(error)) from None
    forward, after = bool(request.get("startFromHead", True)), None
    if request.get("nextToken") is not None:
        forward, after = _filter_position(request["nextToken"])
    sources = [_source(services, group, stream, (start_ms, end_ms), forward, after) for stream in streams]
    merged = heapq.merge(*sources, key=lambda item: item[0], reverse=not forward)
    events, token = _filtered(merged, pattern, request.get("limit", MAX_EVENTS), forward)
    return {
        "events": [_rendered(place, event) for place, event in events],
        "searchedLogStreams": [],
    } | ({"nextToken": token} if token else {})


def _wanted_streams(services: Services, group: str, request: dict[str, Any]) -> list[LogStream]:
    names, prefix = request.get("logStreamNames"), request.get("logStreamNamePrefix")
    if names is not None and prefix is not None:
        raise _invalid("Cannot specify both logStreamNames and logStreamNamePrefix.")
    streams = services.logs.streams(group)
    if names is not None:
        if set(names) - {stream.name for stream in streams}:
            raise _not_found(_STREAM_GONE)
        return [stream for stream in streams if stream.name in names]
    return [stream for stream in streams if stream.name.startswith(prefix or "")]


def _source(
    services: Services,
    group: str,
    stream: LogStream,
    range_ms: tuple[int | None, int | None],
    forward: bool,
    after: _Place | None,
) -> Iterator[tuple[_Place, LogEvent]]:
    """Yield a stream's events in the range (both ends included) that come behind a place."""
    start_ms, end_ms = range_ms
    if forward:
        begin_ms = max((ms for ms in (start_ms, after[0] if after else None) if ms is not None), default=None)
        low = 0 if begin_ms is None else position_at(services.logs, group, stream, begin_ms)
        found = forwards(services.logs, group, stream.name, low)
    else:
        finish_ms = min((ms for ms in (end_ms, after[0] if after else None) if ms is not None), default=None)
        high = 1 << 62 if finish_ms is None else position_at(services.logs, group, stream, finish_ms + 1)
        found = backwards(services.logs, group, stream, high)
    for event in found:
        if (end_ms is not None and event.at_ms > end_ms) or (start_ms is not None and event.at_ms < start_ms):
            return
        place = (event.at_ms, stream.name, event.position)
        if after is None or (place > after if forward else place < after):
            yield place, event


def _filtered(
    merged: Iterator[tuple[_Place, LogEvent]], pattern: Pattern, limit: int, forward: bool
) -> tuple[list[tuple[_Place, LogEvent]], str | None]:
    """Take a page of matching events; the token says where to go on, None that all was searched."""
    events: list[tuple[_Place, LogEvent]] = []
    size_bytes = 0
    seen: _Place | None = None
    for scanned, (place, event) in enumerate(merged):
        matches = pattern.matches(event.message)
        size_bytes += len(event.message.encode()) + EVENT_OVERHEAD_BYTES if matches else 0
        full = (
            len(events) == limit
            or scanned == MAX_SCANNED
            or (events and matches and size_bytes > MAX_PAGE_BYTES)
        )
        if full and seen is not None:
            return events, page_token([forward, *seen])
        seen = place
        if matches:
            events.append((place, event))
    return events, None


def _filter_position(token: str) -> tuple[bool, _Place]:
    try:
        forward, at_ms, stream, position = parse_page_token(token, bool, int, str, int)
        if forward is None or at_ms is None or stream is None or position is None:
            raise ValueError("not a place")
    except ValueError:
        raise _invalid("The specified nextToken is invalid.") from None
    return forward, (at_ms, stream, position)


def _rendered(place: _Place, event: LogEvent) -> dict[str, Any]:
    at_ms, stream, position = place
    # 56 digits as on AWS, rising with time and the same whenever the event is read again.
    digest = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big")
    return {
        "logStreamName": stream,
        "timestamp": at_ms,
        "message": event.message,
        "ingestionTime": at_ms,
        "eventId": f"{at_ms:018d}{digest:020d}{position:018d}",
    }


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("logs", "DescribeLogGroups"): describe_log_groups,
    ("logs", "DescribeLogStreams"): describe_log_streams,
    ("logs", "DeleteLogGroup"): delete_log_group,
    ("logs", "GetLogEvents"): get_log_events,
    ("logs", "FilterLogEvents"): filter_log_events,
}
