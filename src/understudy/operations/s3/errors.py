"""S3's errors that no store raises, in its codes and words."""

from __future__ import annotations

from typing import Any

from understudy.core.errors import ApiError


def invalid_argument(message: str, name: str, value: object) -> ApiError:
    """A value that S3 does not take."""
    return ApiError(
        message,
        code="InvalidArgument",
        status=400,
        members={"ArgumentName": name, "ArgumentValue": str(value)},
    )


def invalid_request(message: str) -> ApiError:
    """Values that do not go together."""
    return ApiError(message, code="InvalidRequest", status=400)


def malformed_xml() -> ApiError:
    """A body that parses but breaks the schema."""
    return ApiError(
        "The XML you provided was not well-formed or did not validate against our published schema",
        code="MalformedXML",
        status=400,
    )


def bad_digest(algorithm: str) -> ApiError:
    """A checksum is not that of the bytes."""
    return ApiError(
        f"The {algorithm} you specified did not match the calculated checksum.", code="BadDigest", status=400
    )


def not_implemented(what: str) -> ApiError:
    """Something that must not be ignored and is not there."""
    return ApiError(
        f"Understudy's object store does not implement {what}.", code="NotImplemented", status=501
    )


def access_denied() -> ApiError:
    """The bucket is not the expected owner's."""
    return ApiError("Access Denied", code="AccessDenied", status=403)


def invalid_range(header: str, size_bytes: int) -> ApiError:
    """No byte of the object is in the range."""
    members: dict[str, Any] = {"RangeRequested": header, "ActualObjectSize": str(size_bytes)}
    return ApiError(
        "The requested range is not satisfiable", code="InvalidRange", status=416, members=members
    )
