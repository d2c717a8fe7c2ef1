"""What every S3 operation checks first: names, owner, and members that must not be ignored.

Bucket names that pass can never name a scratch bucket (those begin with a dot).
Main function: :func:`guarded`.
Source: S3's user guide, "Bucket naming rules" and "Object key names".
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Any

from understudy.core.errors import ApiError
from understudy.core.object_errors import no_such_bucket
from understudy.operations.s3.errors import access_denied, invalid_argument, not_implemented
from understudy.operations.services import Operation, Services

KEY_LIMIT_BYTES = 1024
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]", re.ASCII)
# Pretending to lock objects or to encrypt with the caller's key would lie about the data.
_REFUSED = {
    "SSECustomerKey": "encryption with customers' keys (SSE-C)",
    "CopySourceSSECustomerKey": "encryption with customers' keys (SSE-C)",
    "ObjectLockMode": "object lock",
    "ObjectLockLegalHoldStatus": "object lock",
    "ObjectLockRetainUntilDate": "object lock",
    "ObjectLockEnabledForBucket": "object lock",
    "WriteOffsetBytes": "appending to objects",
}


def guarded(operation: Operation) -> Operation:
    """Wrap an operation in the checks of this module."""

    @functools.wraps(operation)
    def run(services: Services, request: dict[str, Any]) -> dict[str, Any]:
        for member, what in _REFUSED.items():
            if request.get(member):
                raise not_implemented(what)
        if "Bucket" in request:
            check_bucket_name(request["Bucket"])
        if "Key" in request:
            check_key(request["Key"])
        check_version(request.get("VersionId"))
        for member in ("ExpectedBucketOwner", "ExpectedSourceBucketOwner"):
            if request.get(member) not in (None, services.place.account_id):
                raise access_denied()
        return operation(services, request)

    return run


def check_bucket_name(bucket: str) -> None:
    """Raise InvalidBucketName 400 unless the name is one that S3 gives.

    >>> check_bucket_name("sagemaker-us-east-1-123456789012")
    """
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _is_address(bucket):
        raise ApiError(
            "The specified bucket is not valid.",
            code="InvalidBucketName",
            status=400,
            members={"BucketName": bucket},
        )


def check_key(key: str) -> None:
    """Raise KeyTooLongError or InvalidArgument, 400, unless the key can be stored."""
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise invalid_argument("Object keys are UTF-8.", "key", ascii(key)) from None
    if size_bytes > KEY_LIMIT_BYTES:
        raise ApiError(
            "Your key is too long",
            code="KeyTooLongError",
            status=400,
            members={"Size": str(size_bytes), "MaxSizeAllowed": str(KEY_LIMIT_BYTES)},
        )
    if not size_bytes:
        raise invalid_argument("Object keys have at least one character.", "key", key)


def check_version(version_id: str | None) -> None:
    """Raise unless the version is the only one there is: ``null``, as of a bucket never versioned."""
    if version_id not in (None, "", "null"):
        raise ApiError(
            "The specified version does not exist.",
            code="NoSuchVersion",
            status=404,
            members={"VersionId": version_id},
        )


def require_bucket(services: Services, bucket: str) -> None:
    """Raise NoSuchBucket 404 unless it is there."""
    if all(name != bucket for name, _ in services.buckets.list_buckets()):
        raise no_such_bucket(bucket)


def _is_address(bucket: str) -> bool:
    try:
        ipaddress.IPv4Address(bucket)
    except ValueError:
        return False
    return True
