"""CompleteMultipartUpload: parts are held against what the caller names, and become the object.

The parts' bytes are not read again: ETag and checksums come from the parts' own.
Main function: :func:`complete_multipart_upload`.
Source: S3's API reference, CompleteMultipartUpload.
"""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from understudy.core.errors import ApiError, Conflict
from understudy.core.ports import Joined, ObjectInfo
from understudy.operations.s3 import checksums as arithmetic
from understudy.operations.s3 import uploads
from understudy.operations.s3.conditions import bare_etag, render_part_sizes, write_conditions
from understudy.operations.s3.errors import bad_digest, invalid_request, malformed_xml
from understudy.operations.s3.facts import (
    CHECKSUM_ALGORITHMS,
    PART_SIZES_HEADER,
    checksum_members,
    checksums_of,
    encryption_members,
    quoted,
)
from understudy.operations.s3.uploads import PARTS_LIMIT, Upload
from understudy.operations.services import Operation, Services

SMALLEST_PART_BYTES = 5 << 20


def complete_multipart_upload(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Make the object of the parts that are named, in their order."""
    bucket, key = request["Bucket"], request["Key"]
    named = request.get("MultipartUpload", {}).get("Parts", [])
    if (
        not named
        or len(named) > PARTS_LIMIT
        or any("PartNumber" not in one or "ETag" not in one for one in named)
    ):
        raise malformed_xml()
    etag = _composite_etag([bare_etag(one["ETag"]) for one in named])
    try:
        upload = uploads.find(services, bucket, key, request["UploadId"])
    except ApiError as error:
        info = _completed_before(services, bucket, key, etag) if error.code == "NoSuchUpload" else None
        if info is None:
            raise
        return _completed(services, info)
    stored = uploads.parts_of(services, upload.upload_id)
    parts = _chosen(named, stored)
    if (size := request.get("MpuObjectSize")) is not None and size != sum(one.size_bytes for one in parts):
        raise invalid_request(
            "The provided 'x-amz-mp-object-size' header does not match the parts' total size."
        )
    checksums = _checksums(request, upload, named, parts)
    sizes = {PART_SIZES_HEADER: render_part_sizes([one.size_bytes for one in parts])}
    try:
        info = services.objects.put(
            bucket,
            key,
            Joined(tuple(parts), move=True),
            headers=upload.headers | sizes,
            metadata=upload.metadata,
            checksums=checksums,
            etag=etag,
            **write_conditions(request),
        )
    except Conflict:
        raise _invalid_part(upload.upload_id) from None
    uploads.end(services, upload)
    return _completed(services, info)


def _composite_etag(etags: list[str]) -> str:
    """Return ``md5-of-md5s-N``; an ETag that is no MD5 counts by its text (it will not match a part)."""
    digest = hashlib.md5(usedforsecurity=False)
    for etag in etags:
        digest.update(bytes.fromhex(etag) if re.fullmatch("[0-9a-f]{32}", etag) else etag.encode())
    return f"{digest.hexdigest()}-{len(etags)}"


def _completed_before(services: Services, bucket: str, key: str, etag: str) -> ObjectInfo | None:
    """Return the object that an earlier attempt of the same completion has made; its answer was lost."""
    try:
        info = services.objects.head(bucket, key)
    except ApiError as error:
        if error.code == "NoSuchKey":
            return None
        raise
    return info if info.etag == etag else None


def _chosen(named: list[dict[str, Any]], stored: dict[int, ObjectInfo]) -> list[ObjectInfo]:
    """Hold the named parts against the stored ones.

    Raises:
        ApiError: InvalidPartOrder, InvalidPart or EntityTooSmall, 400.
    """
    numbers = [one["PartNumber"] for one in named]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise ApiError(
            "The list of parts was not in ascending order. Parts must be ordered by part number.",
            code="InvalidPartOrder",
            status=400,
        )
    parts = []
    for one in named:
        info = stored.get(one["PartNumber"])
        if info is None or info.etag != bare_etag(one["ETag"]):
            raise _invalid_part("", one["PartNumber"], one["ETag"])
        if any(info.checksums.get(name, value) != value for name, value in checksums_of(one).items()):
            raise _invalid_part("", one["PartNumber"], one["ETag"])
        parts.append(info)
    for one, info in zip(named[:-1], parts, strict=False):
        if info.size_bytes < SMALLEST_PART_BYTES:
            raise ApiError(
                "Your proposed upload is smaller than the minimum allowed size",
                code="EntityTooSmall",
                status=400,
                members={
                    "ProposedSize": str(info.size_bytes),
                    "MinSizeAllowed": str(SMALLEST_PART_BYTES),
                    "PartNumber": str(one["PartNumber"]),
                    "ETag": info.etag,
                },
            )
    return parts


def _invalid_part(upload_id: str, number: int | None = None, etag: str = "") -> ApiError:
    members = {"UploadId": upload_id} if upload_id else {}
    if number is not None:
        members |= {"PartNumber": str(number), "ETag": bare_etag(etag)}
    return ApiError(
        "One or more of the specified parts could not be found.  The part may not have been uploaded, or the "
        "specified entity tag may not match the part's entity tag.",
        code="InvalidPart",
        status=400,
        members=members,
    )


def _checksums(
    request: dict[str, Any], upload: Upload, named: list[dict[str, Any]], parts: list[ObjectInfo]
) -> dict[str, str]:
    """Return the whole object's checksums: computed from the parts', held against what the caller gives.

    Raises:
        ApiError: BadDigest 400.
    """
    given = checksums_of(request)
    result: dict[str, str] = {}
    for algorithm in CHECKSUM_ALGORITHMS:
        values = [
            info.checksums.get(algorithm) or one.get(f"Checksum{algorithm}")
            for one, info in zip(named, parts, strict=True)
        ]
        known = [value for value in values if value]
        wanted = algorithm == upload.algorithm or algorithm in given
        if not wanted:
            continue
        checksum_type = request.get("ChecksumType") or upload.checksum_type or "FULL_OBJECT"
        computed: str | None = None
        if len(known) == len(parts):
            if checksum_type == "COMPOSITE":
                computed = arithmetic.composite(algorithm, known)
            else:
                sizes = [info.size_bytes for info in parts]
                computed = arithmetic.whole(algorithm, list(zip(known, sizes, strict=True)))
        claimed = given.get(algorithm)
        if (
            claimed is not None
            and computed is not None
            and claimed not in (computed, computed.partition("-")[0])
        ):
            raise bad_digest(algorithm)
        value = computed or claimed
        if value is not None:
            result[algorithm] = value
    return result


def _completed(services: Services, info: ObjectInfo) -> dict[str, Any]:
    return {
        "Location": f"{services.endpoint_url}/{info.bucket}/{quote(info.key)}",
        "Bucket": info.bucket,
        "Key": info.key,
        "ETag": quoted(info.etag),
        **checksum_members(info.checksums),
        **encryption_members(info.headers),
    }


OPERATIONS: dict[str, Operation] = {"CompleteMultipartUpload": complete_multipart_upload}
