"""Stages and what became of their requests, in a SQLite file.

Owns each endpoint's stages, the counts in order of arrival and their sums.  Refuses nothing that was recorded
before: a source's sequence numbers are kept in the same transaction as its counts.
Main class: :class:`SqliteEvidence`.

Rows are only added, so that a reader that keeps the number of its last row counts nothing twice.  What is a
day older than its endpoint's newest second is merged into minutes: sums stay exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from understudy.core.metrics import Summary
from understudy.core.stages import Arm, Counts, KeptCounts, Source, Stage
from understudy.stores import sketches
from understudy.stores.sqlite_files import SqliteFile

EXACT_S = 86_400  # how long seconds stay apart
MERGED_S = 60
MERGED_AT_ONCE = 20_000
KEPT_S = 455 * 86_400  # CloudWatch's longest retention
SOURCE_KEPT_S = 15 * 86_400  # a router that was silent for so long never comes back

_NUMBERS = "requests, failures, caller_errors, abandoned, count, sum, minimum, maximum, sketch"

# One entry per schema version: the statements that lead to it from the version before.  Only append.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE stages (
            endpoint TEXT NOT NULL,
            number INTEGER NOT NULL,
            started_at_s REAL NOT NULL,
            ended_at_s REAL,
            sticky TEXT NOT NULL,
            arms TEXT NOT NULL, -- JSON [[variant, config, fleet, weight], ...]
            PRIMARY KEY (endpoint, number)
        ) WITHOUT ROWID
        """,
        # Who is counted, and the sums of all that was.
        """
        CREATE TABLE counted (
            id INTEGER PRIMARY KEY,
            endpoint TEXT NOT NULL,
            stage INTEGER NOT NULL,
            variant TEXT NOT NULL,
            config_name TEXT NOT NULL,
            fleet_id TEXT NOT NULL,
            source TEXT NOT NULL,
            newest_s INTEGER NOT NULL,
            requests INTEGER NOT NULL,
            failures INTEGER NOT NULL,
            caller_errors INTEGER NOT NULL,
            abandoned INTEGER NOT NULL,
            count REAL NOT NULL,
            sum REAL NOT NULL,
            minimum REAL NOT NULL,
            maximum REAL NOT NULL,
            sketch BLOB,
            UNIQUE (endpoint, stage, variant, config_name, fleet_id, source)
        )
        """,
        """
        CREATE TABLE counts (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- never given out twice
            endpoint TEXT NOT NULL,
            counted_id INTEGER NOT NULL REFERENCES counted (id),
            at_s INTEGER NOT NULL,
            requests INTEGER NOT NULL,
            failures INTEGER NOT NULL,
            caller_errors INTEGER NOT NULL,
            abandoned INTEGER NOT NULL,
            count REAL NOT NULL,
            sum REAL NOT NULL,
            minimum REAL NOT NULL,
            maximum REAL NOT NULL,
            sketch BLOB
        )
        """,
        "CREATE INDEX counts_of_endpoint ON counts (endpoint)",
        # Up to which row an endpoint's old seconds are merged.
        "CREATE TABLE merged (endpoint TEXT PRIMARY KEY, sequence INTEGER NOT NULL)",
        # idle_since_s: the first roll_up after the source's last word; NULL until then.
        "CREATE TABLE sources (source TEXT PRIMARY KEY, sequence INTEGER NOT NULL, idle_since_s REAL)",
    ),
)


class SqliteEvidence:
    """Implements ``core.ports.Stages`` and ``core.ports.Evidence``; any number of threads, one process.

    Args:
        path: The file; it is created, its directory is not.

    Raises:
        ValueError: the file was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, MIGRATIONS)

    # --- stages --------------------------------------------------------------------------------------

    def begin(self, endpoint: str, arms: Sequence[Arm], sticky: str, at_s: float) -> Stage:
        """Begin an endpoint's next stage, and end the one before in the same step."""
        with self._file.writing() as connection:
            (last,) = connection.execute(
                "SELECT coalesce(max(number), 0) FROM stages WHERE endpoint = ?", (endpoint,)
            ).fetchone()
            _end(connection, endpoint, at_s)
            stage = Stage(endpoint, int(last) + 1, at_s, tuple(arms), sticky)
            rendered = msgspec.json.encode(
                [[one.variant, one.config_name, one.fleet_id, one.weight] for one in stage.arms]
            )
            connection.execute(
                "INSERT INTO stages VALUES (?, ?, ?, NULL, ?, ?)",
                (endpoint, stage.number, at_s, sticky, rendered.decode()),
            )
        return stage

    def end(self, endpoint: str, at_s: float) -> None:
        """End an endpoint's stage; none that is open is no error."""
        with self._file.writing() as connection:
            _end(connection, endpoint, at_s)

    def open(self) -> list[Stage]:
        """Return the stage that is not ended of every endpoint that has one, by name."""
        return self._stages("ended_at_s IS NULL")

    def find(self, endpoint: str) -> list[Stage]:
        """Return all stages of an endpoint, oldest first."""
        return self._stages("endpoint = ?", endpoint)

    def _stages(self, where: str, *values: str) -> list[Stage]:
        rows = self._file.rows(
            "SELECT endpoint, number, started_at_s, arms, sticky, ended_at_s FROM stages"
            f" WHERE {where} ORDER BY endpoint, number",
            values,
        )
        return [
            Stage(row[0], row[1], row[2], tuple(Arm(*one) for one in msgspec.json.decode(row[3])), *row[4:])
            for row in rows
        ]

    # --- counts --------------------------------------------------------------------------------------

    def record(self, counts: Sequence[Counts], *, source: str, sequence: int) -> bool:
        """Keep counts, exactly once per (source, sequence).

        Returns:
            False when that source's sequence (or a later one) was recorded before.
        """
        with self._file.writing() as connection:
            row = connection.execute("SELECT sequence FROM sources WHERE source = ?", (source,)).fetchone()
            if row is not None and sequence <= row[0]:
                return False
            connection.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, NULL)", (source, sequence))
            for one in counts:
                connection.execute(
                    f"INSERT INTO counts (endpoint, counted_id, at_s, {_NUMBERS})"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (one.endpoint, _add(connection, one), one.at_s, *_numbers(one)),
                )
        return True

    def read(self, endpoint: str, after: int = 0, limit: int = 1000) -> list[KeptCounts]:
        """Return counts with ``sequence > after`` in the order in which they were kept."""
        rows = self._file.rows(
            "SELECT counts.sequence, counted.endpoint, stage, at_s, variant, config_name, fleet_id, source,"
            + ",".join(f" counts.{name}" for name in _NUMBERS.split(", "))
            + " FROM counts JOIN counted ON counted.id = counted_id"
            " WHERE counts.endpoint = ? AND counts.sequence > ? ORDER BY counts.sequence LIMIT ?",
            (endpoint, after, limit),
        )
        return [KeptCounts(row[0], _counts(row[1:])) for row in rows]

    def totals(self, endpoint: str) -> list[Counts]:
        """Return the sums per stage, arm and source, by stage; ``at_s`` is their newest second."""
        rows = self._file.rows(
            f"SELECT endpoint, stage, newest_s, variant, config_name, fleet_id, source, {_NUMBERS}"
            " FROM counted WHERE endpoint = ? ORDER BY stage, variant, config_name, fleet_id, source",
            (endpoint,),
        )
        return [_counts(row) for row in rows]

    def close(self) -> None:
        """Let go of connections; what is being written is finished first."""
        self._file.close()

    # --- keeping -------------------------------------------------------------------------------------

    def roll_up(self, now_s: float) -> None:
        """Make what is old coarser, and forget what is too old.

        Args:
            now_s: Unix time.
        """
        newest = self._file.rows("SELECT endpoint, max(newest_s) FROM counted GROUP BY endpoint")
        for endpoint, newest_s in newest:
            self._merge_old(endpoint, (newest_s - EXACT_S) // MERGED_S * MERGED_S)
        with self._file.writing() as connection:
            too_old = "SELECT id FROM counted WHERE newest_s < ?"
            connection.execute(f"DELETE FROM counts WHERE counted_id IN ({too_old})", (now_s - KEPT_S,))
            connection.execute("DELETE FROM counted WHERE newest_s < ?", (now_s - KEPT_S,))
            connection.execute(
                "DELETE FROM stages WHERE ended_at_s < ? AND number <"
                " (SELECT max(number) FROM stages AS others WHERE others.endpoint = stages.endpoint)",
                (now_s - KEPT_S,),
            )
            connection.execute("DELETE FROM sources WHERE idle_since_s < ?", (now_s - SOURCE_KEPT_S,))
            connection.execute("UPDATE sources SET idle_since_s = ? WHERE idle_since_s IS NULL", (now_s,))

    def _merge_old(self, endpoint: str, before_s: int) -> None:
        """Merge rows that are all older than a time, from where the last merging ended."""
        row = self._file.rows("SELECT sequence FROM merged WHERE endpoint = ?", (endpoint,))
        last = row[0][0] if row else 0
        rows = self._file.rows(
            f"SELECT sequence, counted_id, at_s, {_NUMBERS} FROM counts"
            " WHERE endpoint = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (endpoint, last, MERGED_AT_ONCE),
        )
        old = []
        for one in rows:
            if one[2] >= before_s:
                break
            old.append(one)
        if not old:
            return
        old.sort(key=lambda one: (one[1], one[2] // MERGED_S, one[0]))
        with self._file.writing() as connection:
            for _, group in groupby(old, key=lambda one: (one[1], one[2] // MERGED_S)):
                _merge(connection, list(group))
            connection.execute(
                "INSERT OR REPLACE INTO merged VALUES (?, ?)", (endpoint, max(one[0] for one in old))
            )


def _end(connection: Any, endpoint: str, at_s: float) -> None:
    connection.execute(
        "UPDATE stages SET ended_at_s = ? WHERE endpoint = ? AND ended_at_s IS NULL", (at_s, endpoint)
    )


def _numbers(one: Counts) -> tuple[Any, ...]:
    summary = one.model_latency_us
    low, high = (summary.minimum, summary.maximum) if summary.count else (0.0, 0.0)
    return (
        *(one.requests, one.failures, one.caller_errors, one.abandoned),
        *(summary.count, summary.sum, low, high, sketches.pack(summary.buckets)),
    )


def _counts(row: Sequence[Any]) -> Counts:
    endpoint, stage, at_s, variant, config_name, fleet_id, source = row[:7]
    requests, failures, caller_errors, abandoned, count, total, low, high, sketch = row[7:]
    return Counts(
        endpoint=endpoint,
        stage=stage,
        at_s=at_s,
        variant=variant,
        config_name=config_name,
        fleet_id=fleet_id,
        source=Source(source),
        requests=requests,
        failures=failures,
        caller_errors=caller_errors,
        abandoned=abandoned,
        model_latency_us=Summary(count, total, low, high, sketches.unpack([sketch])) if count else Summary(),
    )


def _add(connection: Any, one: Counts) -> int:
    """Add to the sums of who is counted; return its id."""
    identity = (one.endpoint, one.stage, one.variant, one.config_name, one.fleet_id, one.source)
    row = connection.execute(
        f"SELECT id, endpoint, stage, newest_s, variant, config_name, fleet_id, source, {_NUMBERS}"
        " FROM counted WHERE endpoint = ? AND stage = ? AND variant = ? AND config_name = ?"
        " AND fleet_id = ? AND source = ?",
        identity,
    ).fetchone()
    if row is None:
        cursor = connection.execute(
            "INSERT INTO counted (endpoint, stage, variant, config_name, fleet_id, source, newest_s,"
            f" {_NUMBERS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*identity, one.at_s, *_numbers(one)),
        )
        return int(cursor.lastrowid)
    total = _counts(row[1:]).plus(one)
    connection.execute(
        "UPDATE counted SET newest_s = ?, requests = ?, failures = ?, caller_errors = ?, abandoned = ?,"
        " count = ?, sum = ?, minimum = ?, maximum = ?, sketch = ? WHERE id = ?",
        (total.at_s, *_numbers(total), row[0]),
    )
    return int(row[0])


def _merge(connection: Any, rows: list[Any]) -> None:
    """Make one row of some; it has the number of the last."""
    if len(rows) == 1:
        return
    summary = Summary()
    for row in rows:
        count, total, low, high, sketch = row[7:]
        if count:
            summary = summary + Summary(count, total, low, high, sketches.unpack([sketch]))
    low, high = (summary.minimum, summary.maximum) if summary.count else (0.0, 0.0)
    last = max(row[0] for row in rows)
    connection.execute(
        "UPDATE counts SET at_s = ?, requests = ?, failures = ?, caller_errors = ?, abandoned = ?,"
        " count = ?, sum = ?, minimum = ?, maximum = ?, sketch = ? WHERE sequence = ?",
        (
            rows[0][2] // MERGED_S * MERGED_S,
            *(sum(row[at] for row in rows) for at in range(3, 7)),
            *(summary.count, summary.sum, low, high, sketches.pack(summary.buckets), last),
        ),
    )
    connection.executemany(
        "DELETE FROM counts WHERE sequence = ?", [(row[0],) for row in rows if row[0] != last]
    )
