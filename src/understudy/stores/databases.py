"""The databases records can live in: a SQLite file (default) or PostgreSQL.

Owns what differs between the two: connecting, how a write begins, and what an error means.
Refuses other databases and a missing driver with a text that says what to do.
Main function: :func:`open_database`.

Source: https://www.sqlite.org/wal.html (WAL, the WAL-reset bug of versions before 3.51.3);
https://www.postgresql.org/docs/current/functions-info.html (``pg_xact_status``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url

from understudy.core.errors import ApiError

logger = logging.getLogger(__name__)

# Pages that a connection keeps, KiB.  SQLite's 2,000 fill up over half an hour, a rise that looks like a
# leak, and save nothing that could be measured: the operating system has the file in memory.
CACHE_KIB = 512
WAIT_S = 5.0  # a locked or restarting database is waited for so long, then the caller gets a 503
_FIXED_WAL_RESET = (3, 51, 3)
_COMMIT_LOCK = 0x756E64657273  # any constant: the advisory lock that puts commits in one order


class CannotOpen(Exception):
    """The database does not let us in at the start; the text says which and why, without the password."""


def unavailable(why: str) -> ApiError:
    """Make the retryable error for a store that cannot answer now."""
    return ApiError(
        f"The record store is not available ({why}). Nothing was changed; try again.",
        code="ServiceUnavailable",
        status=503,
    )


def unknown_outcome() -> ApiError:
    """Make the error for a commit whose answer was lost and could not be found out."""
    return ApiError(
        "The record store was lost while it committed and did not come back in time: the change may or may "
        "not have been made. Describe the resource before trying again.",
        code="ServiceUnavailable",
        status=503,
    )


class Database(Protocol):
    """One kind of database behind the records."""

    engine: Engine

    def writing(self) -> Any:
        """Give a connection in a write transaction that nobody else interleaves with; commits at the end."""
        ...

    def transaction_id(self, connection: Connection) -> str | None:
        """Name the running transaction, to ask for its fate later; None where it can't be lost."""
        ...

    def was_committed(self, transaction_id: str) -> bool | None:
        """Tell the fate of a transaction; None while it still runs."""
        ...


# --- SQLite ------------------------------------------------------------------------------------------


def sqlite_module() -> ModuleType:
    """Find a SQLite driver: pysqlite3's own library, else Python's, with a warning where that is unsafe."""
    try:
        import pysqlite3 as module
    except ModuleNotFoundError:
        import sqlite3 as module
    if module.sqlite_version_info < _FIXED_WAL_RESET:
        logger.warning(
            "SQLite %s can corrupt a database that several connections write (WAL-reset bug, fixed in "
            "3.51.3): pip install 'pysqlite3>=0.6.1', or use PostgreSQL for the records",
            module.sqlite_version,
        )
    found: ModuleType = module
    return found


@dataclass
class SqliteDatabase:
    """A SQLite file in WAL mode that is synced at each commit.

    synchronous=NORMAL lost every acknowledged commit in a simulated power cut; FULL lost none.
    """

    engine: Engine

    def __post_init__(self) -> None:
        self._turn = threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Wait for this process's turn, then for the file's lock, WAIT_S in all."""
        deadline_s = time.monotonic() + WAIT_S
        # Threads queue here: SQLite's own wait is a poll with sleeps, slow and unfair between threads.
        if not self._turn.acquire(timeout=WAIT_S):
            raise unavailable("other writers are before this one")
        try:
            left_ms = max(1, int((deadline_s - time.monotonic()) * 1000))
            with (
                self.engine.connect().execution_options(write_wait_ms=left_ms) as connection,
                connection.begin(),
            ):
                yield connection
        finally:
            self._turn.release()

    def transaction_id(self, connection: Connection) -> str | None:
        """None: the commit runs in this process."""
        return None

    def was_committed(self, transaction_id: str) -> bool | None:
        """Never asked."""
        return False


def _open_sqlite(url: URL) -> SqliteDatabase:
    path = url.database
    if not path or path == ":memory:":
        raise ValueError("records need a file: sqlite:////absolute/path/records.db")
    # Containers' environments may hold secrets: only the owner reads the file; -wal and -shm follow it.
    Path(path).touch(mode=0o600)
    engine = sqlalchemy.create_engine(url.set(drivername="sqlite"), module=sqlite_module())

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(WAIT_S * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        wait_ms = connection.get_execution_options().get("write_wait_ms")
        if wait_ms is None:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(WAIT_S * 1000)}")
            connection.exec_driver_sql("BEGIN")
        else:
            # A read that turned into a write could not wait (its snapshot may be old): lock at once.
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {wait_ms}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return SqliteDatabase(engine)


# --- PostgreSQL --------------------------------------------------------------------------------------


@dataclass
class PostgresDatabase:
    """A PostgreSQL database.  Commits are put in one order by an advisory lock: the sequence numbers of
    events become visible in rising order, so a reader that pages by them misses none."""

    engine: Engine

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Begin, wait WAIT_S at most for the other writers, and insist on a synced commit."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(WAIT_S * 1000)}ms'")
            connection.exec_driver_sql(
                "SELECT set_config('synchronous_commit', 'on', true)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_COMMIT_LOCK})")
            yield connection

    def transaction_id(self, connection: Connection) -> str | None:
        """The server's own number of the transaction."""
        return str(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one())

    def was_committed(self, transaction_id: str) -> bool | None:
        """Ask the server, which remembers recent transactions across restarts."""
        with self.engine.connect() as connection:
            status = connection.execute(
                sqlalchemy.text("SELECT pg_xact_status(CAST(:id AS xid8))"), {"id": transaction_id}
            ).scalar_one()
        return None if status == "in progress" else status == "committed"


def _open_postgres(url: URL) -> PostgresDatabase:
    try:
        engine = sqlalchemy.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_timeout=WAIT_S,
            connect_args={"connect_timeout": int(WAIT_S)},
        )
    except ModuleNotFoundError as error:
        raise ValueError(
            "records in PostgreSQL need the driver: pip install 'understudy-ml[postgres]'"
        ) from error
    return PostgresDatabase(engine)


def open_database(url: str) -> Database:
    """Open the database behind a URL; nothing is created but a missing SQLite file.

    Args:
        url: ``sqlite:////absolute/records.db`` or ``postgresql://user:password@host:port/database``.
    Raises:
        ValueError: another kind of URL, or a driver that is not installed; the text says what to do.
    """
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:  # ValueError: the port is no number
        raise ValueError(
            "the records URL is no URL; these are: sqlite:////absolute/path/records.db,"
            " postgresql://user:password@host:port/database"
        ) from error
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        return _open_sqlite(parsed)
    if kind in ("postgresql", "postgres"):
        return _open_postgres(parsed)
    raise ValueError(f"records can be kept in sqlite or postgresql, not in {kind!r}")
