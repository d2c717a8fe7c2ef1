"""Multipart uploads: begin, parts, abort, list; :mod:`completing` has the end.

Source: S3's API reference, CreateMultipartUpload and UploadPart.
"""

from __future__ import annotations

import re
from typing import Any

from understudy.core.errors import Conflict
from understudy.core.ports import Joined, ObjectInfo
from understudy.operations.s3 import uploads
from understudy.operations.s3.copying import parse_copy_source, source_of, until_settled
from understudy.operations.s3.errors import (
    invalid_argument,
    invalid_request,
)
from understudy.operations.s3.facts import (
    body_of,
    checksum_members,
    encryption_members,
    headers_of,
    metadata_of,
    owner_of,
    quoted,
    stamp,
)
from understudy.operations.s3.guard import require_bucket
from understudy.operations.s3.listing import encoder_of, page_limit, prefix_entries, rolled_up
from understudy.operations.s3.uploads import PARTS_LIMIT, Upload
from understudy.operations.services import Operation, Services

_COPY_RANGE = re.compile(r"bytes=(\d+)-(\d+)", re.ASCII)


def create_multipart_upload(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Begin an upload."""
    bucket, key = request["Bucket"], request["Key"]
    require_bucket(services, bucket)
    algorithm = request.get("ChecksumAlgorithm", "")
    checksum_type = request.get("ChecksumType", "")
    if checksum_type and not algorithm:
        raise invalid_request(
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm."
        )
    if algorithm and not checksum_type:
        checksum_type = "FULL_OBJECT" if algorithm == "CRC64NVME" else "COMPOSITE"
    upload = Upload(
        services.entropy.token(32),
        bucket,
        key,
        services.clock.now_s(),
        headers_of(request),
        metadata_of(request),
        algorithm,
        checksum_type,
    )
    uploads.begin(services, upload)
    return {
        "Bucket": bucket,
        "Key": key,
        "UploadId": upload.upload_id,
        **_checksum_choice(upload),
        **encryption_members(upload.headers),
    }


def upload_part(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Store a part."""
    upload = _upload(services, request)
    number = _part_number(request)
    checksums: dict[str, str] = {}
    info = uploads.store_part(services, upload, number, body_of(request, checksums), checksums)
    members = checksum_members(info.checksums)
    members.pop("ChecksumType", None)
    return {"ETag": quoted(info.etag), **members, **encryption_members(upload.headers)}


def upload_part_copy(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Store a part that is an object's bytes, or a range of them."""
    upload = _upload(services, request)
    number = _part_number(request)
    bucket, key = parse_copy_source(request["CopySource"])

    def attempt() -> ObjectInfo:
        source = source_of(services, request, bucket, key)
        if "CopySourceRange" not in request:
            return uploads.store_part(services, upload, number, Joined((source,)), {})
        start, length = _copy_range(request["CopySourceRange"], source)
        reading = services.objects.read(bucket, key, start, length)
        if (reading.info.etag, reading.info.size_bytes) != (source.etag, source.size_bytes):
            reading.close()
            raise Conflict(f"{bucket}/{key} changed before it could be copied")
        return uploads.store_part(services, upload, number, reading, {})

    info = until_settled(attempt)
    result = {"ETag": quoted(info.etag), "LastModified": stamp(info.modified_at_s)}
    return {"CopyPartResult": result, **encryption_members(upload.headers)}


def abort_multipart_upload(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Forget an upload and its parts."""
    uploads.end(services, _upload(services, request))
    return {}


def list_parts(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List the parts stored so far."""
    upload = _upload(services, request)
    limit = page_limit(request.get("MaxParts"), "max-parts")
    marker = int(request.get("PartNumberMarker") or 0)
    found = [one for one in uploads.parts_of(services, upload.upload_id).items() if one[0] > marker]
    page = found[:limit]
    answer: dict[str, Any] = {
        "Bucket": upload.bucket,
        "Key": upload.key,
        "UploadId": upload.upload_id,
        "PartNumberMarker": marker,
        "NextPartNumberMarker": page[-1][0] if page else 0,
        "MaxParts": limit,
        "IsTruncated": len(page) < len(found) and limit > 0,
        "Owner": owner_of(services),
        "Initiator": owner_of(services),
        "StorageClass": upload.headers.get("x-amz-storage-class", "STANDARD"),
        **_checksum_choice(upload),
    }
    if page:
        answer["Parts"] = [_part_entry(number, info) for number, info in page]
    return answer


def list_multipart_uploads(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List the uploads under way in a bucket."""
    bucket, prefix = request["Bucket"], request.get("Prefix", "")
    require_bucket(services, bucket)
    encode = encoder_of(request)
    limit = page_limit(request.get("MaxUploads"), "max-uploads")
    key_marker, id_marker = request.get("KeyMarker", ""), request.get("UploadIdMarker", "")
    delimiter = request.get("Delimiter", "")
    # (key or rolled-up prefix, upload or None for a prefix), in order
    entries: list[tuple[str, Upload | None]] = []
    for one in _behind_marker(uploads.uploads_of(services, bucket, prefix), key_marker, id_marker):
        rolled = rolled_up(one.key, prefix, delimiter)
        if not rolled:
            entries.append((one.key, one))
        elif (rolled, None) not in entries[-1:] and not key_marker.startswith(rolled):
            entries.append((rolled, None))
    page = entries[:limit]
    answer: dict[str, Any] = {
        "Bucket": bucket,
        "Prefix": encode(prefix),
        "KeyMarker": encode(key_marker),
        "UploadIdMarker": id_marker,
        "MaxUploads": limit,
        "IsTruncated": len(page) < len(entries) and limit > 0,
    }
    if delimiter:
        answer["Delimiter"] = encode(delimiter)
    if "EncodingType" in request:
        answer["EncodingType"] = request["EncodingType"]
    if answer["IsTruncated"]:
        name, upload = page[-1]
        answer["NextKeyMarker"] = encode(name)
        answer["NextUploadIdMarker"] = upload.upload_id if upload is not None else ""
    if found := [_upload_entry(services, one, encode(name)) for name, one in page if one is not None]:
        answer["Uploads"] = found
    if prefixes := [name for name, one in page if one is None]:
        answer["CommonPrefixes"] = prefix_entries(prefixes, encode)
    return answer


def forget_uploads(services: Services, bucket: str) -> None:
    """Forget the uploads of a bucket that is gone."""
    for upload in uploads.uploads_of(services, bucket):
        uploads.end(services, upload)


def _upload(services: Services, request: dict[str, Any]) -> Upload:
    return uploads.find(services, request["Bucket"], request["Key"], request["UploadId"])


def _part_number(request: dict[str, Any]) -> int:
    number: int = request["PartNumber"]
    if not 1 <= number <= PARTS_LIMIT:
        raise invalid_argument(
            f"Part number must be an integer between 1 and {PARTS_LIMIT}, inclusive", "partNumber", number
        )
    return number


def _copy_range(header: str, source: ObjectInfo) -> tuple[int, int]:
    match = _COPY_RANGE.fullmatch(header)
    if match is None:
        raise invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are "
            "the zero-based offsets of the first and last bytes to copy",
            "x-amz-copy-source-range",
            header,
        )
    first, last = int(match[1]), int(match[2])
    if not first <= last < source.size_bytes:
        raise invalid_argument(
            f"Range specified is not valid for source object of size: {source.size_bytes}",
            "x-amz-copy-source-range",
            header,
        )
    return first, last - first + 1


def _behind_marker(found: list[Upload], key_marker: str, id_marker: str) -> list[Upload]:
    """Return the uploads behind the marker: with an id those behind it, without one those of later keys."""
    behind = [one for one in found if one.key > key_marker]
    same = [one for one in found if one.key == key_marker]
    places = [place for place, one in enumerate(same, 1) if one.upload_id == id_marker]
    return (same[places[0] :] if places else []) + behind


def _upload_entry(services: Services, upload: Upload, key: str) -> dict[str, Any]:
    return {
        "Key": key,
        "UploadId": upload.upload_id,
        "Initiated": stamp(upload.begun_at_s),
        "StorageClass": upload.headers.get("x-amz-storage-class", "STANDARD"),
        "Owner": owner_of(services),
        "Initiator": owner_of(services),
        **_checksum_choice(upload),
    }


def _checksum_choice(upload: Upload) -> dict[str, str]:
    if not upload.algorithm:
        return {}
    return {"ChecksumAlgorithm": upload.algorithm, "ChecksumType": upload.checksum_type}


def _part_entry(number: int, info: ObjectInfo) -> dict[str, Any]:
    members = checksum_members(info.checksums)
    members.pop("ChecksumType", None)
    return {
        "PartNumber": number,
        "LastModified": stamp(info.modified_at_s),
        "ETag": quoted(info.etag),
        "Size": info.size_bytes,
        **members,
    }


OPERATIONS: dict[str, Operation] = {
    "CreateMultipartUpload": create_multipart_upload,
    "UploadPart": upload_part,
    "UploadPartCopy": upload_part_copy,
    "AbortMultipartUpload": abort_multipart_upload,
    "ListParts": list_parts,
    "ListMultipartUploads": list_multipart_uploads,
}
