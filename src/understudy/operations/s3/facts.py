"""Objects' facts between S3's members and the store's headers, both ways.

Main functions: :func:`headers_of` (in), :func:`members_of` (out).
Source: S3's API reference, PutObject and GetObject.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl

from understudy.core.errors import ApiError
from understudy.core.ports import ObjectInfo
from understudy.operations.s3.errors import invalid_argument
from understudy.operations.services import Services

METADATA_LIMIT_BYTES = 2048
DEFAULT_CONTENT_TYPE = "binary/octet-stream"
CHECKSUM_ALGORITHMS = (
    *("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", "SHA512", "MD5"),
    *("XXHASH64", "XXHASH3", "XXHASH128"),
)
CONTENT_HEADERS = {
    "ContentType": "content-type",
    "CacheControl": "cache-control",
    "ContentDisposition": "content-disposition",
    "ContentEncoding": "content-encoding",
    "ContentLanguage": "content-language",
}
# Kept and echoed; nothing is encrypted, moved or redirected here.
STORAGE_HEADERS = {
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "StorageClass": "x-amz-storage-class",
    "WebsiteRedirectLocation": "x-amz-website-redirect-location",
}
ENCRYPTION_MEMBERS = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")
BUCKET_KEY_HEADER = "x-amz-server-side-encryption-bucket-key-enabled"
EXPIRES_HEADER = "expires"
TAGGING_HEADER = "x-amz-tagging"
# Our own: sizes of a multipart object's parts, run-length encoded: ``8388608*3,1024``.
PART_SIZES_HEADER = "understudy-part-sizes"


def headers_of(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers to store of a PutObject, CreateMultipartUpload or replacing CopyObject."""
    headers = content_headers_of(request) | storage_headers_of(request)
    if request.get("Tagging"):
        parse_tagging(request["Tagging"])
        headers[TAGGING_HEADER] = request["Tagging"]
    return headers


def content_headers_of(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that describe the content."""
    headers = {name: request[member] for member, name in CONTENT_HEADERS.items() if request.get(member)}
    headers.setdefault("content-type", DEFAULT_CONTENT_TYPE)
    # aws-chunked is how the body travelled, not what it is.
    codings = [one.strip() for one in headers.pop("content-encoding", "").split(",")]
    if kept := ", ".join(one for one in codings if one and one.lower() != "aws-chunked"):
        headers["content-encoding"] = kept
    if (expires := request.get("Expires")) is not None:
        headers[EXPIRES_HEADER] = expires if isinstance(expires, str) else _http_date(epoch_s(expires))
    return headers


def storage_headers_of(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that say how to keep the object."""
    headers = {name: request[member] for member, name in STORAGE_HEADERS.items() if request.get(member)}
    if request.get("BucketKeyEnabled"):
        headers[BUCKET_KEY_HEADER] = "true"
    return headers


def metadata_of(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the user's metadata; names are lower-case, as HTTP header names lose their case.

    Raises:
        ApiError: MetadataTooLarge 400.
    """
    metadata = {name.lower(): value for name, value in request.get("Metadata", {}).items()}
    if (
        sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items())
        > METADATA_LIMIT_BYTES
    ):
        raise ApiError(
            "Your metadata headers exceed the maximum allowed metadata size",
            code="MetadataTooLarge",
            status=400,
            members={"MaxSizeAllowed": str(METADATA_LIMIT_BYTES)},
        )
    return metadata


def checksums_of(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums that a request carries, by algorithm."""
    found = {name: request.get(f"Checksum{name}") for name in CHECKSUM_ALGORITHMS}
    return {name: value for name, value in found.items() if value}


def body_of(request: Mapping[str, Any], checksums: dict[str, str]) -> Iterator[bytes]:
    """Yield a request's body; afterwards ``checksums`` holds what came before or behind it.

    A trailer's checksum enters the request when the face has read the last byte.
    """
    body = request.get("Body", b"")
    pieces: Iterable[bytes] = (bytes(body),) if isinstance(body, bytes | bytearray | memoryview) else body
    yield from pieces
    checksums.update(checksums_of(request))


def members_of(info: ObjectInfo) -> dict[str, Any]:
    """Return an object's facts as GetObject and HeadObject tell them, checksums apart."""
    headers = info.headers
    members: dict[str, Any] = {
        "AcceptRanges": "bytes",
        "ContentLength": info.size_bytes,
        "ETag": quoted(info.etag),
        "LastModified": stamp(info.modified_at_s),
        "Metadata": dict(info.metadata),
        "ContentType": headers.get("content-type", DEFAULT_CONTENT_TYPE),
    }
    for member, name in (CONTENT_HEADERS | STORAGE_HEADERS).items():
        if name in headers:
            members[member] = headers[name]
    if members.get("StorageClass") == "STANDARD":  # S3 leaves the usual one out here
        del members["StorageClass"]
    if BUCKET_KEY_HEADER in headers:
        members["BucketKeyEnabled"] = True
    if EXPIRES_HEADER in headers:
        members["Expires"] = _parsed_date(headers[EXPIRES_HEADER])
    if TAGGING_HEADER in headers:
        members["TagCount"] = len(parse_tagging(headers[TAGGING_HEADER]))
    return members


def encryption_members(info_headers: Mapping[str, str]) -> dict[str, Any]:
    """Return what answers to writes say about encryption: the request's own words."""
    members: dict[str, Any] = {
        member: info_headers[STORAGE_HEADERS[member]]
        for member in ENCRYPTION_MEMBERS[:2]
        if STORAGE_HEADERS[member] in info_headers
    }
    if BUCKET_KEY_HEADER in info_headers:
        members["BucketKeyEnabled"] = True
    return members


def checksum_members(checksums: Mapping[str, str]) -> dict[str, str]:
    """Return checksums as members, with their type."""
    members = {f"Checksum{name}": value for name, value in checksums.items()}
    if members:
        members["ChecksumType"] = checksum_type(checksums)
    return members


def checksum_type(checksums: Mapping[str, str]) -> str:
    """Tell composite checksums, which end in ``-N``, from those of a whole object."""
    return "COMPOSITE" if any("-" in value for value in checksums.values()) else "FULL_OBJECT"


def owner_of(services: Services) -> dict[str, str]:
    """Return the one owner of everything; the id has the form of a canonical user id."""
    return {"ID": hashlib.sha256(services.place.account_id.encode()).hexdigest(), "DisplayName": "understudy"}


def quoted(etag: str) -> str:
    """Render an ETag as S3 does."""
    return f'"{etag}"'


def stamp(at_s: float) -> datetime:
    """Render a time."""
    return datetime.fromtimestamp(at_s, UTC)


def epoch_s(value: datetime | float | str) -> float:
    """Read a timestamp of a request as Unix seconds."""
    if isinstance(value, str):
        value = parsedate_to_datetime(value)
    return value.timestamp() if isinstance(value, datetime) else float(value)


def parse_tagging(text: str) -> dict[str, str]:
    """Read tags in the form of a query string.

    >>> parse_tagging("team=ml&stage=a%20b")
    {'team': 'ml', 'stage': 'a b'}
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True) if text else []
    except ValueError:
        raise invalid_argument(
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters "
            "without tag name duplicates.",
            "x-amz-tagging",
            text,
        ) from None
    check_tags(pairs)
    return dict(pairs)


def check_tags(pairs: list[tuple[str, str]]) -> None:
    """Raise InvalidTag 400 or BadRequest 400 unless S3 takes these tags."""
    if len(pairs) > 10:
        raise ApiError("Object tags cannot be greater than 10", code="BadRequest", status=400)
    if len({name for name, _ in pairs}) < len(pairs):
        raise _invalid_tag("Cannot provide multiple Tags with the same key")
    for name, value in pairs:
        if not 1 <= len(name) <= 128:
            raise _invalid_tag("The TagKey you have provided is invalid")
        if len(value) > 256:
            raise _invalid_tag("The TagValue you have provided is invalid")


def _invalid_tag(message: str) -> ApiError:
    return ApiError(message, code="InvalidTag", status=400)


def _http_date(at_s: float) -> str:
    return format_datetime(stamp(at_s), usegmt=True)


def _parsed_date(text: str) -> datetime | str:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return text  # S3 keeps what it was given
