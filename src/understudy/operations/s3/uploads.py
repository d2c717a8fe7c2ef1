"""Where multipart uploads under way are kept: in a scratch bucket of the object store itself.

``uploads/BUCKET/ID`` is a small JSON object with what CreateMultipartUpload was told;
``parts/ID/NNNNN`` are the parts.  They survive a restart, no listing shows them, and completing an upload
moves the parts' bytes into the object without copying where the store can.
Whoever ends an upload removes its record first and its parts after; a part that was stored meanwhile finds
no record and removes itself: nothing is left over whichever comes first.
Main functions: :func:`begin`, :func:`find`, :func:`store_part`, :func:`parts_of`, :func:`end`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from understudy.core.errors import ApiError
from understudy.core.ports import Joined, ObjectInfo
from understudy.operations.services import Services

SCRATCH = ".multipart"
PARTS_LIMIT = 10_000
PAGE = 1000
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Upload:
    """One multipart upload under way.

    Attributes:
        algorithm: Of the checksums, empty when none was asked for.
        checksum_type: ``COMPOSITE`` or ``FULL_OBJECT``, empty when none was asked for.
    """

    upload_id: str
    bucket: str
    key: str
    begun_at_s: float
    headers: dict[str, str]
    metadata: dict[str, str]
    algorithm: str
    checksum_type: str


def no_such_upload(upload_id: str) -> ApiError:
    """The upload was never begun, or is completed or aborted."""
    return ApiError(
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been "
        "aborted or completed.",
        code="NoSuchUpload",
        status=404,
        members={"UploadId": upload_id},
    )


def begin(services: Services, upload: Upload) -> None:
    """Remember a new upload."""
    services.buckets.create_bucket(SCRATCH)
    services.objects.put(
        SCRATCH, _record(upload.bucket, upload.upload_id), [json.dumps(asdict(upload)).encode()]
    )


def find(services: Services, bucket: str, key: str, upload_id: str) -> Upload:
    """Return an upload.

    Raises:
        ApiError: NoSuchUpload 404; NoSuchBucket 404 when it is the bucket that is gone.
    """
    upload = _read(services, bucket, upload_id) if _ID.fullmatch(upload_id) else None
    if upload is None or upload.key != key:
        services.objects.list(bucket, limit=1)  # for NoSuchBucket
        raise no_such_upload(upload_id)
    return upload


def uploads_of(services: Services, bucket: str, prefix: str = "") -> list[Upload]:
    """Return a bucket's uploads by key, then by time begun."""
    found = []
    for info in _all(services, f"uploads/{bucket}/"):
        upload = _read(services, bucket, info.key.rpartition("/")[2])
        if upload is not None and upload.key.startswith(prefix):
            found.append(upload)
    return sorted(found, key=lambda one: (one.key, one.begun_at_s, one.upload_id))


def store_part(
    services: Services, upload: Upload, number: int, body: Iterable[bytes] | Joined, checksums: dict[str, str]
) -> ObjectInfo:
    """Store a part, or replace it.

    Raises:
        ApiError: NoSuchUpload 404, also when the upload ended meanwhile.
    """
    info = services.objects.put(SCRATCH, _part(upload.upload_id, number), body, checksums=checksums)
    if _read(services, upload.bucket, upload.upload_id) is None:
        services.objects.delete(SCRATCH, info.key)
        raise no_such_upload(upload.upload_id)
    return info


def parts_of(services: Services, upload_id: str) -> dict[int, ObjectInfo]:
    """Return the parts stored so far by number, in order."""
    return {int(info.key.rpartition("/")[2]): info for info in _all(services, f"parts/{upload_id}/")}


def end(services: Services, upload: Upload) -> None:
    """Forget an upload and the parts that are still its own."""
    services.objects.delete(SCRATCH, _record(upload.bucket, upload.upload_id))
    keys = [info.key for info in _all(services, f"parts/{upload.upload_id}/")]
    for start in range(0, len(keys), PAGE):
        services.objects.delete(SCRATCH, *keys[start : start + PAGE])


def _record(bucket: str, upload_id: str) -> str:
    return f"uploads/{bucket}/{upload_id}"


def _part(upload_id: str, number: int) -> str:
    return f"parts/{upload_id}/{number:05}"


def _read(services: Services, bucket: str, upload_id: str) -> Upload | None:
    try:
        return Upload(**json.loads(b"".join(services.objects.read(SCRATCH, _record(bucket, upload_id)))))
    except ApiError as error:
        if error.code in ("NoSuchKey", "NoSuchBucket"):
            return None
        raise


def _all(services: Services, prefix: str) -> Iterator[ObjectInfo]:
    after = ""
    while True:
        try:
            found = services.objects.list(SCRATCH, prefix, after, PAGE)
        except ApiError as error:
            if error.code == "NoSuchBucket":  # no upload was ever begun
                return
            raise
        yield from found
        if len(found) < PAGE:
            return
        after = found[-1].key
