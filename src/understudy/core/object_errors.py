"""The errors of object stores, in S3's codes and words.

Stores and S3's operations raise the same ones, whichever store is behind.
Source: S3's API reference, "Error responses".
"""

from __future__ import annotations

from understudy.core.errors import ApiError


def no_such_bucket(bucket: str) -> ApiError:
    """The bucket is not there."""
    return ApiError(
        "The specified bucket does not exist",
        code="NoSuchBucket",
        status=404,
        members={"BucketName": bucket},
    )


def no_such_key(key: str) -> ApiError:
    """The object is not there."""
    return ApiError("The specified key does not exist.", code="NoSuchKey", status=404, members={"Key": key})


def bucket_not_empty(bucket: str) -> ApiError:
    """A bucket that still holds objects was to be removed."""
    return ApiError(
        "The bucket you tried to delete is not empty",
        code="BucketNotEmpty",
        status=409,
        members={"BucketName": bucket},
    )


def precondition_failed(condition: str) -> ApiError:
    """A condition of the request does not hold; ``condition`` is the header's name."""
    return ApiError(
        "At least one of the pre-conditions you specified did not hold",
        code="PreconditionFailed",
        status=412,
        members={"Condition": condition},
    )


def insufficient_storage() -> ApiError:
    """The disk is full: nothing was stored, and the same request works once there is room."""
    return ApiError(
        "The server's disk is full; nothing was stored. Free some space and send the request again.",
        code="InsufficientStorage",
        status=503,
    )


def refuse_unless(key: str, etag: str | None, *, if_match: str | None, if_absent: bool) -> None:
    """Hold a write against its conditions.

    Args:
        etag: Of the object that is there, None when there is none.

    Raises:
        ApiError: NoSuchKey 404, PreconditionFailed 412.
    """
    if if_absent and etag is not None:
        raise precondition_failed("If-None-Match")
    if if_match is not None:
        if etag is None:
            raise no_such_key(key)
        if etag != if_match:
            raise precondition_failed("If-Match")
