"""Smithy RPC v2 CBOR: enough of it to refuse it in its own tongue.

boto3 and the CLI speak JSON or query to CloudWatch; a client that insists on CBOR gets a modelled
error it can read.  Main function: :func:`render_error`.  Source: RFC 8949, section 3.
"""

from __future__ import annotations

from understudy.aws.messages import Answer
from understudy.core.errors import ApiError


def render_error(error: ApiError) -> Answer:
    """Write an error as a CBOR map of two text strings."""
    body = b"\xa2" + b"".join(_text(part) for part in ("__type", error.code, "message", error.message))
    headers = {"content-type": "application/cbor", "smithy-protocol": "rpc-v2-cbor"}
    return Answer(error.status, headers, body)


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 24:
        return bytes((0x60 | len(raw),)) + raw
    return b"\x79" + len(raw).to_bytes(2, "big") + raw
