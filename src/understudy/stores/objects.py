"""Objects in a folder on disk: the embedded object store.

Owns ``index.db`` (see :mod:`understudy.stores.object_index`), ``data/`` with one file per stored body, and
``incoming/`` with bodies under way.  File names are random; a bucket's or key's text never becomes a path.
A body is written to ``incoming/``, synced, renamed into ``data/``, the directory is synced, and only then
the index commits: a crash at any point leaves the old object or the new one, and files that the index does
not know are swept at the next start.  Bodies stream in pieces of 1 MiB both ways.
Refuses to be opened twice at a time.  Main class: :class:`DiskObjects`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from understudy.core.digests import digested
from understudy.core.errors import Conflict
from understudy.core.object_errors import insufficient_storage
from understudy.core.ports import Clock, Entropy, Joined, ObjectInfo
from understudy.stores.object_index import CommitUncertain, ObjectIndex, Segment

PIECE_BYTES = 1 << 20
FAN_OUT = [f"{number:02x}" for number in range(256)]


class DiskObjects:
    """Implements the ports Buckets and Objects; safe to call from many threads.

    Args:
        root: The store's own folder; made when missing.
        clock: Gives modification times.
        entropy: Names data files.

    Raises:
        RuntimeError: another process has the folder open, or data files are there without their index.
    """

    def __init__(self, root: Path, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._root = root
        self._data = root / "data"
        self._incoming = root / "incoming"
        for folder in (root, self._data, self._incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in FAN_OUT:
            (self._data / name).mkdir(mode=0o700, exist_ok=True)
        for folder in (self._data, root, root.parent):
            _sync_folder(folder)
        self._lock_file = (root / "lock").open("wb")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise RuntimeError(f"{root} is open in another process; stop that server first.") from None
        self._index = ObjectIndex(root / "index.db")
        _sync_folder(root)  # SQLite syncs the folder for its journals, not for the index itself
        # Blobs being read, and those of them that are to go once nobody reads them.
        self._pins: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self._pins_lock = self._index.read_lock
        self._sweep()

    def close(self) -> None:
        """Close the index and let another process open the folder."""
        self._index.close()
        self._lock_file.close()

    # --- Buckets ---

    def create_bucket(self, bucket: str) -> bool:
        """Create it; False when it was there."""
        return self._index.create_bucket(bucket, self._clock.now_s())

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket."""
        self._index.delete_bucket(bucket)

    def list_buckets(self) -> list[tuple[str, float]]:
        """Return (name, created_at_s), sorted by name; scratch buckets are left out."""
        return [one for one in self._index.buckets() if not one[0].startswith(".")]

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
        self._index.require_bucket(bucket)  # before a long body is taken in for nothing
        source: Segment | Joined | None
        if isinstance(body, Joined):
            source, size_bytes = body, sum(part.size_bytes for part in body.parts)
            if etag is None:
                etag = self._joined_etag(body)
        else:
            if etag is None:
                digest = hashlib.md5(usedforsecurity=False)
                source = self._write(digested(body, digest))
                etag = digest.hexdigest()
            else:
                source = self._write(body)
            size_bytes = source.length_bytes if source is not None else 0
        info = ObjectInfo(
            bucket,
            key,
            size_bytes,
            etag,
            self._clock.now_s(),
            dict(headers or {}),
            dict(metadata or {}),
            dict(checksums or {}),
        )
        try:
            unneeded = self._index.put(info, source, if_match=if_match, if_absent=if_absent)
        except Exception as error:
            # An uncertain commit may come back after a crash: its file is left to the next start's sweep.
            if isinstance(source, Segment) and not isinstance(error, CommitUncertain):
                self._path(source.blob).unlink(missing_ok=True)
            raise
        self._discard(unneeded)
        return info

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return facts."""
        return self._index.head(bucket, key)

    def read(self, bucket: str, key: str, start: int = 0, length: int | None = None) -> DiskReading:
        """Yield the bytes from ``start``, ``length`` of them at most."""
        with self._pins_lock:
            # Under the lock that _discard takes: what is found cannot go before it is pinned.
            info, segments = self._index.find(bucket, key)
            self._pins.update(segment.blob for segment in segments)
        return DiskReading(self, info, segments, start, length)

    def delete(self, bucket: str, *keys: str, if_match: str | None = None) -> None:
        """Remove objects in one step; missing ones are no error."""
        self._discard(self._index.delete(bucket, keys, if_match))

    def list(self, bucket: str, prefix: str = "", after: str = "", limit: int = 1000) -> list[ObjectInfo]:
        """Return objects with ``key > after`` under the prefix, in UTF-8 byte order of their keys."""
        return self._index.page(bucket, prefix.encode(), after.encode(), limit)

    # --- data files ---

    def open_blob(self, blob: str) -> int:
        """Open a data file; return its descriptor."""
        return os.open(self._path(blob), os.O_RDONLY | os.O_CLOEXEC)

    def release(self, segments: Iterable[Segment]) -> None:
        """Take the pins of a reading back; drop what waited for that."""
        gone = []
        with self._pins_lock:
            for segment in segments:
                self._pins[segment.blob] -= 1
                if self._pins[segment.blob] <= 0:
                    del self._pins[segment.blob]
                    if segment.blob in self._doomed:
                        self._doomed.remove(segment.blob)
                        gone.append(segment.blob)
        for blob in gone:
            self._path(blob).unlink(missing_ok=True)

    def _discard(self, blobs: Sequence[str]) -> None:
        """Remove data files, those being read once their last reader is done."""
        with self._pins_lock:
            read_now = {blob for blob in blobs if self._pins[blob] > 0}
            self._doomed |= read_now
        for blob in set(blobs) - read_now:  # the index has forgotten them: nobody can begin to read them
            self._path(blob).unlink(missing_ok=True)

    def _path(self, blob: str) -> Path:
        return self._data / blob[:2] / blob

    def _write(self, body: Iterable[bytes]) -> Segment | None:
        """Write a body to a data file that survives a crash; return it, None if it is empty."""
        blob = self._entropy.token(16)
        incoming, size_bytes = self._incoming / blob, 0
        try:
            with _full_disk_told():
                with incoming.open("xb", buffering=PIECE_BYTES) as file:
                    for piece in body:
                        file.write(piece)
                        size_bytes += len(piece)
                    file.flush()
                    os.fsync(file.fileno())
                if size_bytes:
                    incoming.rename(self._path(blob))
                    _sync_folder(self._data / blob[:2])
        except BaseException:
            self._path(blob).unlink(missing_ok=True)
            raise
        finally:
            incoming.unlink(missing_ok=True)
        return Segment(blob, size_bytes) if size_bytes else None

    def _joined_etag(self, body: Joined) -> str:
        """Compute the MD5 of parts that are to be joined; nothing is read when one part knows it."""
        if len(body.parts) == 1 and "-" not in body.parts[0].etag:
            return body.parts[0].etag
        digest = hashlib.md5(usedforsecurity=False)
        for part in body.parts:
            reading = self.read(part.bucket, part.key)
            if reading.info != part:
                reading.close()
                raise Conflict(f"{part.bucket}/{part.key} changed before it could be joined")
            for piece in reading:
                digest.update(piece)
        return digest.hexdigest()

    def _sweep(self) -> None:
        """Remove what a crash left: bodies under way, and data files that the index does not know."""
        if self._index.is_new and any(True for name in FAN_OUT for _ in (self._data / name).iterdir()):
            self.close()
            (self._root / "index.db").unlink()
            raise RuntimeError(
                f"{self._root} holds data files but its index.db is missing. Put the index back, or move the "
                "folder away to begin with an empty one; nothing was removed."
            )
        for path in self._incoming.iterdir():
            path.unlink()
        needed = set(self._index.blobs())
        for name in FAN_OUT:
            with os.scandir(self._data / name) as entries:
                for entry in entries:
                    if entry.name not in needed:
                        Path(entry.path).unlink()


class DiskReading:
    """The bytes of one object; implements the port Reading.  For one thread at a time.

    Args:
        segments: Pinned by the store; released at the end, by ``close`` or with the last reference.
    """

    def __init__(
        self, store: DiskObjects, info: ObjectInfo, segments: list[Segment], start: int, length: int | None
    ) -> None:
        self._store = store
        self._info = info
        self._segments = segments
        self._release_lock = threading.Lock()
        self._released = False
        # Without a reference back, so that the last reference's end is the reading's end.
        self._pieces = _pieces(store, segments, start, info.size_bytes if length is None else length)

    @property
    def info(self) -> ObjectInfo:
        """Facts of what is being read."""
        return self._info

    def __iter__(self) -> DiskReading:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Let go before the end."""
        self._pieces.close()
        self._release()

    def __del__(self) -> None:
        self._release()

    def _release(self) -> None:
        with self._release_lock:
            if self._released:
                return
            self._released = True
        self._store.release(self._segments)


def _pieces(
    store: DiskObjects, segments: list[Segment], start: int, length: int
) -> Generator[bytes, None, None]:
    for segment in segments:
        if length <= 0:
            return
        if start >= segment.length_bytes:
            start -= segment.length_bytes
            continue
        descriptor = store.open_blob(segment.blob)
        try:
            end = min(segment.length_bytes, start + length)
            while start < end:
                piece = os.pread(descriptor, min(PIECE_BYTES, end - start), start)
                if not piece:  # never a silently short answer
                    raise OSError(errno.EIO, f"data file {segment.blob} is shorter than the index says")
                start += len(piece)
                length -= len(piece)
                yield piece
        finally:
            os.close(descriptor)
        start = 0


@contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise insufficient_storage() from error
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
