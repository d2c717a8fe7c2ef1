"""A SQLite file of one process: one writer, syncing at each commit, brought to its newest schema when opened.

Owns the connection and its lock.  Refuses files that a newer version wrote.  Main class: :class:`SqliteFile`;
:func:`connect` and :func:`migrate` are for stores that keep their connections themselves.

Source: https://www.sqlite.org/wal.html; synchronous=FULL because NORMAL lost every acknowledged commit in a
simulated power cut.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.stores.databases import CACHE_KIB, sqlite_module


def connect(path: Path) -> Any:
    """Open a connection that syncs at each commit and begins no transaction by itself."""
    connection = sqlite_module().connect(str(path), isolation_level=None, check_same_thread=False)
    for pragma in (
        "busy_timeout = 5000",
        "journal_mode = WAL",
        "synchronous = FULL",
        f"cache_size = -{CACHE_KIB}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def migrate(connection: Any, path: Path, migrations: Sequence[Sequence[str]]) -> None:
    """Bring the file to its newest schema, within the caller's transaction.

    Args:
        path: For the text of the error.
        migrations: One entry per schema version: the statements that lead to it from the one before.

    Raises:
        ValueError: the file was written by a newer version.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    row = connection.execute("SELECT version FROM schema_version").fetchone()
    version = 0 if row is None else int(row[0])
    if version > len(migrations):
        raise ValueError(
            f"{path} has schema {version}, this version of understudy knows up to"
            f" {len(migrations)}: start the newer version, or move the file away to begin anew"
        )
    for statements in migrations[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (?)", (len(migrations),))


class SqliteFile:
    """An open file; any number of threads.

    Args:
        path: The file; it is created, its directory is not.
        migrations: One entry per schema version: the statements that lead to it from the one before.

    Raises:
        ValueError: the file was written by a newer version.
    """

    def __init__(self, path: Path, migrations: Sequence[Sequence[str]]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        path.touch(mode=0o600)
        self._writer = connect(path)
        self._reader = connect(path)
        self._reading = threading.Lock()
        try:
            with self.writing() as connection:
                migrate(connection, path, migrations)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """Hold the write lock in a transaction: committed at the end, rolled back at an error."""
        with self._lock:
            if self._closed:
                raise ValueError(f"{self._path} is closed")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Read beside the writer."""
        with self._reading:
            if self._closed:
                raise ValueError(f"{self._path} is closed")
            found: list[Any] = self._reader.execute(statement, values).fetchall()
        return found

    def close(self) -> None:
        """Let go of the file; what is being written is finished first."""
        with self._lock, self._reading:
            if not self._closed:
                self._closed = True
                self._reader.close()
                self._writer.close()
