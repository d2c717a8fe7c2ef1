"""CopyObject, and what UploadPartCopy shares with it: finding the source.

An embedded store copies no bytes: the copy is another name for the same data.
Main functions: :func:`copy_object`, :func:`source_of`.
Source: S3's API reference, CopyObject.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote

from understudy.core.errors import ApiError, Conflict
from understudy.core.ports import Joined, ObjectInfo
from understudy.operations.s3.conditions import check_copy, write_conditions
from understudy.operations.s3.errors import invalid_argument, invalid_request
from understudy.operations.s3.facts import (
    CONTENT_HEADERS,
    EXPIRES_HEADER,
    TAGGING_HEADER,
    checksum_members,
    checksum_type,
    content_headers_of,
    encryption_members,
    metadata_of,
    parse_tagging,
    quoted,
    stamp,
    storage_headers_of,
)
from understudy.operations.s3.guard import check_bucket_name, check_key, check_version
from understudy.operations.services import Operation, Services

ATTEMPTS = 8

T = TypeVar("T")


def copy_object(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Copy an object, with its metadata or with new ones.

    Differs from AWS: sources above 5 GiB are taken too.
    """
    source_bucket, source_key = parse_copy_source(request["CopySource"])

    def attempt() -> ObjectInfo:
        source = source_of(services, request, source_bucket, source_key)
        if (source_bucket, source_key) == (request["Bucket"], request["Key"]) and not _changes(request):
            raise invalid_request(
                "This copy request is illegal because it is trying to copy an object to itself without "
                "changing the object's metadata, storage class, website redirect location or encryption "
                "attributes."
            )
        # A composite checksum is that of the source's parts, and a copy has none.
        keep = source.checksums if checksum_type(source.checksums) == "FULL_OBJECT" else {}
        return services.objects.put(
            request["Bucket"],
            request["Key"],
            Joined((source,)),
            headers=_headers(request, source),
            metadata=metadata_of(request) if _replaces(request, "Metadata") else source.metadata,
            checksums=keep,
            **write_conditions(request),
        )

    info = until_settled(attempt)
    result = {
        "ETag": quoted(info.etag),
        "LastModified": stamp(info.modified_at_s),
        **checksum_members(info.checksums),
    }
    return {"CopyObjectResult": result, **encryption_members(info.headers)}


def until_settled(attempt: Callable[[], T]) -> T:
    """Repeat what meets a source that is being replaced.

    Raises:
        ApiError: OperationAborted 409 when it changes each time.
    """
    for _ in range(ATTEMPTS):
        try:
            return attempt()
        except Conflict:
            continue
    raise ApiError(
        "A conflicting conditional operation is currently in progress against this resource. Try again.",
        code="OperationAborted",
        status=409,
    )


def parse_copy_source(text: str) -> tuple[str, str]:
    """Split ``/bucket/key?versionId=...``, URL-encoded, into bucket and key.

    >>> parse_copy_source("models/a%20b%2B.tar.gz")
    ('models', 'a b+.tar.gz')
    """
    path, _, version_id = text.partition("?versionId=")
    bucket, slash, key = unquote(path).removeprefix("/").partition("/")
    if not slash or not key or bucket.startswith("arn:"):
        raise invalid_argument(
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            "x-amz-copy-source",
            text,
        )
    check_version(version_id)
    check_bucket_name(bucket)
    check_key(key)
    return bucket, key


def source_of(services: Services, request: dict[str, Any], bucket: str, key: str) -> ObjectInfo:
    """Return the source's facts, its conditions held against them."""
    info = services.objects.head(bucket, key)
    check_copy(request, info)
    return info


def _replaces(request: dict[str, Any], what: str) -> bool:
    directive = request.get(f"{what}Directive", "COPY")
    if directive not in ("COPY", "REPLACE"):
        raise invalid_argument("Unknown directive.", f"x-amz-{what.lower()}-directive", directive)
    return bool(directive == "REPLACE")


def _changes(request: dict[str, Any]) -> bool:
    return (
        _replaces(request, "Metadata") or _replaces(request, "Tagging") or bool(storage_headers_of(request))
    )


def _headers(request: dict[str, Any], source: ObjectInfo) -> dict[str, str]:
    if _replaces(request, "Metadata"):
        headers = content_headers_of(request)
    else:
        copied = (*CONTENT_HEADERS.values(), EXPIRES_HEADER)
        headers = {name: source.headers[name] for name in copied if name in source.headers}
    if _replaces(request, "Tagging"):
        if request.get("Tagging"):
            parse_tagging(request["Tagging"])
            headers[TAGGING_HEADER] = request["Tagging"]
    elif TAGGING_HEADER in source.headers:
        headers[TAGGING_HEADER] = source.headers[TAGGING_HEADER]
    return headers | storage_headers_of(request)


OPERATIONS: dict[str, Operation] = {"CopyObject": copy_object}
