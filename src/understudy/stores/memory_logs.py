"""The double of the log store: lines in lists.

Main class: :class:`MemoryLogs`.  It keeps nothing over a restart; tests write with :meth:`MemoryLogs.append`.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass, field

from understudy.core.ports import LogEvent, LogStream


@dataclass
class _Stream:
    created_at_ms: int
    end: int = 0
    events: list[LogEvent] = field(default_factory=list)


class MemoryLogs:
    """Implements ``core.ports.Logs``; positions are byte offsets, as in files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[str, dict[str, _Stream]] = {}

    def append(self, group: str, stream: str, at_ms: int, *messages: str) -> None:
        """Write lines; without any, the stream is made."""
        with self._lock:
            found = self._groups.setdefault(group, {}).setdefault(stream, _Stream(at_ms))
            for message in messages:
                found.events.append(LogEvent(found.end, at_ms, message))
                found.end += len(message.encode()) + 1

    def groups(self) -> list[tuple[str, int, int]]:
        """Return (group name, created_at_ms, stored_bytes), sorted by name."""
        with self._lock:
            return sorted(
                (
                    name,
                    min(stream.created_at_ms for stream in streams.values()),
                    sum(stream.end for stream in streams.values()),
                )
                for name, streams in self._groups.items()
            )

    def streams(self, group: str) -> list[LogStream]:
        """Return the streams of a group, sorted by name; empty for an unknown group."""
        with self._lock:
            return [
                LogStream(
                    name,
                    stream.created_at_ms,
                    stream.events[0].at_ms if stream.events else None,
                    stream.events[-1].at_ms if stream.events else None,
                    stream.end,
                )
                for name, stream in sorted(self._groups.get(group, {}).items())
            ]

    def read(self, group: str, stream: str, after_position: int = -1, limit: int = 10_000) -> list[LogEvent]:
        """Return lines with ``position > after_position``, in order."""
        with self._lock:
            found = self._groups.get(group, {}).get(stream)
            if found is None:
                return []
            first = bisect_right(found.events, after_position, key=lambda event: event.position)
            return found.events[first : first + max(0, limit)]

    def delete(self, group: str) -> None:
        """Forget a group."""
        with self._lock:
            self._groups.pop(group, None)
