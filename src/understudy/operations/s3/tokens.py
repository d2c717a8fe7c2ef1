"""Continuation tokens: opaque to callers, the last name seen to us."""

from __future__ import annotations

import base64
import binascii
import json

from understudy.operations.s3.errors import invalid_argument


def render_token(after: str) -> str:
    """Render the token that resumes behind a name."""
    return base64.urlsafe_b64encode(json.dumps({"after": after}).encode()).decode()


def parse_token(token: str) -> str:
    """Read a token.

    Raises:
        ApiError: InvalidArgument 400.

    >>> parse_token(render_token("a/b"))
    'a/b'
    """
    try:
        after = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))["after"]
    except (binascii.Error, ValueError, KeyError, TypeError):
        after = None
    if not isinstance(after, str):
        raise invalid_argument("The continuation token provided is incorrect", "continuation-token", token)
    return after
