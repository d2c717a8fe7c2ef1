"""Errors a caller can see, each with its wire code and HTTP status.

The tree::

    ApiError                      any modelled error of any service
    ├── ValidationException 400   SageMaker control plane: bad value, duplicate, missing, wrong state
    ├── ResourceNotFound 400      SageMaker jobs, monitors, tags
    ├── ResourceInUse 400         SageMaker: duplicate job
    ├── ConflictException 400     SageMaker: inference experiment in the wrong state
    ├── ResourceLimitExceeded 400
    ├── NotImplementedOperation 501   an operation that this version does not have
    └── RuntimeApiError           sagemaker-runtime (rendered by the router)
        ├── ValidationError 400
        ├── ModelError 424
        ├── ThrottlingException 400
        ├── ServiceUnavailable 503
        └── InternalFailure 500

Other services (S3, CloudWatch, STS, ...) raise :class:`ApiError` with their own codes.

Source: botocore's service models and recorded notebook outputs of AWS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """An error with a wire form.

    Args:
        message: Text for the caller; says what to do where it can.
        code: AWS's error code, e.g. ``"NoSuchKey"``.
        status: HTTP status.
        members: Further members of the modelled error structure, by their wire names.
    """

    code: str = "InternalFailure"
    status: int = 500

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status
        self.members: dict[str, Any] = dict(members or {})


class ValidationException(ApiError):
    """Bad value, duplicate, missing resource or wrong state on SageMaker's control plane."""

    code = "ValidationException"
    status = 400


class ResourceNotFound(ApiError):
    """A job, schedule or tagged resource does not exist."""

    code = "ResourceNotFound"
    status = 400


class ResourceInUse(ApiError):
    """A job of this name exists."""

    code = "ResourceInUse"
    status = 400


class ConflictException(ApiError):
    """An inference experiment is not in a state that allows the request."""

    code = "ConflictException"
    status = 400


class ResourceLimitExceeded(ApiError):
    """A limit of the server would be passed."""

    code = "ResourceLimitExceeded"
    status = 400


class NotImplementedOperation(ApiError):
    """AWS has this operation, this version of Understudy has not."""

    code = "NotImplemented"
    status = 501

    def __init__(self, service: str, operation: str) -> None:
        super().__init__(
            f"Understudy does not implement {service}.{operation}. docs/operations.md lists what it does."
        )


class RuntimeApiError(ApiError):
    """An error of InvokeEndpoint and its kin."""


class ValidationError(RuntimeApiError):
    """Unknown endpoint or variant, body too large, bad header (runtime spelling: not ...Exception)."""

    code = "ValidationError"
    status = 400


class ModelError(RuntimeApiError):
    """The model answered 4xx/5xx, crashed or timed out.

    ``members`` carry OriginalStatusCode, OriginalMessage and LogStreamArn.
    """

    code = "ModelError"
    status = 424


class ThrottlingException(RuntimeApiError):
    """A bounded queue is full."""

    code = "ThrottlingException"
    status = 400


class ServiceUnavailable(RuntimeApiError):
    """No instance can answer now."""

    code = "ServiceUnavailable"
    status = 503


class InternalFailure(RuntimeApiError):
    """Our own fault."""

    code = "InternalFailure"
    status = 500


class Conflict(Exception):
    """A record changed, appeared or vanished between read and commit; read again and retry.

    Never reaches a caller: operations translate it.
    """
