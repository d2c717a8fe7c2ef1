"""Doubles of the stores, in memory: the same answers, nothing on disk.

Owns :class:`MemoryRecords`, for tests and for servers whose state may vanish.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from understudy.core.errors import Conflict
from understudy.core.ports import Delete, Event, Keyed, Put, Query, Stored, page_key
from understudy.stores.bodies import decode_body, encode_body

T = TypeVar("T", bound=Keyed)

_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True)
class _Row:
    """A record as text, so that a reader gets its own copy and only JSON-able values come back."""

    body: str
    version: int


class MemoryRecords:
    """The Records port in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], _Row] = {}
        self._events: list[Event] = []
        self._details: list[str] = []

    def get(self, kind: type[T], name: str) -> Stored[T] | None:
        """Read one record."""
        with self._lock:
            row = self._rows.get((kind.KIND, name))
        return None if row is None else Stored(decode_body(row.body, kind), row.version)

    def find(self, kind: type[T], query: Query) -> list[Stored[T]]:
        """Read a page of records."""
        with self._lock:
            rows = [row for (row_kind, _), row in self._rows.items() if row_kind == kind.KIND]
        found = [Stored(decode_body(row.body, kind), row.version) for row in rows]
        found = [stored for stored in found if _matches(stored.value, query)]
        found.sort(key=lambda stored: page_key(stored.value, query.sort_by), reverse=query.descending)
        return found if query.limit is None else found[: query.limit]

    def commit(self, changes: Sequence[Put | Delete | Event]) -> None:
        """Apply all changes or none.

        Raises:
            Conflict: a version was not the expected one.
        """
        with self._lock:
            rows = dict(self._rows)
            details: list[str] = []
            events: list[Event] = []
            for change in changes:
                if isinstance(change, Event):
                    details.append(encode_body(change.detail))
                    sequence = len(self._events) + len(events) + 1
                    events.append(replace(change, sequence=sequence, detail={}))
                    continue
                target = change.value if isinstance(change, Put) else change
                kind = target.kind.KIND if isinstance(target, Delete) else target.KIND
                present = rows.get((kind, target.name))
                if (0 if present is None else present.version) != change.expected_version or (
                    present is None and isinstance(change, Delete)
                ):
                    raise Conflict(f"{kind} {target.name}")
                if isinstance(change, Put):
                    rows[kind, target.name] = _Row(encode_body(change.value), change.expected_version + 1)
                else:
                    del rows[kind, target.name]
            self._rows = rows
            self._events += events
            self._details += details

    def events(
        self,
        subject: str | None,
        after_sequence: int,
        limit: int,
        *,
        kinds: Collection[str] = (),
        newest_first: bool = False,
    ) -> list[Event]:
        """Read the audit trail in order, or backwards; ``subject`` None reads all."""
        with self._lock:
            pairs = list(zip(self._events, self._details, strict=True))
        if newest_first:
            pairs = [pair for pair in pairs if not after_sequence or pair[0].sequence < after_sequence][::-1]
        else:
            pairs = pairs[max(0, after_sequence) :]
        chosen = [
            (event, detail)
            for event, detail in pairs
            if (subject is None or event.subject == subject) and (not kinds or event.kind in kinds)
        ][:limit]
        return [replace(event, detail=decode_body(detail, dict[str, Any])) for event, detail in chosen]

    def close(self) -> None:
        """Nothing to let go of."""


def _matches(value: Keyed, query: Query) -> bool:
    def within(at_s: float, after_s: float | None, before_s: float | None) -> bool:
        return (after_s is None or at_s >= after_s) and (before_s is None or at_s < before_s)

    if query.name_contains is not None:
        wanted = query.name_contains.translate(_ASCII_LOWER)
        if wanted not in value.name.translate(_ASCII_LOWER):
            return False
    if query.status is not None and getattr(value, "status", None) != query.status:
        return False
    if not within(value.created_at_s, query.created_after_s, query.created_before_s):
        return False
    if not within(value.modified_at_s, query.modified_after_s, query.modified_before_s):
        return False
    if query.after is None:
        return True
    place, last = page_key(value, query.sort_by), query.after
    return place < last if query.descending else place > last
