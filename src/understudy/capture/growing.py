"""Files of records in the object store: how they grow, and how they are finished.

Owns keys (AWS's: ``<prefix>/<endpoint>/<variant>/yyyy/mm/dd/hh/MM-SS-mmm-<uuid4>.jsonl``), the step from
one size to the next, and manifests.  A growth is told apart from its repetition by the file's size, so that
it may be tried again after any crash.  A reader sees whole lines, always.
Main class: :class:`Files`.

A manifest appears when its file is finished (its hour is over, or it is large) and won't change any more:
``<prefix>/.manifests/<endpoint>/<variant>/yyyy/mm/dd/hh/<name>.manifest.json``, away from the folders that
readers list.  ``{"file", "records", "bytes", "firstTime", "lastTime", "sha256"}``.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence

from understudy.capture.frames import Stream
from understudy.capture.ledger import CaptureFile, Growth
from understudy.core.digests import digested
from understudy.core.errors import ApiError
from understudy.core.ports import Buckets, Entropy, Joined, ObjectInfo, Objects

SCRATCH = ".capture"
HEADERS = {"content-type": "application/jsonlines"}
# A file smaller than this is put anew to grow; a larger one is joined with what comes.
REWRITE_BYTES = 1 << 20
# Larger pieces than that, on average, stay: writing the file anew costs as much as all that came before.
LARGE_PIECE_BYTES = 2 << 20


class Files:
    """Grows and finishes files.

    Args:
        objects: Where they are.
        buckets: A destination's bucket is made when it is not there.
        entropy: Draws the uuids.
    """

    def __init__(self, objects: Objects, buckets: Buckets, entropy: Entropy) -> None:
        self._objects = objects
        self._buckets = buckets
        self._entropy = entropy

    def sweep(self) -> None:
        """Remove what an interrupted growth left in the scratch bucket."""
        if self._buckets.create_bucket(SCRATCH):
            return
        while left := self._objects.list(SCRATCH):
            self._objects.delete(SCRATCH, *[one.key for one in left])

    def new_file(self, stream: Stream, moment: str) -> CaptureFile:
        """Name a file.

        Args:
            moment: ``MM-SS-mmm`` of its first record.
        """
        destination, endpoint, variant, hour = stream
        _, prefix = bucket_and_prefix(destination)
        name = f"{moment}-{uuid.UUID(hex=self._entropy.token(16), version=4)}.jsonl"
        return CaptureFile(stream, f"{prefix}{endpoint}/{variant}/{hour}/{name}")

    def grow(self, growth: Growth, lines: Sequence[bytes]) -> bool:
        """Add lines to a file, once however often this is called.

        Returns:
            False when the file is not the one it was (somebody removed or replaced it): nothing was done,
            and the lines need a file of their own.

        Raises:
            ApiError: The store refuses.
            core.errors.Conflict: The file changed this very moment.
        """
        before, after = growth.before, growth.after
        bucket, _ = bucket_and_prefix(after.stream[0])
        info = self._look(bucket, after.key)
        if info is not None and info.size_bytes == after.size_bytes:
            return True
        if (0 if info is None else info.size_bytes) != before.size_bytes:
            return False
        if info is None:
            self._create(bucket, after.key, lines)
        elif info.size_bytes < REWRITE_BYTES:
            there = b"".join(self._objects.read(bucket, after.key))
            body = [there, *_ended(lines)]
            self._objects.put(bucket, after.key, body, headers=HEADERS, if_match=info.etag)
        else:
            self._join(info, lines)
        return True

    def finish(self, file: CaptureFile) -> None:
        """Write a file's manifest; small pieces that it grew by become one.  May be repeated.

        Raises:
            ApiError: The store refuses.
        """
        destination, endpoint, variant, hour = file.stream
        bucket, prefix = bucket_and_prefix(destination)
        try:
            reading = self._objects.read(bucket, file.key)
        except ApiError as error:
            if error.status == 404:  # its owner has removed it
                return
            raise
        if reading.info.size_bytes != file.size_bytes:  # or replaced it
            reading.close()
            return
        digest = hashlib.sha256()
        pieces = digested(reading, digest)
        if _is_joined(reading.info.etag) and file.size_bytes < file.pieces * LARGE_PIECE_BYTES:
            self._objects.put(bucket, file.key, pieces, headers=HEADERS, if_match=reading.info.etag)
        else:
            for _ in pieces:
                pass
        manifest = {
            "file": file.key,
            "records": file.records,
            "bytes": file.size_bytes,
            "firstTime": _iso(file.first),
            "lastTime": _iso(file.last),
            "sha256": digest.hexdigest(),
        }
        name = file.key.rpartition("/")[2].removesuffix(".jsonl")
        self._objects.put(
            bucket,
            f"{prefix}.manifests/{endpoint}/{variant}/{hour}/{name}.manifest.json",
            [json.dumps(manifest, separators=(",", ":")).encode()],
            headers={"content-type": "application/json"},
        )

    def _look(self, bucket: str, key: str) -> ObjectInfo | None:
        try:
            return self._objects.head(bucket, key)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def _create(self, bucket: str, key: str, lines: Sequence[bytes]) -> None:
        body = _ended(lines)
        # An MD5 costs more than all else that is done with a byte; others' large files have none either.
        etag = f"{self._entropy.token(16)}-1" if len(body[0]) >= REWRITE_BYTES else None
        try:
            self._objects.put(bucket, key, body, headers=HEADERS, etag=etag, if_absent=True)
        except ApiError as error:
            if error.code != "NoSuchBucket":
                raise
            self._buckets.create_bucket(bucket)
            self._objects.put(bucket, key, body, headers=HEADERS, etag=etag, if_absent=True)

    def _join(self, info: ObjectInfo, lines: Sequence[bytes]) -> None:
        key = self._entropy.token(16)
        part = self._objects.put(SCRATCH, key, _ended(lines), etag=f"{key}-1")
        try:
            # Not the MD5 of the bytes, hence the dash, as of a multipart upload: nothing is read for it.
            mixed = hashlib.md5(f"{info.etag}{part.etag}".encode(), usedforsecurity=False).hexdigest()
            self._objects.put(
                info.bucket,
                info.key,
                Joined((info, part)),
                headers=HEADERS,
                etag=f"{mixed}-2",
                if_match=info.etag,
            )
        finally:
            self._objects.delete(SCRATCH, key)


def bucket_and_prefix(destination: str) -> tuple[str, str]:
    """Split a destination.

    >>> bucket_and_prefix("s3://box/a/b"), bucket_and_prefix("s3://box")
    (('box', 'a/b/'), ('box', ''))
    """
    bucket, _, prefix = destination.partition("://")[2].partition("/")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def _is_joined(etag: str) -> bool:
    """Tell whether an object was made of several: ETags as of multipart uploads end in the number of parts.

    >>> _is_joined("0cc175b9c0f1b6a831c399e269772661"), _is_joined("a1-1"), _is_joined("a1-2")
    (False, False, True)
    """
    return "-" in etag and not etag.endswith("-1")


def _ended(lines: Iterable[bytes]) -> list[bytes]:
    return [b"\n".join(lines) + b"\n"]


def _iso(moment: str) -> str:
    """Render ``yyyy/mm/dd/hh/MM-SS-mmm``.

    >>> _iso("2021/02/05/04/15-00-871")
    '2021-02-05T04:15:00.871Z'
    """
    year, month, day, hour, within = moment.split("/")
    minute, second, ms = within.split("-")
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}.{ms}Z"
