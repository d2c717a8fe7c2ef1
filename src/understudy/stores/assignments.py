"""Assignments in a SQLite file, to be found by inference id and event id.

Owns the rows in order of arrival, and which batches were added.  Refuses to grow without end: what is older
than ``KEPT_S``, and what is beyond the newest ``MOST_ROWS``, is forgotten.
Main class: :class:`SqliteAssignments`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from understudy.core.assignment import Assignment, KeptAssignment, Receipt
from understudy.stores.sqlite_files import SqliteFile

KEPT_S = 90 * 86_400
MOST_ROWS = 20_000_000  # about 4 GB
FORGOTTEN_AT_ONCE = 50_000
AT_ONCE = 400  # ids looked up by one statement

# One entry per schema version: the statements that lead to it from the version before.  Only append.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Names repeat in every row; a number takes their place.
        """
        CREATE TABLE arms (
            id INTEGER PRIMARY KEY,
            endpoint TEXT NOT NULL,
            variant TEXT NOT NULL,
            config_name TEXT NOT NULL,
            fleet_id TEXT NOT NULL,
            stage INTEGER NOT NULL,
            source TEXT NOT NULL,
            UNIQUE (endpoint, variant, config_name, fleet_id, stage, source)
        )
        """,
        "CREATE TABLE endpoints (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
        """
        CREATE TABLE assignments (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- never given out twice
            endpoint_id INTEGER NOT NULL REFERENCES endpoints (id),
            arm_id INTEGER NOT NULL REFERENCES arms (id),
            at_s REAL NOT NULL,
            status INTEGER NOT NULL,
            model_latency_us INTEGER,
            event_id TEXT,
            inference_id TEXT,
            unit TEXT
        )
        """,
        "CREATE INDEX assignments_of_endpoint ON assignments (endpoint_id)",
        """
        CREATE INDEX assignments_by_event ON assignments (endpoint_id, event_id) WHERE event_id IS NOT NULL
        """,
        """
        CREATE INDEX assignments_by_inference ON assignments (endpoint_id, inference_id)
        WHERE inference_id IS NOT NULL
        """,
        "CREATE TABLE batches (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
        # How many records came from a router, until nobody will ask.
        """
        CREATE TABLE taken (
            writer TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            variant TEXT NOT NULL,
            records INTEGER NOT NULL,
            PRIMARY KEY (writer, endpoint, variant)
        ) WITHOUT ROWID
        """,
        # Of this file: another one begins to count anew.
        "CREATE TABLE told_as (source TEXT NOT NULL)",
        "INSERT INTO told_as VALUES ('assignments-' || lower(hex(randomblob(8))))",
    ),
)

_COLUMNS = (
    "endpoint, at_s, variant, config_name, fleet_id, stage, source, status, model_latency_us,"
    " event_id, inference_id, unit"
)
_FROM = "FROM assignments JOIN arms ON arms.id = arm_id"
_OF_ENDPOINT = "endpoint_id = (SELECT id FROM endpoints WHERE name = ?)"


class SqliteAssignments:
    """Implements ``core.ports.Assignments`` and ``AssignmentBatches``; any number of threads, one process.

    Args:
        path: The file; it is created, its directory is not.

    Raises:
        ValueError: the file was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, MIGRATIONS)
        self._source = str(self._file.rows("SELECT source FROM told_as")[0][0])

    def add(self, batch: str, writer: str, assignments: Sequence[Assignment]) -> Receipt:
        """Keep a batch, once: one that was added and not forgotten is recognised by its name."""
        with self._file.writing() as connection:
            row = connection.execute("SELECT number FROM batches WHERE name = ?", (batch,)).fetchone()
            if row is not None:
                return Receipt(self._source, int(row[0]))
            arms: dict[tuple[Any, ...], tuple[int, int]] = {}
            rows = []
            for one in assignments:
                arm = (one.endpoint, one.variant, one.config_name, one.fleet_id, one.stage, one.source)
                if arm not in arms:
                    arms[arm] = (_endpoint_id(connection, one.endpoint), _arm_id(connection, arm))
                rows.append((*arms[arm], one.at_s, *one[7:]))
            connection.executemany(
                "INSERT INTO assignments (endpoint_id, arm_id, at_s, status, model_latency_us, event_id,"
                " inference_id, unit) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            connection.executemany(
                "INSERT INTO taken VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET records = records + excluded.records",
                [
                    (writer, *place, count)
                    for place, count in Counter((one.endpoint, one.variant) for one in assignments).items()
                ],
            )
            number = connection.execute("INSERT INTO batches (name) VALUES (?)", (batch,)).lastrowid
        return Receipt(self._source, int(number))

    def forget_batch(self, batch: str) -> None:
        """Forget a batch's name: it will not be added again."""
        with self._file.writing() as connection:
            connection.execute("DELETE FROM batches WHERE name = ?", (batch,))

    def taken(self, writer: str) -> dict[tuple[str, str], int]:
        """Count what was added of a writer, by (endpoint, variant)."""
        rows = self._file.rows("SELECT endpoint, variant, records FROM taken WHERE writer = ?", (writer,))
        return {(endpoint, variant): count for endpoint, variant, count in rows}

    def remember(self, writers: Collection[str]) -> None:
        """Forget how much was added of all writers but these."""
        known = {writer for (writer,) in self._file.rows("SELECT DISTINCT writer FROM taken")}
        gone = known - set(writers)
        if gone:
            with self._file.writing() as connection:
                connection.executemany("DELETE FROM taken WHERE writer = ?", [(one,) for one in gone])

    def find(self, endpoint: str, ids: Collection[str]) -> dict[str, Assignment]:
        """Look requests up by inference id or event id; of several with one id, the first to be routed."""
        found: dict[str, Assignment] = {}
        wanted = sorted(set(ids))
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            marks = ",".join("?" * len(some))
            for column in ("inference_id", "event_id"):
                rows = self._file.rows(
                    f"SELECT {column}, {_COLUMNS} {_FROM} WHERE {_OF_ENDPOINT} AND {column} IN ({marks})"
                    " ORDER BY at_s DESC, sequence DESC",
                    (endpoint, *some),
                )
                for row in rows:
                    one = Assignment(*row[1:])
                    before = found.get(row[0])
                    if before is None or one.at_s <= before.at_s:
                        found[row[0]] = one
        return found

    def read(self, endpoint: str, after: int = 0, limit: int = 1000) -> list[KeptAssignment]:
        """Return assignments with ``sequence > after`` in the order in which they were kept."""
        rows = self._file.rows(
            f"SELECT sequence, {_COLUMNS} {_FROM} WHERE {_OF_ENDPOINT} AND sequence > ?"
            " ORDER BY sequence LIMIT ?",
            (endpoint, after, limit),
        )
        return [KeptAssignment(row[0], Assignment(*row[1:])) for row in rows]

    def close(self) -> None:
        """Let go of connections; what is being written is finished first."""
        self._file.close()

    # --- keeping -------------------------------------------------------------------------------------

    def forget_old(self, now_s: float) -> None:
        """Drop the oldest rows that are too old or too many, some of them at a time.

        Args:
            now_s: Unix time.
        """
        (first, last), *_ = self._file.rows(
            "SELECT coalesce(min(sequence), 0), coalesce(max(sequence), 0) FROM assignments"
        )
        # They came nearly in order of time: the first young one ends the search.
        (young,), *_ = self._file.rows(
            "SELECT min(sequence) FROM (SELECT sequence, at_s FROM assignments ORDER BY sequence LIMIT ?)"
            " WHERE at_s >= ?",
            (FORGOTTEN_AT_ONCE, now_s - KEPT_S),
        )
        before = max(first + FORGOTTEN_AT_ONCE if young is None else young, last - MOST_ROWS + 1)
        before = min(before, first + FORGOTTEN_AT_ONCE)
        if before <= first or not last:
            return
        with self._file.writing() as connection:
            connection.execute("DELETE FROM assignments WHERE sequence < ?", (before,))


def _endpoint_id(connection: Any, name: str) -> int:
    connection.execute("INSERT OR IGNORE INTO endpoints (name) VALUES (?)", (name,))
    (found,) = connection.execute("SELECT id FROM endpoints WHERE name = ?", (name,)).fetchone()
    return int(found)


def _arm_id(connection: Any, arm: tuple[Any, ...]) -> int:
    connection.execute(
        "INSERT OR IGNORE INTO arms (endpoint, variant, config_name, fleet_id, stage, source)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        arm,
    )
    (found,) = connection.execute(
        "SELECT id FROM arms WHERE endpoint = ? AND variant = ? AND config_name = ? AND fleet_id = ?"
        " AND stage = ? AND source = ?",
        arm,
    ).fetchone()
    return int(found)
