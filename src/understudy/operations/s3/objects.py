"""Objects: put, get, head, delete, attributes.

Source: S3's API reference.
"""

from __future__ import annotations

from typing import Any

from understudy.core.errors import ApiError
from understudy.core.ports import ObjectInfo
from understudy.operations.s3.conditions import (
    Window,
    bare_etag,
    check_read,
    part_sizes,
    window_of,
    write_conditions,
)
from understudy.operations.s3.errors import malformed_xml
from understudy.operations.s3.facts import (
    CONTENT_HEADERS,
    body_of,
    checksum_members,
    encryption_members,
    epoch_s,
    headers_of,
    members_of,
    metadata_of,
    quoted,
    stamp,
)
from understudy.operations.s3.guard import check_key, check_version
from understudy.operations.services import Operation, Services

KEYS_PER_DELETE = 1000


def put_object(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Store an object; its checksums were held against the bytes by whoever read them."""
    checksums: dict[str, str] = {}
    info = services.objects.put(
        request["Bucket"],
        request["Key"],
        body_of(request, checksums),
        headers=headers_of(request),
        metadata=metadata_of(request),
        checksums=checksums,
        **write_conditions(request),
    )
    return {
        "ETag": quoted(info.etag),
        **checksum_members(info.checksums),
        **encryption_members(info.headers),
    }


def get_object(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Return an object, or a range of it, with a streaming Body."""
    bucket, key = request["Bucket"], request["Key"]
    while True:
        info = services.objects.head(bucket, key)
        check_read(request, info)
        window = window_of(request, info)
        reading = services.objects.read(bucket, key, window.start, window.length)
        if _version(reading.info) == _version(info):
            return {**_told(request, info, window), "Body": reading}
        reading.close()  # replaced in between: conditions and range are to be held against the new one


def head_object(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Return what GetObject would, without the bytes."""
    info = services.objects.head(request["Bucket"], request["Key"])
    check_read(request, info)
    return _told(request, info, window_of(request, info))


def delete_object(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Remove an object; a missing one is no error."""
    bucket, key, match = request["Bucket"], request["Key"], request.get("IfMatch")
    services.objects.delete(
        bucket, key, if_match=bare_etag(match) if match is not None and match != "*" else None
    )
    return {}


def delete_objects(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Remove up to 1,000 objects; what can't be removed is told per key."""
    bucket, wanted = request["Bucket"], request["Delete"].get("Objects", [])
    if not 1 <= len(wanted) <= KEYS_PER_DELETE:
        raise malformed_xml()
    deleted: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    plain: list[str] = []
    for one in wanted:
        try:
            check_key(one["Key"])
            check_version(one.get("VersionId"))
            if one.get("ETag") is not None:
                services.objects.delete(bucket, one["Key"], if_match=bare_etag(one["ETag"]))
            else:
                plain.append(one["Key"])
            deleted.append({"Key": one["Key"]})
        except ApiError as error:
            if error.code == "NoSuchBucket":
                raise
            errors.append({"Key": one["Key"], "Code": error.code, "Message": error.message})
    services.objects.delete(bucket, *plain)
    answer: dict[str, Any] = {}
    if deleted and not request["Delete"].get("Quiet"):
        answer["Deleted"] = deleted
    if errors:
        answer["Errors"] = errors
    return answer


def get_object_attributes(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that were asked for."""
    info = services.objects.head(request["Bucket"], request["Key"])
    wanted = request["ObjectAttributes"]
    answer: dict[str, Any] = {"LastModified": stamp(info.modified_at_s)}
    if "ETag" in wanted:
        answer["ETag"] = info.etag  # without quotes, unlike everywhere else
    if "Checksum" in wanted and info.checksums:
        answer["Checksum"] = checksum_members(info.checksums)
    if "ObjectParts" in wanted and (sizes := part_sizes(info)) is not None:
        answer["ObjectParts"] = {"TotalPartsCount": len(sizes)}
    if "StorageClass" in wanted:
        answer["StorageClass"] = info.headers.get("x-amz-storage-class", "STANDARD")
    if "ObjectSize" in wanted:
        answer["ObjectSize"] = info.size_bytes
    return answer


def _version(info: ObjectInfo) -> tuple[str, int, float]:
    return info.etag, info.size_bytes, info.modified_at_s


def _told(request: dict[str, Any], info: ObjectInfo, window: Window) -> dict[str, Any]:
    """Return the members of GetObject and HeadObject."""
    members = members_of(info)
    members["ContentLength"] = window.length
    if window.partial:
        last = window.start + window.length - 1
        members["ContentRange"] = f"bytes {window.start}-{last}/{info.size_bytes}"
    elif request.get("ChecksumMode") == "ENABLED":  # of the whole: useless to who gets a range
        members |= checksum_members(info.checksums)
    if window.parts_count is not None:
        members["PartsCount"] = window.parts_count
    for member in CONTENT_HEADERS:
        if (override := request.get(f"Response{member}")) is not None:
            members[member] = override
    if (expires := request.get("ResponseExpires")) is not None:
        members["Expires"] = stamp(epoch_s(expires))
    return members


OPERATIONS: dict[str, Operation] = {
    "PutObject": put_object,
    "GetObject": get_object,
    "HeadObject": head_object,
    "DeleteObject": delete_object,
    "DeleteObjects": delete_objects,
    "GetObjectAttributes": get_object_attributes,
}
