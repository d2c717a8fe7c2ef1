"""List operations: filters, order and pages as SageMaker's List* have them.

Owns the page token: opaque to clients, bound to the order it was given for.
Main function: :func:`find_page`.

Source: botocore's ListModels, ListEndpointConfigs and ListEndpoints (default order: newest first).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from datetime import datetime
from typing import Any, TypeVar

from understudy.core.errors import ValidationException
from understudy.core.ports import Keyed, Query, Records, Stored, page_key

T = TypeVar("T", bound=Keyed)

DEFAULT_PAGE = 10  # botocore, ListEndpoints: "This value defaults to 10."
_SORTS = {"Name": "name", "CreationTime": "created", "Status": "status"}


def find_page(records: Records, kind: type[T], request: dict[str, Any]) -> tuple[list[Stored[T]], str | None]:
    """Read one page.

    Differs from AWS: ``NameContains`` matches letters in either case.

    Args:
        request: Input of a List* operation.
    Returns:
        The records, and the token of the next page if there is one.
    Raises:
        ValidationException: the token is not one of this listing's.
    """
    sort_by = _SORTS[request.get("SortBy", "CreationTime")]
    descending = request.get("SortOrder", "Descending") == "Descending"
    limit = int(request.get("MaxResults", DEFAULT_PAGE))
    order = f"{kind.KIND} {sort_by} {'down' if descending else 'up'}"
    token = request.get("NextToken")
    found = records.find(
        kind,
        Query(
            name_contains=request.get("NameContains"),
            status=request.get("StatusEquals"),
            created_after_s=_seconds(request.get("CreationTimeAfter")),
            created_before_s=_seconds(request.get("CreationTimeBefore")),
            modified_after_s=_seconds(request.get("LastModifiedTimeAfter")),
            modified_before_s=_seconds(request.get("LastModifiedTimeBefore")),
            sort_by=sort_by,
            descending=descending,
            after=None if token is None else parse_token(token, order),
            limit=limit + 1,  # one more tells whether there is a next page
        ),
    )
    page = found[:limit]
    if len(found) <= limit:
        return page, None
    return page, render_token(page_key(page[-1].value, sort_by), order)


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def render_token(after: tuple[float | str, str], order: str) -> str:
    """Write the token of the page that begins behind a record."""
    return base64.urlsafe_b64encode(json.dumps([order, *after]).encode()).decode()


def parse_token(token: str, order: str) -> tuple[float | str, str]:
    """Read a token back.

    Args:
        order: What is listed in which order; the token must be of the same.
    Raises:
        ValidationException: it is not.

    >>> parse_token(render_token((1.5, "churn"), "endpoint created up"), "endpoint created up")
    (1.5, 'churn')
    """
    refusal = ValidationException(
        "Invalid NextToken: pass the NextToken of the response before, with the same SortBy and SortOrder."
    )
    try:
        parts = json.loads(base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise refusal from error
    if not isinstance(parts, list) or len(parts) != 3 or parts[0] != order:
        raise refusal
    value, name = parts[1:]
    of_time = order.split()[1] == "created"
    if of_time:
        fits = isinstance(value, float) and math.isfinite(value)
    else:
        fits = isinstance(value, str) and _storable(value)
    if not fits or not isinstance(name, str) or not _storable(name):
        raise refusal
    return value, name


def _storable(text: str) -> bool:
    """No NUL and no half of a surrogate pair: databases take neither."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
