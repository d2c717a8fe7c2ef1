"""The index of the objects on disk: which bucket and key is which bytes, in one SQLite file.

Owns buckets, objects' facts, and the list of data files ("blobs") that make up each object; a blob can
belong to several objects, so a copy or a joined multipart upload costs no bytes.  The commit here is the
moment at which an object exists: what a method returned from is on disk.  Refuses to touch data files.
Main class: :class:`ObjectIndex`.
Source: keys are BLOBs since those compare by memcmp, which is S3's order (sqlite.org/datatype3.html).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.core.errors import ApiError, Conflict
from understudy.core.object_errors import (
    bucket_not_empty,
    insufficient_storage,
    no_such_bucket,
    no_such_key,
    precondition_failed,
    refuse_unless,
)
from understudy.core.ports import Joined, ObjectInfo
from understudy.stores.databases import sqlite_module
from understudy.stores.sqlite_files import connect

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE buckets (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at_s REAL NOT NULL);
CREATE TABLE objects (
    id INTEGER PRIMARY KEY, bucket_id INTEGER NOT NULL REFERENCES buckets (id), key BLOB NOT NULL,
    size_bytes INTEGER NOT NULL, etag TEXT NOT NULL, modified_at_s REAL NOT NULL, facts TEXT NOT NULL,
    UNIQUE (bucket_id, key));
CREATE TABLE segments (
    object_id INTEGER NOT NULL REFERENCES objects (id), position INTEGER NOT NULL,
    blob TEXT NOT NULL, length_bytes INTEGER NOT NULL,
    PRIMARY KEY (object_id, position)) WITHOUT ROWID;
CREATE INDEX segments_by_blob ON segments (blob);
"""
SQLITE_BUSY, SQLITE_FULL = 5, 13
KEYS_PER_STATEMENT = 500  # below SQLITE_MAX_VARIABLE_NUMBER of every build (999 in old ones)


@dataclass(frozen=True)
class Segment:
    """A whole data file as part of an object."""

    blob: str
    length_bytes: int


class CommitUncertain(Exception):
    """SQLite could not say whether a commit is on disk: leave the blobs it may name until the next start."""


class ObjectIndex:
    """One file, one writing and one reading connection, each used by one thread at a time.

    Args:
        path: Of the SQLite file; made when missing.
    Attributes:
        is_new: Nothing was ever stored under this index.
    """

    def __init__(self, path: Path) -> None:
        self._write_lock = threading.Lock()
        self.read_lock = threading.RLock()
        self._writer = connect(path)
        self._writer.execute("PRAGMA foreign_keys = ON")
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        self.is_new = version == 0
        if self.is_new:
            self._writer.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
        elif version != SCHEMA_VERSION:
            raise RuntimeError(
                f"{path} was written by another version of Understudy (schema {version}, this one reads "
                f"{SCHEMA_VERSION}). Use that version or another data directory."
            )
        self._reader = connect(path)
        self._reader.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close both connections."""
        with self._write_lock, self.read_lock:
            self._reader.close()
            self._writer.close()

    # --- buckets ---

    def create_bucket(self, bucket: str, at_s: float) -> bool:
        """Create a bucket; False when it was there."""
        with self._transaction() as db:
            made = db.execute(
                "INSERT INTO buckets (name, created_at_s) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (bucket, at_s),
            )
            return bool(made.rowcount)

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket."""
        with self._transaction() as db:
            bucket_id = _bucket_id(db, bucket)
            if db.execute("SELECT 1 FROM objects WHERE bucket_id = ? LIMIT 1", (bucket_id,)).fetchone():
                raise bucket_not_empty(bucket)
            db.execute("DELETE FROM buckets WHERE id = ?", (bucket_id,))

    def buckets(self) -> list[tuple[str, float]]:
        """Return (name, created_at_s) by name."""
        with self.read_lock:
            return list(self._reader.execute("SELECT name, created_at_s FROM buckets ORDER BY name"))

    def require_bucket(self, bucket: str) -> None:
        """Raise NoSuchBucket unless it is there."""
        with self.read_lock:
            _bucket_id(self._reader, bucket)

    # --- objects ---

    def find(self, bucket: str, key: str) -> tuple[ObjectInfo, list[Segment]]:
        """Read an object's facts and what it is made of."""
        with self.read_lock:
            # One snapshot for both statements: the writer may commit in between.
            self._reader.execute("BEGIN")
            try:
                object_id, info = _require(self._reader, bucket, key)
                return info, _segments(self._reader, object_id)
            finally:
                self._reader.execute("COMMIT")

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Read an object's facts."""
        with self.read_lock:
            return _require(self._reader, bucket, key)[1]

    def page(self, bucket: str, prefix: bytes, after: bytes, limit: int) -> list[ObjectInfo]:
        """Read a page of objects in the order of their keys' bytes."""
        condition, values = "bucket_id = ? AND key > ?", [after]
        if prefix:
            condition += " AND key >= ?"
            values.append(prefix)
            end = _first_after_prefix(prefix)
            if end is not None:
                condition += " AND key < ?"
                values.append(end)
        with self.read_lock:
            rows = self._reader.execute(
                f"SELECT {_COLUMNS} FROM objects WHERE {condition} ORDER BY key LIMIT ?",
                (_bucket_id(self._reader, bucket), *values, limit),
            ).fetchall()
        return [_info(bucket, row) for row in rows]

    def blobs(self) -> Iterator[str]:
        """Yield every blob that an object needs."""
        with self.read_lock:
            for (blob,) in self._reader.execute("SELECT DISTINCT blob FROM segments"):
                yield blob

    def put(
        self,
        info: ObjectInfo,
        body: Segment | Joined | None,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> list[str]:
        """Make or replace an object; return the blobs that nothing needs any more.

        Args:
            body: One data file, the segments of other objects, or None for no bytes.
        """
        with self._transaction() as db:
            bucket_id = _bucket_id(db, info.bucket)
            key = info.key.encode()
            row = db.execute(
                "SELECT id, etag FROM objects WHERE bucket_id = ? AND key = ?", (bucket_id, key)
            ).fetchone()
            refuse_unless(info.key, row[1] if row else None, if_match=if_match, if_absent=if_absent)
            segments, moved = _take_over(db, body)
            freed = _drop(db, {*moved, *([row[0]] if row else [])})
            object_id = db.execute(
                "INSERT INTO objects (bucket_id, key, size_bytes, etag, modified_at_s, facts)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (bucket_id, key, info.size_bytes, info.etag, info.modified_at_s, _facts(info)),
            ).lastrowid
            db.executemany(
                "INSERT INTO segments VALUES (?, ?, ?, ?)",
                [(object_id, place, one.blob, one.length_bytes) for place, one in enumerate(segments)],
            )
            return _unneeded(db, freed)

    def delete(self, bucket: str, keys: Sequence[str], if_match: str | None = None) -> list[str]:
        """Remove objects; return the blobs that nothing needs any more."""
        with self._transaction() as db:
            bucket_id = _bucket_id(db, bucket)
            found: list[int] = []
            for some in _slices([key.encode() for key in keys]):
                rows = db.execute(
                    f"SELECT id, etag FROM objects WHERE bucket_id = ? AND key IN ({_marks(some)})",
                    (bucket_id, *some),
                ).fetchall()
                if if_match is not None and any(etag != if_match for _, etag in rows):
                    raise precondition_failed("If-Match")
                found.extend(object_id for object_id, _ in rows)
            return _unneeded(db, _drop(db, found))

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Hold the writing connection; commit at the end, roll back on any error."""
        with self._write_lock, _sqlite_errors_told():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._roll_back()
                raise
            try:
                self._writer.execute("COMMIT")
            except sqlite_module().Error as error:
                self._roll_back()
                if _has_code(error, SQLITE_FULL):
                    raise
                raise CommitUncertain(f"the object index could not be written: {error}") from error

    def _roll_back(self) -> None:
        if self._writer.in_transaction:  # SQLite has rolled back by itself after some errors
            self._writer.execute("ROLLBACK")


_COLUMNS = "id, key, size_bytes, etag, modified_at_s, facts"


def _has_code(error: Exception, primary_code: int) -> bool:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == primary_code  # extended codes carry the primary one in their low byte


@contextmanager
def _sqlite_errors_told() -> Iterator[None]:
    try:
        yield
    except sqlite_module().OperationalError as error:
        if _has_code(error, SQLITE_FULL):
            raise insufficient_storage() from error
        if _has_code(error, SQLITE_BUSY):
            raise ApiError(
                "The object index is locked by another program; send the request again.",
                code="ServiceUnavailable",
                status=503,
            ) from error
        raise


def _bucket_id(db: Any, bucket: str) -> int:
    row = db.execute("SELECT id FROM buckets WHERE name = ?", (bucket,)).fetchone()
    if row is None:
        raise no_such_bucket(bucket)
    return int(row[0])


def _require(db: Any, bucket: str, key: str) -> tuple[int, ObjectInfo]:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM objects WHERE bucket_id = ? AND key = ?",
        (_bucket_id(db, bucket), key.encode()),
    ).fetchone()
    if row is None:
        raise no_such_key(key)
    return row[0], _info(bucket, row)


def _segments(db: Any, object_id: int) -> list[Segment]:
    rows = db.execute(
        "SELECT blob, length_bytes FROM segments WHERE object_id = ? ORDER BY position", (object_id,)
    )
    return [Segment(*row) for row in rows]


def _take_over(db: Any, body: Segment | Joined | None) -> tuple[list[Segment], list[int]]:
    """Return the segments of a new object, and the ids of the objects that vanish into it."""
    if body is None:
        return [], []
    if isinstance(body, Segment):
        return [body], []
    segments: list[Segment] = []
    sources: list[int] = []
    for part in body.parts:
        row = db.execute(
            "SELECT o.id, o.etag, o.size_bytes, o.modified_at_s FROM objects o"
            " JOIN buckets b ON b.id = o.bucket_id WHERE b.name = ? AND o.key = ?",
            (part.bucket, part.key.encode()),
        ).fetchone()
        if row is None or row[1:] != (part.etag, part.size_bytes, part.modified_at_s):
            raise Conflict(f"{part.bucket}/{part.key} changed before it could be joined")
        segments.extend(_segments(db, row[0]))
        sources.append(row[0])
    return segments, sources if body.move else []


def _drop(db: Any, object_ids: Iterable[int]) -> list[str]:
    """Remove objects and return the blobs they had."""
    freed: list[str] = []
    for some in _slices(list(object_ids)):
        marks = _marks(some)
        freed.extend(
            blob for (blob,) in db.execute(f"SELECT blob FROM segments WHERE object_id IN ({marks})", some)
        )
        db.execute(f"DELETE FROM segments WHERE object_id IN ({marks})", some)
        db.execute(f"DELETE FROM objects WHERE id IN ({marks})", some)
    return freed


def _unneeded(db: Any, blobs: list[str]) -> list[str]:
    """Return those of the blobs that no object needs."""
    needed: set[str] = set()
    for some in _slices(blobs):
        rows = db.execute(f"SELECT blob FROM segments WHERE blob IN ({_marks(some)})", some)
        needed.update(blob for (blob,) in rows)
    return [blob for blob in blobs if blob not in needed]


def _slices(values: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), KEYS_PER_STATEMENT):
        yield values[start : start + KEYS_PER_STATEMENT]


def _marks(values: list[Any]) -> str:
    return ", ".join("?" * len(values))


def _facts(info: ObjectInfo) -> str:
    facts = [info.headers, info.metadata, info.checksums]
    return json.dumps(facts, separators=(",", ":")) if any(facts) else ""


def _info(bucket: str, row: tuple[Any, ...]) -> ObjectInfo:
    _, key, size_bytes, etag, modified_at_s, facts = row
    headers, metadata, checksums = json.loads(facts) if facts else ({}, {}, {})
    return ObjectInfo(bucket, key.decode(), size_bytes, etag, modified_at_s, headers, metadata, checksums)


def _first_after_prefix(prefix: bytes) -> bytes | None:
    """Return the smallest byte string above all that begin with the prefix; None when there is none.

    >>> _first_after_prefix(b"a/"), _first_after_prefix(b"a\\xff")
    (b'a0', b'b')
    """
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else None
