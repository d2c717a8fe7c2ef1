"""How the console's face answers: JSON, errors of one form, headers that bind the browser.

Every error is ``{"code": ..., "message": ...}``, also what an operation of the API refuses.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from understudy.core.errors import ApiError

# Nothing but our own files; no inline script or style; text never becomes markup (Trusted Types).
POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
WORTH_PACKING_BYTES = 2048


class BadRequest(ApiError):
    """A question the console can't read."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="BadRequest", status=400)


def json_answer(value: Any, status: int = 200) -> Response:
    """Answer with JSON; NaN and infinities become null."""
    return Response(
        msgspec.json.encode(value), status, {"cache-control": "no-store"}, media_type="application/json"
    )


def refusal(error: ApiError) -> Response:
    """Answer with an error."""
    return json_answer({"code": error.code, "message": error.message}, error.status)


def secured(response: Response) -> None:
    """Add what binds the browser; keep answers out of caches unless they say otherwise."""
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("cache-control", "no-store")


def gzipped(request: Request, response: Response) -> Response:
    """Compress an answer that is worth it."""
    body = bytes(response.body)
    if len(body) < WORTH_PACKING_BYTES or "gzip" not in request.headers.get("accept-encoding", ""):
        return response
    packed = gzip.compress(body, 1, mtime=0)
    headers = {"content-encoding": "gzip", "vary": "accept-encoding", "cache-control": "no-store"}
    return Response(packed, response.status_code, headers, media_type=response.media_type)


def text(query: Mapping[str, str], name: str) -> str:
    """Read a parameter that must be there.

    Raises:
        BadRequest: it is not.
    """
    value = query.get(name)
    if not value:
        raise BadRequest(f"{name} is missing.")
    return value


def number(
    query: Mapping[str, str], name: str, least: float, most: float, *, default: float | None = None
) -> float:
    """Read a number.

    Raises:
        BadRequest: it is missing without a default, no number, or out of range.
    """
    value = query.get(name)
    if value is None and default is not None:
        return default
    try:
        read = float(text(query, name))
    except ValueError:
        raise BadRequest(f"{name} must be a number.") from None
    if not (math.isfinite(read) and least <= read <= most):
        raise BadRequest(f"{name} must be from {least:g} to {most:g}.")
    return read
