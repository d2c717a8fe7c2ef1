"""Records on disk: desired state, intents and the audit trail, by SQLAlchemy Core.

Owns the two tables' reads and writes.  Every commit is one transaction of compare-and-set changes
and is synced before it returns; every read is one statement.  Safe to use from many threads.
Refuses a database that a newer program has written (see ``migrations``).
Main function: :func:`open_records`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar, cast

import sqlalchemy
from sqlalchemy import Connection, Select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from understudy.core.errors import Conflict
from understudy.core.ports import Delete, Event, Keyed, Put, Query, Stored
from understudy.stores.bodies import decode_body, encode_body
from understudy.stores.databases import (
    WAIT_S,
    CannotOpen,
    Database,
    open_database,
    unavailable,
    unknown_outcome,
)
from understudy.stores.migrations import migrate
from understudy.stores.tables import EVENTS, RECORDS

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Keyed)
R = TypeVar("R")

_RETRY_PAUSE_S = 0.1  # between attempts to reach a database that restarts

_SORT_COLUMNS: dict[str, sqlalchemy.ColumnElement[Any]] = {
    "name": RECORDS.c.name,
    "created": RECORDS.c.created_at_s,
    "modified": RECORDS.c.modified_at_s,
    "status": sqlalchemy.func.coalesce(RECORDS.c.status, ""),
}


class SqlRecords:
    """The Records port over a database that has been migrated."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine = database.engine
        self._insert: Callable[[Any], Any] = (
            postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        )

    def get(self, kind: type[T], name: str) -> Stored[T] | None:
        """Read one record."""
        query = sqlalchemy.select(RECORDS.c.body, RECORDS.c.version).where(
            RECORDS.c.kind == kind.KIND, RECORDS.c.name == name
        )
        rows = self._read(query)
        return Stored(decode_body(rows[0].body, kind), rows[0].version) if rows else None

    def find(self, kind: type[T], query: Query) -> list[Stored[T]]:
        """Read a page of records; filtered, ordered and cut by the database."""
        return [Stored(decode_body(row.body, kind), row.version) for row in self._read(_select(kind, query))]

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
        sequence = EVENTS.c.sequence
        query = sqlalchemy.select(EVENTS)
        if not newest_first:
            query = query.where(sequence > after_sequence)
        elif after_sequence:
            query = query.where(sequence < after_sequence)
        if subject is not None:
            query = query.where(EVENTS.c.subject == subject)
        if kinds:
            query = query.where(EVENTS.c.kind.in_(sorted(kinds)))
        query = query.order_by(sequence.desc() if newest_first else sequence.asc()).limit(limit)
        return [
            Event(row.subject, row.kind, row.at_s, decode_body(row.detail, dict[str, Any]), row.sequence)
            for row in self._read(query)
        ]

    def commit(self, changes: Sequence[Put | Delete | Event]) -> None:
        """Apply all changes or none; on disk when this returns.

        A connection lost before the commit's answer is asked about afterwards, so that a change is
        never reported as failed that then appears, nor made twice.

        Raises:
            Conflict: a version was not the expected one; nothing was changed.
            ApiError: 503, the database was locked or away for ``WAIT_S``.
        """
        steps = [self._step(change) for change in changes]
        deadline_s = time.monotonic() + WAIT_S
        while True:
            transaction_id: str | None = None
            try:
                with self._database.writing() as connection:
                    for step in steps:
                        step(connection)
                    # From here on the answer can get lost; before, a lost connection means nothing happened.
                    transaction_id = self._database.transaction_id(connection)
                return
            except (OperationalError, InterfaceError, PoolTimeout) as error:
                lost = transaction_id is not None and _disconnected(error)
                if lost and self._outcome(str(transaction_id), deadline_s):
                    return
                self._pause_or_give_up(error, deadline_s)

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()

    # --- inside ---------------------------------------------------------------------------------------

    def _read(self, query: Select[Any]) -> Sequence[Any]:
        deadline_s = time.monotonic() + WAIT_S
        while True:
            try:
                with self._engine.connect() as connection:
                    return connection.execute(query).all()
            except (OperationalError, InterfaceError, PoolTimeout) as error:
                self._pause_or_give_up(error, deadline_s)

    def _pause_or_give_up(self, error: Exception, deadline_s: float) -> None:
        """Return when the caller shall try again; else raise what the client gets."""
        if _disconnected(error) and time.monotonic() < deadline_s:
            time.sleep(_RETRY_PAUSE_S)
            return
        logger.warning("records: %s", getattr(error, "orig", None) or error)
        raise unavailable(_reason(error)) from error

    def _outcome(self, transaction_id: str, deadline_s: float) -> bool:
        """Find out whether a transaction was committed whose answer was lost."""
        while time.monotonic() < deadline_s:
            try:
                committed = self._database.was_committed(transaction_id)
            except (OperationalError, InterfaceError, PoolTimeout) as error:
                logger.warning("records: asking for a lost commit: %s", getattr(error, "orig", None) or error)
            else:
                if committed is not None:
                    return committed
            time.sleep(_RETRY_PAUSE_S)
        raise unknown_outcome()

    def _step(self, change: Put | Delete | Event) -> Callable[[Connection], None]:
        """Prepare one change; encoding comes first so that nothing fails half way through."""
        if isinstance(change, Event):
            values = {
                "subject": change.subject,
                "kind": change.kind,
                "at_s": change.at_s,
                "detail": encode_body(change.detail),
            }
            return lambda connection: cast(None, connection.execute(EVENTS.insert().values(values)))
        if isinstance(change, Delete):
            statement: Any = sqlalchemy.delete(RECORDS).where(
                RECORDS.c.kind == change.kind.KIND,
                RECORDS.c.name == change.name,
                RECORDS.c.version == change.expected_version,
            )
            return _exactly_one(statement, f"{change.kind.KIND} {change.name}")
        value = change.value
        status = getattr(value, "status", None)
        columns = {
            "kind": value.KIND,
            "name": value.name,
            "version": change.expected_version + 1,
            "created_at_s": value.created_at_s,
            "modified_at_s": value.modified_at_s,
            "status": None if status is None else str(status),
            "body": encode_body(value),
        }
        if change.expected_version == 0:
            statement = self._insert(RECORDS).values(columns).on_conflict_do_nothing()
        else:
            statement = (
                sqlalchemy.update(RECORDS)
                .where(
                    RECORDS.c.kind == value.KIND,
                    RECORDS.c.name == value.name,
                    RECORDS.c.version == change.expected_version,
                )
                .values(columns)
            )
        return _exactly_one(statement, f"{value.KIND} {value.name}")


def _exactly_one(statement: Any, what: str) -> Callable[[Connection], None]:
    changed = statement.returning(RECORDS.c.version)

    def step(connection: Connection) -> None:
        # Not rowcount: psycopg's is -1 after an INSERT that did nothing.
        if len(connection.execute(changed).all()) != 1:
            raise Conflict(what)

    return step


def _select(kind: type[Any], query: Query) -> Select[Any]:
    """Write a listing as one statement; every value is a bound parameter."""
    statement = sqlalchemy.select(RECORDS.c.body, RECORDS.c.version).where(RECORDS.c.kind == kind.KIND)
    if query.name_contains is not None:
        # Both sides lower-cased by ASCII alone: the column's collation is C in PostgreSQL.
        folded = "".join(letter.lower() if letter.isascii() else letter for letter in query.name_contains)
        statement = statement.where(sqlalchemy.func.lower(RECORDS.c.name).contains(folded, autoescape=True))
    if query.status is not None:
        statement = statement.where(RECORDS.c.status == query.status)
    for column, at_least, below in (
        (RECORDS.c.created_at_s, query.created_after_s, query.created_before_s),
        (RECORDS.c.modified_at_s, query.modified_after_s, query.modified_before_s),
    ):
        if at_least is not None:
            statement = statement.where(column >= at_least)
        if below is not None:
            statement = statement.where(column < below)
    order = _SORT_COLUMNS[query.sort_by]
    if query.after is not None:
        place = tuple_(order, RECORDS.c.name)
        last = tuple_(*(sqlalchemy.literal(part) for part in query.after))
        statement = statement.where(place < last if query.descending else place > last)
    columns = (order, RECORDS.c.name)
    statement = statement.order_by(
        *(column.desc() if query.descending else column.asc() for column in columns)
    )
    return statement if query.limit is None else statement.limit(query.limit)


def _disconnected(error: Exception) -> bool:
    """Tell whether the connection was lost or could not be made: worth another try soon."""
    if not isinstance(error, DBAPIError):
        return False
    # A connection that could not be made has no SQLSTATE and is not marked as invalidated.
    refused = getattr(error.orig, "sqlstate", "") is None
    return error.connection_invalidated or refused


def _reason(error: Exception) -> str:
    """Say in one line, without statement or parameters, what is wrong."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return (
            str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        )
    return "too many requests at once"


def open_records(url: str) -> SqlRecords:
    """Open a database, bring its tables up to date and hand out the Records port.

    Args:
        url: ``sqlite:////absolute/records.db`` or ``postgresql://user:password@host:port/database``.
    Raises:
        ValueError: no such kind of database, or its driver is missing.
        NewerDatabase: a newer program has written it.
        CannotOpen: it can't be reached, read or written.
    """
    database = open_database(url)
    try:
        migrate(database)
    except DBAPIError as error:
        url_shown = database.engine.url.set(drivername=database.engine.dialect.name)
        place = url_shown.render_as_string(hide_password=True)
        database.engine.dispose()
        raise CannotOpen(f"{place}: {' '.join(str(error.orig).split())}") from error
    except BaseException:
        database.engine.dispose()
        raise
    return SqlRecords(database)
