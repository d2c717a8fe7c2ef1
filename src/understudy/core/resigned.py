"""Checks requests that differ from one already verified in nothing but invocation id, body and signature.

Owns :class:`Recipe`: what of SigV4's computation can be done beforehand.  Refuses to judge anything but the
signature itself: whoever keeps a recipe answers for the rest of the request being the same to the byte, for
the credentials still being in force and for the request's age.  A recipe that does not reproduce the
signature of the very request it was made from is not given out.  Main function: :func:`recipe_of`.

Source: as ``core.signing``, whose ``verify`` decides everything else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime

from understudy.core.canonical import canonical_path
from understudy.core.signatures import SignedRequest, Verified

INVOCATION_ID = b"amz-sdk-invocation-id"  # every SDK of AWS sends another one with each request

_SIGNED_HEADERS = re.compile(rb"SignedHeaders=([^\s,]+)")


class Recipe:
    """How the requests of one family are signed.

    Attributes:
        at_s: Unix time that they name (``X-Amz-Date``).
    """

    __slots__ = ("_after", "_before", "_key", "_text", "at_s")

    def __init__(self, before: bytes, after: bytes, verified: Verified) -> None:
        self._before = before
        self._after = after
        self._key = verified.signing_key
        self._text = f"AWS4-HMAC-SHA256\n{verified.amz_date}\n{verified.scope}\n".encode()
        date = datetime.strptime(verified.amz_date, "%Y%m%dT%H%M%SZ")
        self.at_s = date.replace(tzinfo=UTC).timestamp()

    def holds(self, invocation_id: bytes, body_sha256: str, signature: bytes) -> bool:
        """Check one request's signature, in constant time.

        Args:
            invocation_id: Empty where the family has none, or does not sign it.
            body_sha256: Hex digest.
            signature: Hex.
        """
        canonical = self._before + invocation_id + self._after + body_sha256.encode()
        text = self._text + hashlib.sha256(canonical).hexdigest().encode()
        return hmac.compare_digest(hmac.digest(self._key, text, "sha256").hex().encode(), signature)


def recipe_of(request: SignedRequest, verified: Verified) -> Recipe | None:
    """Prepare the check of a verified request's kin.

    Args:
        request: Signed in its Authorization header.
    Returns:
        None for requests with a query, with a stated payload hash, with several invocation ids, or of which
        the prepared computation gives another signature than the verified one.
    """
    values: dict[bytes, bytes] = {}
    for name, value in request.headers:
        if name == INVOCATION_ID and name in values:
            return None
        trimmed = b" ".join(value.split())
        values[name] = values[name] + b"," + trimmed if name in values else trimmed
    found = _SIGNED_HEADERS.search(values.get(b"authorization", b""))
    if found is None or request.raw_query or request.body_sha256 is None or b"x-amz-content-sha256" in values:
        return None
    names = found[1].split(b";")
    if any(name not in values for name in names):
        return None
    start = b"\n".join((request.method.upper().encode(), canonical_path(request.raw_path), b""))
    before, after, into = start, b"", False
    for name in names:
        if name == INVOCATION_ID:
            before, into = before + b"\n" + name + b":", True
        elif into:
            after += b"\n" + name + b":" + values[name]
        else:
            before += b"\n" + name + b":" + values[name]
    end = b"\n\n" + found[1] + b"\n"
    before, after = (before, after + end) if into else (before + end, b"")
    recipe = Recipe(before, after, verified)
    invocation_id = values[INVOCATION_ID] if into else b""
    return recipe if recipe.holds(invocation_id, request.body_sha256, verified.signature.encode()) else None
