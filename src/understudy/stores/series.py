"""CloudWatch metrics in a SQLite file.

Owns what was measured and how long it is kept: 1 s for 3 hours, 60 s for 15 days, 300 s for 63 days,
3600 s for 455 days, CloudWatch's retention; 900 s beside 300 s, for charts of a day of many lines.  Refuses
nothing that was recorded before: a source's sequence numbers are kept in the same transaction as its data.
Main class: :class:`SqliteSeries`; ``roll_up`` is called once in a while by the control loop.

A sample is written twice, into its second and its minute, so that a day's minutes are read without
touching seconds.  ``roll_up`` copies what is over of the minutes into periods of 300 s, those into 900 s and
those into hours; table ``rolled`` says until when.  A sample that comes late is written into those, too, so a
coarse period is always the rows before its mark and finer rows from there on: a day at 300 s reads 288 rows,
not 1,440.
Every copy adds: counts and sums stay exact, sketches merge losslessly.
A period is answered from the resolutions that divide it, so what has become coarser than the period
is no longer found by it, as on CloudWatch.

Source: "GetMetricStatistics" (retention); https://www.sqlite.org/wal.html, synchronous=FULL because
NORMAL lost every acknowledged commit in a simulated power cut.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from understudy.core.metrics import Bucket, Datum, SeriesKey, Summary
from understudy.stores import sketches
from understudy.stores.sqlite_files import connect, migrate

# (resolution_s, kept_s), finest first.
RETENTION = ((1, 3 * 3600), (60, 15 * 86_400), (300, 63 * 86_400), (900, 63 * 86_400), (3600, 455 * 86_400))
COPIED = ((60, 300), (300, 900), (900, 3600))  # (from, into), in the order of copying
SETTLED_S = 60  # routers report each second: what is older than this seldom changes
COPY_SPAN_S = 86_400  # at most so much in one transaction, so that writers wait shortly
SOURCE_KEPT_S = 15 * 86_400  # a router that was silent for so long never comes back

_POINT_COLUMNS = "series_id, at_s, unit, count, sum, minimum, maximum, sketch"
_ON_CONFLICT = """
    ON CONFLICT (series_id, at_s, unit) DO UPDATE SET
        count = count + excluded.count,
        sum = sum + excluded.sum,
        minimum = min(minimum, excluded.minimum),
        maximum = max(maximum, excluded.maximum),
        sketch = merge_sketches(sketch, excluded.sketch)
"""


def _points_table(resolution_s: int) -> str:
    return f"""
    CREATE TABLE points_{resolution_s} (
        series_id INTEGER NOT NULL REFERENCES series (id),
        at_s INTEGER NOT NULL,
        unit TEXT NOT NULL,
        count REAL NOT NULL,
        sum REAL NOT NULL,
        minimum REAL NOT NULL,
        maximum REAL NOT NULL,
        sketch BLOB,
        PRIMARY KEY (series_id, at_s, unit)
    ) WITHOUT ROWID
    """


# One entry per schema version: the statements that lead to it from the version before.  Only append.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE series (
            id INTEGER PRIMARY KEY,
            namespace TEXT NOT NULL,
            metric_name TEXT NOT NULL,
            dimensions TEXT NOT NULL, -- JSON [[name, value], ...], sorted by name
            newest_s INTEGER NOT NULL,
            UNIQUE (namespace, metric_name, dimensions)
        )
        """,
        *(_points_table(resolution_s) for resolution_s in (1, 60, 300, 3600)),
        # idle_since_s: the first roll_up after the source's last word; NULL until then.
        "CREATE TABLE sources (source TEXT PRIMARY KEY, sequence INTEGER NOT NULL, idle_since_s REAL)",
    ),
    (
        # Rows of points_R before until_s are whole: what finer tables have before it, they have, too.
        "CREATE TABLE rolled (resolution_s INTEGER PRIMARY KEY, until_s INTEGER NOT NULL)",
        "INSERT INTO rolled VALUES (300, 0), (3600, 0)",
    ),
    # Filled by the next roll_up; until then its mark is behind that of the hours.
    (_points_table(900), "INSERT INTO rolled VALUES (900, 0)"),
)


class SqliteSeries:
    """Implements ``core.ports.Series``; any number of threads, one process.

    Args:
        path: The file; it is created, its directory is not.

    Raises:
        ValueError: the file was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._pooling = threading.Lock()
        self._readers: list[Any] = []
        self._closed = False
        self._ids: dict[SeriesKey, int] = {}
        path.touch(mode=0o600)
        self._writer = self._connect()
        try:
            with self._transaction() as connection:
                migrate(connection, path, MIGRATIONS)
                rolled = connection.execute("SELECT resolution_s, until_s FROM rolled").fetchall()
                self._rolled_until_s: dict[int, int] = dict(rolled)
                connection.execute("COMMIT")
        except BaseException:
            self._writer.close()
            raise

    # --- the port ------------------------------------------------------------------------------------

    def record(self, data: Sequence[Datum], *, source: str = "", sequence: int = 0) -> bool:
        """Merge data in; exactly once per (source, sequence) when a source is named.

        Returns:
            False when that source's sequence (or a later one) was recorded before.
        """
        with self._transaction() as connection:
            if source and not self._advance(connection, source, sequence):
                return False
            fresh: dict[SeriesKey, int] = {}
            newest: dict[int, int] = {}
            rows = []
            for datum in data:
                series_id = self._ids.get(datum.key) or fresh.get(datum.key)
                if series_id is None:
                    series_id = fresh[datum.key] = self._series_id(connection, datum.key, datum.at_s)
                newest[series_id] = max(datum.at_s, newest.get(series_id, datum.at_s))
                summary = datum.summary
                rows.append(
                    (
                        series_id,
                        datum.at_s,
                        datum.unit,
                        summary.count,
                        summary.sum,
                        summary.minimum,
                        summary.maximum,
                        sketches.pack(summary.buckets),
                    )
                )
            for resolution_s, _ in RETENTION:
                until_s = self._rolled_until_s.get(resolution_s, math.inf)
                connection.executemany(
                    f"INSERT INTO points_{resolution_s} ({_POINT_COLUMNS})"
                    f" VALUES (?, ?, ?, ?, ?, ?, ?, ?) {_ON_CONFLICT}",
                    [(row[0], row[1] - row[1] % resolution_s, *row[2:]) for row in rows if row[1] < until_s],
                )
            connection.executemany(
                "UPDATE series SET newest_s = ? WHERE id = ? AND newest_s < ?",
                [(at_s, series_id, at_s) for series_id, at_s in newest.items()],
            )
            connection.execute("COMMIT")
            self._ids.update(fresh)  # only now: a rolled back id must not be remembered
        return True

    def keys(
        self, namespace: str | None = None, metric_name: str | None = None
    ) -> list[tuple[SeriesKey, float]]:
        """Return metrics, sorted, and the Unix time of their newest sample."""
        with self._reader() as connection:
            rows = connection.execute(
                "SELECT namespace, metric_name, dimensions, newest_s FROM series"
                " WHERE (?1 IS NULL OR namespace = ?1) AND (?2 IS NULL OR metric_name = ?2)",
                (namespace, metric_name),
            ).fetchall()
        return sorted(
            (SeriesKey(row[0], row[1], tuple((n, v) for n, v in msgspec.json.decode(row[2]))), float(row[3]))
            for row in rows
        )

    def read(self, key: SeriesKey, start_s: int, end_s: int, period_s: int) -> list[Bucket]:
        """Return the non-empty periods that start in [start_s, end_s), merged per unit, in order."""
        first_s = start_s + -start_s % period_s
        last_s = end_s + -end_s % period_s
        # Minutes hold what seconds hold; seconds are read only for periods that minutes can't make.
        tables = [r for r, _ in RETENTION if period_s % r == 0 and (r > 1 or period_s % 60 != 0)]
        # What a coarser table has is not read again; the marks are read in the same snapshot.
        after = {
            resolution_s: " AND at_s >= (SELECT max(until_s) FROM rolled"
            f" WHERE resolution_s > {resolution_s} AND resolution_s <= {tables[-1]})"
            for resolution_s, _ in COPIED
            if resolution_s < tables[-1]
        }
        selects = " UNION ALL ".join(
            f"SELECT at_s - at_s % ?4 AS start_s, {_POINT_COLUMNS.removeprefix('series_id, at_s, ')}"
            f" FROM points_{resolution_s} WHERE series_id = ?1 AND at_s >= ?2 AND at_s < ?3"
            f"{after.get(resolution_s, '')}"
            for resolution_s in tables
        )
        with self._reader() as connection:
            series_id = self._ids.get(key)
            if series_id is None:
                row = connection.execute(
                    "SELECT id FROM series WHERE namespace = ? AND metric_name = ? AND dimensions = ?",
                    _identity(key),
                ).fetchone()
                if row is None:
                    return []
                series_id = row[0]
            rows = connection.execute(
                f"{selects} ORDER BY start_s, unit", (series_id, first_s, last_s, period_s)
            ).fetchall()
        return list(_buckets(rows))

    def close(self) -> None:
        """Let go of connections; what is being written is finished first."""
        with self._writing, self._pooling:
            self._closed = True
            for connection in (*self._readers, self._writer):
                connection.close()
            self._readers.clear()

    # --- keeping -------------------------------------------------------------------------------------

    def roll_up(self, now_s: float) -> None:
        """Copy what is over into coarser periods, and forget what is too old.

        Args:
            now_s: Unix time.
        """
        for resolution_s, into_s in COPIED:
            # No further than what is copied from is whole itself.
            whole_s = min(now_s - SETTLED_S, self._rolled_until_s.get(resolution_s, math.inf))
            self._copy(resolution_s, into_s, int(whole_s) // into_s * into_s, now_s)
        for resolution_s, kept_s in RETENTION:
            before_s = int(now_s - kept_s) // resolution_s * resolution_s
            # By series, so that the primary key finds the old ones without reading the rest.
            with self._transaction() as connection:
                connection.execute(
                    f"DELETE FROM points_{resolution_s}"
                    " WHERE series_id IN (SELECT id FROM series) AND at_s < ?",
                    (before_s,),
                )
                connection.execute("COMMIT")
        with self._transaction() as connection:
            self._forget(connection, now_s)
            connection.execute("COMMIT")

    def _copy(self, resolution_s: int, into_s: int, until_s: int, now_s: float) -> None:
        """Copy a table's rows before ``until_s`` into the next coarser one, a day per transaction."""
        oldest_s = int(now_s - dict(RETENTION)[resolution_s]) // into_s * into_s
        while (from_s := self._rolled_until_s[into_s]) < until_s:
            next_s = min(until_s, max(from_s, oldest_s) + COPY_SPAN_S)
            with self._transaction() as connection:
                connection.execute(
                    f"INSERT INTO points_{into_s} ({_POINT_COLUMNS})"
                    f" SELECT series_id, at_s - at_s % {into_s}, unit, sum(count), sum(sum),"
                    " min(minimum), max(maximum), sum_sketches(sketch)"
                    f" FROM points_{resolution_s} WHERE series_id IN (SELECT id FROM series)"
                    f" AND at_s >= ? AND at_s < ? GROUP BY 1, 2, 3 {_ON_CONFLICT}",
                    (from_s, next_s),
                )
                connection.execute("UPDATE rolled SET until_s = ? WHERE resolution_s = ?", (next_s, into_s))
                connection.execute("COMMIT")
                self._rolled_until_s[into_s] = next_s

    def _forget(self, connection: Any, now_s: float) -> None:
        """Drop metrics without samples and sources that went silent."""
        connection.execute(
            "DELETE FROM series WHERE newest_s < ?"
            + "".join(
                f" AND NOT EXISTS (SELECT 1 FROM points_{resolution_s} WHERE series_id = series.id)"
                for resolution_s, _ in RETENTION
            ),
            (int(now_s) - RETENTION[-1][1],),
        )
        if connection.execute("SELECT changes()").fetchone()[0]:
            self._ids.clear()
        connection.execute("DELETE FROM sources WHERE idle_since_s < ?", (now_s - SOURCE_KEPT_S,))
        connection.execute("UPDATE sources SET idle_since_s = ? WHERE idle_since_s IS NULL", (now_s,))

    # --- inside --------------------------------------------------------------------------------------

    @staticmethod
    def _advance(connection: Any, source: str, sequence: int) -> bool:
        """Take a source's sequence number; False when it is not a new one."""
        row = connection.execute("SELECT sequence FROM sources WHERE source = ?", (source,)).fetchone()
        if row is not None and sequence <= row[0]:
            return False
        connection.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, NULL)", (source, sequence))
        return True

    @staticmethod
    def _series_id(connection: Any, key: SeriesKey, at_s: int) -> int:
        """Find or make the row of a metric."""
        row = connection.execute(
            # The update changes nothing; it makes RETURNING speak for a row that was there.
            "INSERT INTO series (namespace, metric_name, dimensions, newest_s) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET newest_s = newest_s RETURNING id",
            (*_identity(key), at_s),
        ).fetchone()
        return int(row[0])

    def _connect(self) -> Any:
        connection = connect(self._path)
        connection.create_function("merge_sketches", 2, sketches.merge, deterministic=True)
        connection.create_aggregate("sum_sketches", 1, sketches.MergeAggregate)
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Hold the write lock; whoever does not COMMIT is rolled back."""
        with self._writing:
            if self._closed:
                raise ValueError("the series store is closed")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        """Lend a connection that reads beside the writer."""
        with self._pooling:
            if self._closed:
                raise ValueError("the series store is closed")
            connection = self._readers.pop() if self._readers else None
        connection = connection if connection is not None else self._connect()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _give_back(self, connection: Any) -> None:
        with self._pooling:
            if self._closed:
                connection.close()
            else:
                self._readers.append(connection)


def _identity(key: SeriesKey) -> tuple[str, str, str]:
    return key.namespace, key.metric_name, msgspec.json.encode(key.dimensions).decode()


def _buckets(rows: Sequence[Any]) -> Iterator[Bucket]:
    """Merge neighbouring rows of one (start, unit)."""
    at = 0
    while at < len(rows):
        start_s, unit, count, total, low, high, sketch = rows[at]
        blobs = [sketch] if sketch is not None else []
        at += 1
        while at < len(rows) and rows[at][0] == start_s and rows[at][1] == unit:
            row = rows[at]
            count, total = count + row[2], total + row[3]
            low, high = min(low, row[4]), max(high, row[5])
            if row[6] is not None:
                blobs.append(row[6])
            at += 1
        yield Bucket(start_s, unit, Summary(count, total, low, high, sketches.PackedBuckets(blobs)))
