"""Reading log streams in both directions and from a time on, over the Logs port.

Owns the search: positions are byte offsets and times rise with them, so a time is found by halving.
Main functions: :func:`forwards`, :func:`backwards`, :func:`position_at`.  Blank lines are left out, as
CloudWatch has no empty events.
"""

from __future__ import annotations

from collections.abc import Iterator

from understudy.core.ports import LogEvent, Logs, LogStream

_PAGE = 1000
_FIRST_WINDOW_BYTES, _LAST_WINDOW_BYTES = 16 << 10, 4 << 20


def forwards(logs: Logs, group: str, stream: str, start: int) -> Iterator[LogEvent]:
    """Yield events with ``position >= start``, oldest first."""
    after = start - 1
    while events := logs.read(group, stream, after, _PAGE):
        yield from (event for event in events if event.message)
        if len(events) < _PAGE:
            return
        after = events[-1].position


def backwards(logs: Logs, group: str, stream: LogStream, end: int) -> Iterator[LogEvent]:
    """Yield events with ``position < end``, newest first, reading windows that grow."""
    first, last = bounds(logs, group, stream)
    end = min(end, last)
    window_bytes = _FIRST_WINDOW_BYTES
    while end > first:
        start = max(first, end - window_bytes)
        found: list[LogEvent] = []
        for event in forwards(logs, group, stream.name, start):
            if event.position >= end:
                break
            found.append(event)
        yield from reversed(found)
        end = min(start, found[0].position) if found else start
        window_bytes = min(window_bytes * 2, _LAST_WINDOW_BYTES)


def bounds(logs: Logs, group: str, stream: LogStream) -> tuple[int, int]:
    """Return the position of a stream's first line and the one behind its last."""
    head = logs.read(group, stream.name, -1, 1)
    return (head[0].position, head[0].position + stream.stored_bytes) if head else (0, 0)


def position_at(logs: Logs, group: str, stream: LogStream, at_ms: int) -> int:
    """Find the position from which on events are not older than a time; the end where all are."""
    low, high = bounds(logs, group, stream)
    if stream.last_event_ms is not None and stream.last_event_ms < at_ms:
        return high
    # Invariant: lines before ``low`` are older; the line at or behind ``high`` is not.
    while low < high:
        middle = (low + high) // 2
        probe = logs.read(group, stream.name, middle - 1, 1)
        if not probe or probe[0].at_ms >= at_ms:
            high = middle
        else:
            low = probe[0].position + 1
    return low
