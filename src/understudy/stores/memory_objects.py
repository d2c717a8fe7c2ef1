"""Objects in memory: the double of the object stores, for tests and ``--ephemeral`` runs.

Main class: :class:`MemoryObjects`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping

from understudy.core.errors import Conflict
from understudy.core.object_errors import (
    bucket_not_empty,
    no_such_bucket,
    no_such_key,
    precondition_failed,
    refuse_unless,
)
from understudy.core.ports import Clock, Joined, ObjectInfo

PIECE_BYTES = 1 << 20


class MemoryObjects:
    """Implements the ports Buckets and Objects in dictionaries; safe to call from many threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._created_at_s: dict[str, float] = {}
        self._objects: dict[str, dict[str, tuple[ObjectInfo, bytes]]] = {}

    # --- Buckets ---

    def create_bucket(self, bucket: str) -> bool:
        """Create it; False when it was there."""
        with self._lock:
            if bucket in self._objects:
                return False
            self._objects[bucket] = {}
            self._created_at_s[bucket] = self._clock.now_s()
            return True

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket."""
        with self._lock:
            if self._bucket(bucket):
                raise bucket_not_empty(bucket)
            del self._objects[bucket], self._created_at_s[bucket]

    def list_buckets(self) -> list[tuple[str, float]]:
        """Return (name, created_at_s), sorted by name; scratch buckets are left out."""
        with self._lock:
            return sorted(one for one in self._created_at_s.items() if not one[0].startswith("."))

    # --- Objects ---

    def put(
        self,
        bucket: str,
        key: str,
        body: Iterable[bytes] | Joined,
        *,
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        checksums: Mapping[str, str] | None = None,
        etag: str | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Store an object whole."""
        with self._lock:
            self._bucket(bucket)
        data = None if isinstance(body, Joined) else b"".join(body)
        with self._lock:
            objects = self._bucket(bucket)
            there = objects.get(key)
            refuse_unless(
                key, there[0].etag if there is not None else None, if_match=if_match, if_absent=if_absent
            )
            if isinstance(body, Joined):
                data = b"".join(self._part(part) for part in body.parts)
                for part in body.parts if body.move else ():
                    self._objects[part.bucket].pop(part.key, None)
            assert data is not None
            info = ObjectInfo(
                bucket,
                key,
                len(data),
                hashlib.md5(data, usedforsecurity=False).hexdigest() if etag is None else etag,
                self._clock.now_s(),
                dict(headers or {}),
                dict(metadata or {}),
                dict(checksums or {}),
            )
            objects[key] = info, data
            return info

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return facts."""
        with self._lock:
            return self._object(bucket, key)[0]

    def read(self, bucket: str, key: str, start: int = 0, length: int | None = None) -> MemoryReading:
        """Yield the bytes from ``start``, ``length`` of them at most."""
        with self._lock:
            info, data = self._object(bucket, key)
        return MemoryReading(info, memoryview(data)[start:][:length])

    def delete(self, bucket: str, *keys: str, if_match: str | None = None) -> None:
        """Remove objects in one step; missing ones are no error."""
        with self._lock:
            objects = self._bucket(bucket)
            there = [key for key in keys if key in objects]
            if if_match is not None and any(objects[key][0].etag != if_match for key in there):
                raise precondition_failed("If-Match")
            for key in there:
                objects.pop(key, None)

    def list(self, bucket: str, prefix: str = "", after: str = "", limit: int = 1000) -> list[ObjectInfo]:
        """Return objects with ``key > after`` under the prefix, in UTF-8 byte order of their keys."""
        with self._lock:
            found = [one for one, _ in self._bucket(bucket).values()]
        # Code points sort as their UTF-8 bytes do.
        found = [one for one in found if one.key.startswith(prefix) and one.key > after]
        return sorted(found, key=lambda one: one.key)[:limit]

    def _bucket(self, bucket: str) -> dict[str, tuple[ObjectInfo, bytes]]:
        objects = self._objects.get(bucket)
        if objects is None:
            raise no_such_bucket(bucket)
        return objects

    def _object(self, bucket: str, key: str) -> tuple[ObjectInfo, bytes]:
        found = self._bucket(bucket).get(key)
        if found is None:
            raise no_such_key(key)
        return found

    def _part(self, part: ObjectInfo) -> bytes:
        found = self._objects.get(part.bucket, {}).get(part.key)
        if found is None or found[0] != part:
            raise Conflict(f"{part.bucket}/{part.key} changed before it could be joined")
        return found[1]


class MemoryReading:
    """The bytes of one object; implements the port Reading."""

    def __init__(self, info: ObjectInfo, data: memoryview) -> None:
        self._info = info
        self._data = data

    @property
    def info(self) -> ObjectInfo:
        """Facts of what is being read."""
        return self._info

    def __iter__(self) -> MemoryReading:
        return self

    def __next__(self) -> bytes:
        piece = bytes(self._data[:PIECE_BYTES])
        if not piece:
            raise StopIteration
        self._data = self._data[len(piece) :]
        return piece

    def close(self) -> None:
        """Let go before the end."""
        self._data = memoryview(b"")
