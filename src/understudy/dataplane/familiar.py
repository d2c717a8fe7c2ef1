"""Requests of SDKs that differ from an earlier one in nothing but what the SDK makes anew for each.

Owns :func:`cut` and :class:`Familiar`.  boto3 gives each request an invocation id and so, where it signs, a
signature of its own: with these two cut out, its heads repeat for a second at least (``X-Amz-Date``), and
neither parsing nor the larger part of the signature's check need be done again.  Refuses all but the one
spelling and shape that are known, so that what is cut out can't mean anything else.
"""

from __future__ import annotations

from understudy.core.resigned import INVOCATION_ID, Recipe
from understudy.dataplane.guard import Head

_ID_LINE = b"\r\n" + INVOCATION_ID + b": "
_AUTHORIZATION_LINE = b"\r\nAuthorization: AWS4-HMAC-SHA256 "
_SIGNATURE = b"Signature="
_ID_BYTES = 36
_SIGNATURE_BYTES = 64
_HEX = b"0123456789abcdef"


class Familiar:
    """What is known of a head but for the parts cut out.

    Attributes:
        head: As parsed, with an invocation id and a signature that are an earlier request's.
        recipe: For checking the signature; None where signatures are not checked.
        era: Of the credentials that the recipe belongs to; see ``Gate.era``.
    """

    __slots__ = ("era", "head", "recipe")

    def __init__(self, head: Head, recipe: Recipe | None, era: int) -> None:
        self.head = head
        self.recipe = recipe
        self.era = era


def cut(raw: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Cut the invocation id and the signature out of a head.

    Args:
        raw: From the request line to the empty line.
    Returns:
        (what is left, with a NUL for each cut; the invocation id or nothing; the signature or nothing), or
        None when there is nothing to cut.

    >>> cut(b"POST / HTTP/1.1\\r\\namz-sdk-invocation-id: " + b"ab01-" * 7 + b"2\\r\\n\\r\\n")[0]
    b'POST / HTTP/1.1\\r\\namz-sdk-invocation-id: \\x00\\r\\n\\r\\n'
    """
    if b"\0" in raw:
        return None  # no head, and not to be mistaken for a cut one
    invocation_id = signature = b""
    at = raw.find(_ID_LINE)
    if at >= 0:
        start = at + len(_ID_LINE)
        end = start + _ID_BYTES
        invocation_id = raw[start:end]
        if raw[end : end + 2] != b"\r\n" or invocation_id.translate(None, _HEX + b"-"):
            return None
        raw = raw[:start] + b"\0" + raw[end:]
    at = raw.find(_AUTHORIZATION_LINE)
    if at >= 0:
        end = raw.find(b"\r\n", at + 2)
        start = end - _SIGNATURE_BYTES
        signature = raw[start:end]
        if raw[start - len(_SIGNATURE) : start] != _SIGNATURE or signature.translate(None, _HEX):
            return None
        raw = raw[:start] + b"\0" + raw[end:]
    return (raw, invocation_id, signature) if invocation_id or signature else None
