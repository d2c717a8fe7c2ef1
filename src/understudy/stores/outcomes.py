"""Labels and other outcomes in a SQLite file.

Owns what was reported of which request, once each, and how often it was reported again.  Refuses nothing:
a report that contradicts the first is kept beside it and counted.  Main class: :class:`SqliteOutcomes`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from understudy.core.outcomes import Added, KeptOutcome, Outcome, Tally, Value
from understudy.stores.sqlite_files import SqliteFile

TOLD_CONFLICTS = 20
AT_ONCE = 500  # ids looked up by one statement

# One entry per schema version: the statements that lead to it from the version before.  Only append.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE outcomes (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            endpoint TEXT NOT NULL,
            subject TEXT NOT NULL,
            name TEXT NOT NULL,
            id TEXT NOT NULL,
            value TEXT NOT NULL, -- JSON
            at_s REAL NOT NULL,
            source TEXT NOT NULL,
            received_at_s REAL NOT NULL,
            UNIQUE (endpoint, subject, name, id)
        )
        """,
        "CREATE INDEX outcomes_in_order ON outcomes (endpoint, sequence)",
        # Reports after the first; those with a source once each.
        """
        CREATE TABLE repeats (
            endpoint TEXT NOT NULL,
            subject TEXT NOT NULL,
            name TEXT NOT NULL,
            id TEXT NOT NULL,
            value TEXT NOT NULL,
            source TEXT NOT NULL,
            agrees INTEGER NOT NULL,
            times INTEGER NOT NULL,
            PRIMARY KEY (endpoint, subject, name, id, value, source)
        ) WITHOUT ROWID
        """,
    ),
)


class SqliteOutcomes:
    """Implements ``core.ports.Outcomes``; any number of threads, one process.

    Args:
        path: The file; it is created, its directory is not.

    Raises:
        ValueError: the file was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, MIGRATIONS)

    def add(self, endpoint: str, outcomes: Sequence[Outcome], received_at_s: float) -> Added:
        """Keep what is reported for the first time, count the rest."""
        accepted = duplicates = conflicting = 0
        conflicts: list[tuple[str, str, Value, Value]] = []
        with self._file.writing() as connection:
            for one in outcomes:
                key = (endpoint, one.subject, one.name, one.id)
                value = _encode(one.value)
                fresh = connection.execute(
                    "INSERT INTO outcomes (endpoint, subject, name, id, value, at_s, source, received_at_s)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING sequence",
                    (*key, value, one.at_s, one.source, received_at_s),
                ).fetchone()
                if fresh is not None:
                    accepted += 1
                    continue
                stands, source = connection.execute(
                    "SELECT value, source FROM outcomes"
                    " WHERE endpoint = ? AND subject = ? AND name = ? AND id = ?",
                    key,
                ).fetchone()
                agrees = stands == value
                if agrees and one.source and source == one.source:
                    continue  # read again from where it stands
                counted = connection.execute(
                    "INSERT INTO repeats VALUES (?, ?, ?, ?, ?, ?, ?, 1)"
                    " ON CONFLICT DO UPDATE SET times = times + 1 WHERE source = '' RETURNING times",
                    (*key, value, one.source, agrees),
                ).fetchone()
                if counted is None:
                    continue
                if agrees:
                    duplicates += 1
                    continue
                conflicting += 1
                if len(conflicts) < TOLD_CONFLICTS:
                    conflicts.append((one.id, one.name, _decode(stands), one.value))
        return Added(accepted, duplicates, conflicting, tuple(conflicts))

    def find(
        self, endpoint: str, name: str, ids: Collection[str], subject: str = "id"
    ) -> dict[str, KeptOutcome]:
        """Return the outcomes of that name by id, of those ids that have one."""
        wanted = sorted(set(ids))
        found: dict[str, KeptOutcome] = {}
        for at in range(0, len(wanted), AT_ONCE):
            some = wanted[at : at + AT_ONCE]
            marks = ", ".join("?" * len(some))
            rows = self._rows(
                f"WHERE endpoint = ? AND subject = ? AND name = ? AND id IN ({marks})",
                (endpoint, subject, name, *some),
            )
            found.update((kept.outcome.id, kept) for kept in rows)
        return found

    def after(self, endpoint: str, sequence: int, limit: int) -> list[KeptOutcome]:
        """Return outcomes with a greater sequence, in order."""
        return self._rows(
            "WHERE endpoint = ? AND sequence > ? ORDER BY sequence LIMIT ?", (endpoint, sequence, limit)
        )

    def tallies(self, endpoint: str) -> list[Tally]:
        """Count reports, sorted by name and subject."""
        # One statement, so that what is added meanwhile is in both counts or in neither.
        rows = self._file.rows(
            "SELECT name, subject, NULL AS agrees, count(*), max(at_s) FROM outcomes WHERE endpoint = ?"
            " GROUP BY name, subject"
            " UNION ALL SELECT name, subject, agrees, sum(times), NULL FROM repeats WHERE endpoint = ?"
            " GROUP BY name, subject, agrees ORDER BY name, subject",
            (endpoint, endpoint),
        )
        again = {(name, subject, agrees): times for name, subject, agrees, times, _ in rows}
        return [
            Tally(
                name, subject, count, again.get((name, subject, 1), 0), again.get((name, subject, 0), 0), at_s
            )
            for name, subject, agrees, count, at_s in rows
            if agrees is None
        ]

    def close(self) -> None:
        """Let go of the file; what is being written is finished first."""
        self._file.close()

    def _rows(self, where: str, values: tuple[Any, ...]) -> list[KeptOutcome]:
        rows = self._file.rows(
            f"SELECT id, name, value, at_s, source, subject, sequence, received_at_s FROM outcomes {where}",
            values,
        )
        return [
            KeptOutcome(
                Outcome(row[0], row[1], _decode(row[2]), row[3], row[4], row[5]), int(row[6]), float(row[7])
            )
            for row in rows
        ]


def _encode(value: Value) -> str:
    return msgspec.json.encode(value).decode()


def _decode(text: str) -> Value:
    value = msgspec.json.decode(text)
    return tuple(value) if isinstance(value, list) else value
