"""ListObjects, versions 1 and 2.

Keys come in the order of their UTF-8 bytes; those that share a prefix up to the delimiter roll up.
Main function: :func:`roll_up`.
Source: S3's API reference, ListObjects and ListObjectsV2; a marker inside a rolled-up prefix resumes behind
that prefix, as Ceph's s3-tests want it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from understudy.core.ports import ObjectInfo
from understudy.operations.s3.errors import invalid_argument
from understudy.operations.s3.facts import checksum_type, owner_of, quoted, stamp
from understudy.operations.s3.guard import KEY_LIMIT_BYTES
from understudy.operations.s3.tokens import parse_token, render_token
from understudy.operations.services import Operation, Services

PAGE_LIMIT = 1000
ROLLING_STEP = 16


@dataclass(frozen=True)
class Page:
    """One page of a listing.

    Attributes:
        last: The last key or rolled-up prefix of the page; a listing resumes behind it.
    """

    contents: list[ObjectInfo]
    prefixes: list[str]
    truncated: bool
    last: str


def list_objects(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List by marker."""
    encode = encoder_of(request)
    limit = page_limit(request.get("MaxKeys"), "max-keys")
    marker = request.get("Marker", "")
    page = _page(services, request, marker, limit)
    answer = _told(services, request, page, limit, encode, owners=True)
    answer["Marker"] = encode(marker)
    if page.truncated and request.get("Delimiter"):
        answer["NextMarker"] = encode(page.last)
    return answer


def list_objects_v2(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List by continuation token."""
    encode = encoder_of(request)
    limit = page_limit(request.get("MaxKeys"), "max-keys")
    token = request.get("ContinuationToken")
    after = parse_token(token) if token is not None else request.get("StartAfter", "")
    page = _page(services, request, after, limit)
    answer = _told(services, request, page, limit, encode, owners=bool(request.get("FetchOwner")))
    answer["KeyCount"] = len(page.contents) + len(page.prefixes)
    if token is not None:
        answer["ContinuationToken"] = token
    if "StartAfter" in request:
        answer["StartAfter"] = encode(request["StartAfter"])
    if page.truncated:
        answer["NextContinuationToken"] = render_token(page.last)
    return answer


def roll_up(
    read: Callable[[str, int], list[ObjectInfo]], *, prefix: str, delimiter: str, after: str, limit: int
) -> Page:
    """Collect one page of keys and rolled-up prefixes.

    Args:
        read: Returns objects under the prefix behind a key, in order, so many at most.
    """
    contents: list[ObjectInfo] = []
    prefixes: list[str] = []
    last = after
    if rolled := rolled_up(after, prefix, delimiter):
        after = _behind(rolled)
    # Few at a time where they roll up, many where they don't.
    step = ROLLING_STEP if delimiter else PAGE_LIMIT
    while True:
        # One more than the page holds tells whether there is more.
        wanted = min(step, limit - len(contents) - len(prefixes)) + 1
        found = read(after, wanted)
        skipped = 0
        for info in found:
            if info.key <= after:
                skipped += 1  # under a prefix that was rolled up within this batch
                continue
            if len(contents) + len(prefixes) == limit:
                return Page(contents, prefixes, True, last)
            if rolled := rolled_up(info.key, prefix, delimiter):
                prefixes.append(rolled)
                last, after = rolled, _behind(rolled)
            else:
                contents.append(info)
                last = after = info.key
        if len(found) < wanted:
            return Page(contents, prefixes, False, last)
        step = ROLLING_STEP if 2 * skipped > len(found) else min(2 * step, PAGE_LIMIT)


def page_limit(asked: int | None, name: str) -> int:
    """Return the size of a page: 1,000 unless fewer are asked for."""
    if asked is None:
        return PAGE_LIMIT
    if asked < 0:
        raise invalid_argument(f"Argument {name} must be an integer between 0 and 2147483647", name, asked)
    return min(asked, PAGE_LIMIT)


def encoder_of(request: dict[str, Any]) -> Callable[[str], str]:
    """Return how keys are written in the answer: as they are, or URL-encoded."""
    encoding = request.get("EncodingType")
    if encoding is None:
        return str
    if encoding != "url":
        raise invalid_argument("Invalid Encoding Method specified in Request", "encoding-type", encoding)
    return quote


def rolled_up(key: str, prefix: str, delimiter: str) -> str:
    """Return the common prefix that a key rolls up to; empty when it stands for itself.

    >>> rolled_up("a/b/c", "a/", "/"), rolled_up("a/b", "a/", "/")
    ('a/b/', '')
    """
    if not delimiter or not key.startswith(prefix):
        return ""
    head, found, _ = key[len(prefix) :].partition(delimiter)
    return prefix + head + delimiter if found else ""


def _behind(prefix: str) -> str:
    """Return a key that sorts behind those with the prefix: the largest character up to a key's limit."""
    return prefix + "\U0010ffff" * ((KEY_LIMIT_BYTES - len(prefix.encode())) // 4)


def _page(services: Services, request: dict[str, Any], after: str, limit: int) -> Page:
    bucket, prefix = request["Bucket"], request.get("Prefix", "")
    if limit == 0:
        services.objects.list(bucket, prefix, after, 1)  # for NoSuchBucket
        return Page([], [], False, after)
    return roll_up(
        lambda behind, count: services.objects.list(bucket, prefix, behind, count),
        prefix=prefix,
        delimiter=request.get("Delimiter", ""),
        after=after,
        limit=limit,
    )


def _told(
    services: Services,
    request: dict[str, Any],
    page: Page,
    limit: int,
    encode: Callable[[str], str],
    *,
    owners: bool,
) -> dict[str, Any]:
    """Return what both versions of the listing tell."""
    answer: dict[str, Any] = {
        "IsTruncated": page.truncated,
        "Name": request["Bucket"],
        "Prefix": encode(request.get("Prefix", "")),
        "MaxKeys": limit,
    }
    if request.get("Delimiter"):
        answer["Delimiter"] = encode(request["Delimiter"])
    if "EncodingType" in request:
        answer["EncodingType"] = request["EncodingType"]
    if page.contents:
        answer["Contents"] = [_entry(info, encode) for info in page.contents]
        if owners:
            for entry in answer["Contents"]:
                entry["Owner"] = owner_of(services)
    if page.prefixes:
        answer["CommonPrefixes"] = prefix_entries(page.prefixes, encode)
    return answer


def prefix_entries(prefixes: Iterable[str], encode: Callable[[str], str]) -> list[dict[str, str]]:
    """Render common prefixes."""
    return [{"Prefix": encode(prefix)} for prefix in prefixes]


def _entry(info: ObjectInfo, encode: Callable[[str], str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "Key": encode(info.key),
        "LastModified": stamp(info.modified_at_s),
        "ETag": quoted(info.etag),
        "Size": info.size_bytes,
        "StorageClass": info.headers.get("x-amz-storage-class", "STANDARD"),
    }
    if info.checksums:
        entry["ChecksumAlgorithm"] = sorted(info.checksums)
        entry["ChecksumType"] = checksum_type(info.checksums)
    return entry


OPERATIONS: dict[str, Operation] = {"ListObjects": list_objects, "ListObjectsV2": list_objects_v2}
