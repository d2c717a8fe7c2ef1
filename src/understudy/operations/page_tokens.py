"""Pagination tokens: where a listing goes on, opaque to the caller.

Owns their form, base64url of JSON.  Refuses what was not made here; each service has its own error for it.
Main functions: :func:`page_token`, :func:`parse_page_token`.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

_MAX_LENGTH = 8192


def page_token(value: Any) -> str:
    """Make a token of JSON-able data."""
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


def parse_page_token(token: str, *types: type) -> list[Any]:
    """Read a token that is a list of values of the given types; None is allowed for each.

    Raises:
        ValueError: it is no such token.

    >>> parse_page_token(page_token(["a", 7]), str, int)
    ['a', 7]
    """
    if len(token) > _MAX_LENGTH:
        raise ValueError("token too long")
    try:
        value = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, RecursionError, ValueError) as error:
        raise ValueError("not a token") from error
    if not isinstance(value, list) or len(value) != len(types):
        raise ValueError("not a token of this listing")
    for member, wanted in zip(value, types, strict=True):
        if member is not None and type(member) is not wanted:
            raise ValueError("not a token of this listing")
    return value
